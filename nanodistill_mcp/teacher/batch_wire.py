"""A question in the very form LiteLLM would send it, and an answer read as LiteLLM would read it, with nothing sent.

A batch holds the bodies of ordinary requests, and its results hold the bodies of ordinary responses. LiteLLM writes and
reads both, each provider in its own way, so it is given a connection that keeps the request and plays the response.
"""

import asyncio
import json
import os
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nanodistill_mcp.teacher.libraries import PLAYED_OPENAI, litellm
from nanodistill_mcp.teacher.models import ModelFacts

if TYPE_CHECKING:
    import httpx

_AT_ONCE = 16
_NOTHING_SENT_YET = [{"role": "user", "content": "."}]
_PLAYED_ANTHROPIC = {
    "id": "played",
    "type": "message",
    "role": "assistant",
    "model": "played",
    "content": [{"type": "text", "text": "."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


@dataclass(frozen=True)
class WireForm:
    """One request as it would go over the wire."""

    url: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class _Exchange:
    status: int
    played: dict[str, Any]
    form: WireForm | None = None


_current: ContextVar[_Exchange] = ContextVar("_current")


class Rehearsal:
    """LiteLLM with a connection that leads nowhere. One event loop only.

    Args:
        facts: The teacher.
        credentials: The address and key that LiteLLM is called with.
    """

    def __init__(self, facts: ModelFacts, credentials: dict[str, str]) -> None:
        self._facts = facts
        self._credentials = credentials
        self._connection = _connection()
        self._client = _client(facts.provider, self._connection, credentials)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._connection.aclose()

    async def form(self, sent: dict[str, Any] | None = None) -> WireForm:
        """What LiteLLM makes of a request; without one, of the shortest there is."""
        played = _PLAYED_ANTHROPIC if self._facts.provider == "anthropic" else PLAYED_OPENAI
        exchange = _Exchange(200, played)
        await self._play(exchange, sent or {"messages": _NOTHING_SENT_YET, "max_tokens": 16})
        if exchange.form is None:
            raise RuntimeError("LiteLLM went past the connection it was given.")
        return exchange.form

    async def response(self, status: int, body: dict[str, Any]) -> Any:
        """What LiteLLM makes of a response's body. An HTTP error is raised as LiteLLM raises it."""
        usage = body.get("usage")
        # A service tier of "batch" has its own price in LiteLLM for some models; the discount is ours to give, once.
        plain = {**body, "usage": _without_tier(usage)} if isinstance(usage, dict) else body
        request = {"messages": _NOTHING_SENT_YET, "max_tokens": 16}
        return await self._play(_Exchange(status, _without_tier(plain)), request)

    async def _play(self, exchange: _Exchange, sent: dict[str, Any]) -> Any:
        async with self._slots:
            token = _current.set(exchange)
            try:
                return await litellm().acompletion(
                    **sent,
                    model=self._facts.model,
                    max_retries=0,
                    drop_params=True,
                    timeout=60,
                    client=self._client,
                    **self._credentials,
                )
            finally:
                _current.reset(token)


def _without_tier(part: Any) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "service_tier"}


def _connection() -> "httpx.AsyncClient":
    import httpx

    class Nowhere(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            exchange = _current.get()
            body = json.loads(await request.aread())
            exchange.form = WireForm(str(request.url), dict(request.headers), body)
            return httpx.Response(exchange.status, json=exchange.played, request=request)

    return httpx.AsyncClient(transport=Nowhere())


def _client(provider: str, connection: Any, credentials: dict[str, str]) -> Any:
    """The object that LiteLLM takes as ``client`` for this provider."""
    match provider:
        case "openai":
            from openai import AsyncOpenAI

            address = credentials.get("api_base") or os.environ.get("OPENAI_API_BASE")  # LiteLLM reads it, the SDK not
            key = credentials.get("api_key")
            return AsyncOpenAI(api_key=key, base_url=address, http_client=connection, max_retries=0)
        case "azure":
            from openai import AsyncAzureOpenAI

            return AsyncAzureOpenAI(
                api_key="none",
                azure_endpoint="http://nowhere",
                api_version="none",
                http_client=connection,
                max_retries=0,
            )
        case _:
            handler = import_module("litellm.llms.custom_httpx.http_handler").AsyncHTTPHandler()
            handler.client = connection
            return handler
