"""A model's addresses: OpenAI's form of asking, and the two that model hosts know, ``/ping`` and ``/invocations``."""

import sys
import time
import traceback
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from nanodistill_mcp.serving.answering import Answer, Model, Piece, Question, answer, answers
from nanodistill_mcp.serving.bodies import (
    Chat,
    Completion,
    Invocation,
    RefusedError,
    Sampling,
    read_body,
    read_object,
)
from nanodistill_mcp.serving.parting import Parted
from nanodistill_mcp.serving.wire import Door, Reply, read_json_bytes
from nanodistill_mcp.student.questions import Ask
from nanodistill_mcp.student.requests import Message

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_Handler = Callable[[Reply, dict[str, Any]], Awaitable[None]]
_KNOWN_AS = ("default", "default_model")


@dataclass(frozen=True)
class Served:
    """What a model is served as, and how it is asked."""

    name: str
    prepared: Callable[[list[Message]], list[Message]]
    """A conversation as the model is used to it."""
    parted: Parted
    max_tokens: int
    """Of an answer, where the caller names no number."""
    temperature: float = 0.0
    """How it is drawn, where the caller does not say."""
    created: int = field(default_factory=lambda: int(time.time()))


class ModelApp:
    """The ASGI application."""

    def __init__(self, model: Model, served: Served, door: Door) -> None:
        self._model = model
        self._served = served
        self._door = door
        self._routes: dict[str, dict[str, _Handler]] = {
            "/ping": {"GET": self._ping},
            "/health": {"GET": self._ping},
            "/invocations": {"POST": self._invoke},
            "/v1/models": {"GET": self._models},
            f"/v1/models/{served.name}": {"GET": self._one_model},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._complete},
        }

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":  # nothing here speaks anything else
            return
        reply = Reply(send)
        try:
            self._door.check(scope)
            handler = self._handler(scope["path"], scope["method"])
            body = read_object(await read_json_bytes(scope, receive)) if scope["method"] == "POST" else {}
        except RefusedError as refused:
            await reply.refused(refused)
            return
        async with _while_connected(receive):
            await _carried_out(handler, reply, body)

    def _handler(self, path: str, method: str) -> _Handler:
        handlers = self._routes.get(path)
        if handlers is None:
            raise RefusedError(404, "There is nothing at this address.", code="not_found")
        if handler := handlers.get(method):
            return handler
        refused = RefusedError(405, f"This address takes {' and '.join(handlers)}.")
        refused.headers["allow"] = ", ".join(handlers)
        raise refused

    async def _ping(self, reply: Reply, _: dict[str, Any]) -> None:
        loaded = self._model.loaded is not None
        await reply.json({"status": "ok" if loaded else "loading"}, 200 if loaded else 503)

    async def _models(self, reply: Reply, _: dict[str, Any]) -> None:
        await reply.json({"object": "list", "data": [self._as_model()]})

    async def _one_model(self, reply: Reply, _: dict[str, Any]) -> None:
        await reply.json(self._as_model())

    def _as_model(self) -> dict[str, Any]:
        served = self._served
        return {"id": served.name, "object": "model", "created": served.created, "owned_by": "nanodistill"}

    async def _invoke(self, reply: Reply, value: dict[str, Any]) -> None:
        if "messages" in value:
            await self._chat(reply, value)
            return
        body = read_body(Invocation, value)
        assert isinstance(body, Invocation)  # noqa: S101 - what was read
        questions = [
            self._question([{"role": "user", "content": text}], body.sampling, body.most_tokens) for text in body.texts
        ]
        found = [_prediction(each) for each in await answers(self._model, questions)]
        await reply.json(found[0] if body.instances is None else {"predictions": found})

    async def _chat(self, reply: Reply, value: dict[str, Any]) -> None:
        body = read_body(Chat, value)
        assert isinstance(body, Chat)  # noqa: S101 - what was read
        self._check_name(body.model)
        messages = [
            {"role": "system" if said.role == "developer" else said.role, "content": said.content}
            for said in body.messages
        ]
        question = self._question(messages, body, body.max_completion_tokens or body.max_tokens)
        head = {**self._head("chatcmpl", "chat.completion"), "object": "chat.completion"}
        if body.stream:
            wants_usage = body.stream_options is not None and body.stream_options.include_usage
            await self._stream(
                reply, question, {**head, "object": "chat.completion.chunk"}, _delta, wants_usage=wants_usage
            )
            return
        found = await answer(self._model, question)
        message = {"role": "assistant", "content": found.answer, **_reasoning(found.thinking)}
        choice = {"index": 0, "message": message, "finish_reason": found.finish, "logprobs": None}
        await reply.json({**head, "choices": [choice], "usage": found.usage})

    async def _complete(self, reply: Reply, value: dict[str, Any]) -> None:
        body = read_body(Completion, value)
        assert isinstance(body, Completion)  # noqa: S101 - what was read
        self._check_name(body.model)
        question = self._question([{"role": "user", "content": body.prompt}], body, body.max_tokens)
        head = self._head("cmpl", "text_completion")
        if body.stream:
            wants_usage = body.stream_options is not None and body.stream_options.include_usage
            await self._stream(reply, question, head, _text, wants_usage=wants_usage)
            return
        found = await answer(self._model, question)
        choice = {"index": 0, "text": found.answer, "finish_reason": found.finish, "logprobs": None}
        await reply.json({**head, "choices": [choice], "usage": found.usage})

    async def _stream(
        self,
        reply: Reply,
        question: Question,
        head: dict[str, Any],
        shape: Callable[[Piece], dict[str, Any]],
        *,
        wants_usage: bool,
    ) -> None:
        """Send an answer as it comes; the status waits until the question is known to be one that can be asked."""
        usage: dict[str, Any] = {"usage": None} if wants_usage else {}
        async with question.written(self._model) as pieces:
            async for piece in pieces:
                if piece.says_something:
                    await reply.event({**head, "choices": [shape(piece)], **usage})
                if piece.finish is None:
                    continue
                if wants_usage:
                    await reply.event({**head, "choices": [], "usage": piece.usage})
                await reply.end_events()

    def _question(self, messages: list[Message], sampling: Sampling, max_tokens: int | None) -> Question:
        ask = Ask(
            id=0,
            messages=self._served.prepared(messages),
            max_tokens=max_tokens or self._served.max_tokens,
            temperature=self._served.temperature if sampling.temperature is None else sampling.temperature,
            top_p=sampling.top_p or 1.0,
            seed=sampling.seed,
        )
        return Question(ask, self._served.parted, sampling.stops)

    def _check_name(self, name: str | None) -> None:
        if name is not None and name not in (self._served.name, *_KNOWN_AS):
            raise RefusedError(
                404, f"The model served here is '{self._served.name}'.", param="model", code="model_not_found"
            )

    def _head(self, prefix: str, kind: str) -> dict[str, Any]:
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self._served.name,
        }


async def _carried_out(handler: _Handler, reply: Reply, body: dict[str, Any]) -> None:
    try:
        await handler(reply, body)
    except RefusedError as refused:
        await reply.refused(refused)
    except Exception:  # noqa: BLE001 - the boundary: whoever asked learns that it failed, the log learns why
        traceback.print_exc(file=sys.stderr)
        await reply.refused(RefusedError(500, "The server failed at this request; its log says where."))


@asynccontextmanager
async def _while_connected(receive: "Receive") -> AsyncGenerator[None]:
    """Give the block up when the client goes away."""

    async def watch(scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, scope)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()


def _prediction(found: Answer) -> dict[str, Any]:
    return {"output": found.answer, **_reasoning(found.thinking), "finish_reason": found.finish, "usage": found.usage}


def _reasoning(thinking: str) -> dict[str, str]:
    return {"reasoning_content": thinking} if thinking else {}


def _delta(piece: Piece) -> dict[str, Any]:
    role = {"role": "assistant", "content": ""} if piece.is_first else {}
    said = {"content": piece.answer} if piece.answer else {}
    delta = {**role, **said, **_reasoning(piece.thinking)}
    return {"index": 0, "delta": delta, "finish_reason": piece.finish, "logprobs": None}


def _text(piece: Piece) -> dict[str, Any]:
    return {"index": 0, "text": piece.answer, "finish_reason": piece.finish, "logprobs": None}
