"""The short way to a server of one's own that speaks OpenAI's format: LiteLLM's own request, without LiteLLM's own work.

LiteLLM takes about four milliseconds of CPU for a call, and such a server may answer hundreds of calls a second. What it
sends differs from one question to the next only in the question's words, so it writes one request with marks in their place,
and the others are filled in. What is sent and read so is first held against a call that LiteLLM makes itself; where the two
differ, LiteLLM goes on making the calls. Whatever comes back that is not a plain answer, a failure above all, is played to
LiteLLM as if it had asked: what it makes of it stays what it was.
"""

import json
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from nanodistill_mcp.teacher.libraries import PLAYED_OPENAI, litellm
from nanodistill_mcp.teacher.models import ModelFacts
from nanodistill_mcp.teacher.reading import Completion, read_completion

if TYPE_CHECKING:
    import httpx

_SYSTEM, _USER = (f"{word}-{secrets.token_hex(16)}" for word in ("system", "user"))
_MARKED = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
_PLAIN_ENDINGS = ("stop", "length", "tool_calls", "content_filter")
_PLAIN_MESSAGE = {
    "role",
    "content",
    "tool_calls",
    "refusal",
    "function_call",
    "annotations",
    "audio",
    "reasoning_content",
    "reasoning",
}
_PLAIN_USAGE = {
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "reasoning_tokens",
}
_OF_THE_CONNECTION = ("content-encoding", "content-length", "transfer-encoding", "connection")


@dataclass(frozen=True, repr=False)
class Reply:
    """What a provider replied."""

    completion: Completion
    headers: Mapping[str, Any]
    response: Any
    """LiteLLM's; None where the answer was read without it."""
    raw: Any = None
    """The HTTP response where LiteLLM has not seen it yet."""


def reply_of(response: Any) -> Reply:
    """A reply as LiteLLM read it."""
    headers: dict[str, Any] = response._hidden_params.get("additional_headers") or {}  # noqa: SLF001 - where LiteLLM puts them
    return Reply(read_completion(response), headers, response)


def takes_direct_line(facts: ModelFacts, credentials: Mapping[str, str]) -> bool:
    """Whether a teacher is a server with an address of its own that speaks OpenAI's format, and unknown to LiteLLM."""
    own_address = facts.provider == "openai" and "api_base" in credentials
    return own_address and not facts.mapped and "responses/" not in facts.model


class DirectLine:
    """Requests to one endpoint. One event loop only.

    Args:
        fixed: What LiteLLM is called with besides the request: the model, the address, the key, the timeout.
        own_prices: Whether the operator gave the prices; if not, an answer that LiteLLM knows a price for is read by it.
    """

    def __init__(self, fixed: dict[str, Any], *, own_prices: bool) -> None:
        from openai import AsyncOpenAI

        self._fixed = fixed
        self._own_prices = own_prices
        self._forms: dict[str, _Form | None] = {}
        """By what is asked besides the messages; None where LiteLLM makes the calls."""
        self._http: Any = import_module("litellm.llms.openai.common_utils").BaseOpenAILLM.get_async_http_client()
        self._played: Any = _played_to(self._http)
        self._client = AsyncOpenAI(
            api_key=fixed["api_key"], base_url=fixed["api_base"], http_client=self._played, max_retries=0
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._played.aclose()
        await self._http.aclose()

    async def send(self, sent: dict[str, Any]) -> Reply:
        """Make one request.

        Raises:
            Exception: As LiteLLM raises it.
        """
        import httpx

        question = _question(sent)
        if question is None:
            return await self._by_litellm(sent, _Stage())
        key = json.dumps({name: value for name, value in sent.items() if name != "messages"}, default=str)
        if key not in self._forms:
            self._forms[key] = None  # until it is proved
            return await self._proving(key, sent, question)
        form = self._forms[key]
        request = form.filled(*question) if form else None
        if request is None:
            return await self._by_litellm(sent, _Stage())
        try:
            raw = await self._http.send(request)
        except httpx.HTTPError as error:
            return await self._by_litellm(sent, _Stage(error))
        completion = _plain(raw)
        if completion is not None:
            return Reply(completion, raw.headers, None, raw)
        if raw.is_success:
            self._forms[key] = None  # its answers are not as plain as the first one was
        return await self._by_litellm(sent, _Stage(raw))

    async def as_read_by_litellm(self, sent: dict[str, Any], reply: Reply) -> Any:
        """LiteLLM's response object of an answer that was read without it."""
        return (await self._by_litellm(sent, _Stage(reply.raw))).response

    async def _proving(self, key: str, sent: dict[str, Any], question: tuple[str, str]) -> Reply:
        """Let LiteLLM make a call, and see whether the short way would have come to the same."""
        form = await self._marked(sent)
        stage = _Stage()
        reply = await self._by_litellm(sent, stage)
        filled = form.filled(*question) if form else None
        completion = _plain(stage.response) if stage.response is not None else None
        if filled is not None and completion is not None and stage.requests == 1 and _same(filled, stage.request):
            usd = reply.completion.usd
            if replace(reply.completion, usd=None) == completion and (self._own_prices or not usd):
                self._forms[key] = form
        return reply

    async def _marked(self, sent: dict[str, Any]) -> "_Form | None":
        """The request as LiteLLM writes it, with marks where the question stands."""
        import httpx

        stage = _Stage(httpx.Response(200, json=PLAYED_OPENAI))
        try:
            await self._by_litellm({**sent, "messages": _MARKED}, stage)
        except Exception:  # noqa: BLE001 - the call itself will tell
            return None
        return _form(stage.request)

    async def _by_litellm(self, sent: dict[str, Any], stage: "_Stage") -> Reply:
        token = _on_stage.set(stage)
        try:
            response = await litellm().acompletion(**deepcopy(sent), **self._fixed, client=self._client)
        finally:
            _on_stage.reset(token)
        return reply_of(response)


class _Stage:
    """What is played to LiteLLM instead of sending its first request, and what it was that it sent."""

    def __init__(self, played: "httpx.Response | Exception | None" = None) -> None:
        self.played = played
        self.requests = 0
        self.request: Any = None
        self.response: Any = None


_on_stage: ContextVar[_Stage] = ContextVar("_on_stage")


def _played_to(http: "httpx.AsyncClient") -> "httpx.AsyncClient":
    """A client whose first response is the one on stage, if any; further ones come over ``http``."""
    import httpx

    class Played(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            stage = _on_stage.get()
            stage.requests += 1
            stage.request = request
            played, stage.played = stage.played, None
            if isinstance(played, Exception):
                raise played
            stage.response = played if played is not None else await http.send(request)
            headers = [
                (name, value)
                for name, value in stage.response.headers.multi_items()
                if name.lower() not in _OF_THE_CONNECTION
            ]
            return httpx.Response(
                stage.response.status_code, headers=headers, content=stage.response.content, request=request
            )

    return httpx.AsyncClient(transport=Played(), follow_redirects=True)


class _Form:
    """A request with two gaps."""

    def __init__(self, request: "httpx.Request", parts: tuple[bytes, bytes, bytes]) -> None:
        import httpx

        self._url = request.url
        self._headers = httpx.Headers([pair for pair in request.headers.raw if pair[0].lower() != b"content-length"])
        self._extensions = {name: value for name, value in request.extensions.items() if name == "timeout"}
        self._parts = parts

    def filled(self, system: str, user: str) -> "httpx.Request | None":
        """The request of one question; None when its words cannot be sent."""
        import httpx

        before, between, after = self._parts
        try:
            body = b"".join((before, _encoded(system), between, _encoded(user), after))
        except UnicodeEncodeError:
            return None
        return httpx.Request("POST", self._url, headers=self._headers, content=body, extensions=dict(self._extensions))


def _form(request: "httpx.Request | None") -> _Form | None:
    if request is None or request.method != "POST":
        return None
    before, mark, rest = request.content.partition(_encoded(_SYSTEM))
    between, other, after = rest.partition(_encoded(_USER))
    parts = (before, between, after)
    marks = (_SYSTEM.encode(), _USER.encode())
    if not (mark and other) or any(each in part for each in marks for part in parts):
        return None
    return _Form(request, parts)


def _encoded(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


def _same(one: "httpx.Request", other: Any) -> bool:
    """Whether two requests are the same for who gets them."""
    return (one.method, one.url, one.content, one.headers) == (other.method, other.url, other.content, other.headers)


def _question(sent: dict[str, Any]) -> tuple[str, str] | None:
    """The two texts of a request that is nothing but a question; None where there is more to it, as when it is asked again."""
    match sent["messages"]:
        case [{"role": "system", "content": str(system), **more}, {"role": "user", "content": str(user), **further}]:
            return None if more or further else (system, user)
        case _:
            return None


def _plain(raw: Any) -> Completion | None:
    """Read a response that holds nothing but an answer and what it took, and that LiteLLM passes on as it is."""
    if raw.status_code != 200 or "json" not in raw.headers.get("content-type", ""):  # noqa: PLR2004
        return None
    try:
        body = json.loads(raw.content)
        (choice,), usage = body["choices"], body["usage"]
        message, ending = choice["message"], choice["finish_reason"]
        text = _text(message, ending)
        tokens = (usage["prompt_tokens"], usage["completion_tokens"])
        details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
        cached: Any = details.get("cached_tokens") or 0
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    counts = (*tokens, cached)
    if (
        text is None
        or body.get("error")
        or usage.keys() - _PLAIN_USAGE
        or any(type(count) is not int for count in counts)
    ):
        return None
    return Completion(text, ending, *tokens, cached, usd=None)


def _text(message: dict[str, Any], ending: str) -> str | None:
    """The answer in a message; None when it holds anything else."""
    more = {name for name, value in message.items() if value} - {"role", "content", "tool_calls"}
    if more or message.keys() - _PLAIN_MESSAGE or message["role"] != "assistant" or ending not in _PLAIN_ENDINGS:
        return None
    content, calls = message.get("content"), message.get("tool_calls")
    if not calls:
        # A reply that begins with its thinking is parted by LiteLLM.
        return content if isinstance(content, str) and not content.startswith("<") and ending != "tool_calls" else None
    ((kind, function),) = ((call["type"], call["function"]) for call in cast("list[dict[str, Any]]", calls))
    plain = kind == "function" and function["name"] != "multi_tool_use.parallel" and ending in ("tool_calls", "length")
    arguments = function["arguments"]
    return arguments if plain and isinstance(arguments, str) else None
