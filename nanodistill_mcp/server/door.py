"""What every call passes on its way in, and every answer on its way out.

In: not too many at once, not too fast, not too large. Out: no key of this process, and no character that hides or turns
text around, whoever wrote it. An agent that was talked into something, or a loop gone wild, costs refusals and nothing else.
"""

import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension
from mcp.types import CallToolRequestParams, CallToolResult, ContentBlock, TextContent

from nanodistill_mcp.runs.secrets import held, redacted, remember, without_keys
from nanodistill_mcp.runs.texts import clean
from nanodistill_mcp.settings import Settings

CALLS_PER_S = 50
CALLS_AT_ONCE = 400
"""Calls that may come in a burst, before the rate counts."""
MOST_IN_FLIGHT = 64
MAX_ARGUMENT_CHARS = 1024 * 1024
MAX_ERROR_CHARS = 20_000
"""An error may name what the caller gave, and that may be a megabyte."""


class Door(Extension):
    """Stands before all other interceptors, so that what they answer passes here too."""

    identifier = "io.github.nanodistill/door"

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        for endpoint in settings.teachers.values():
            remember(os.environ.get(endpoint.api_key_env, ""))
        self._clock = clock
        self._left = float(CALLS_AT_ONCE)
        self._at = clock()
        self._in_flight = 0

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Let a call in, or say why not; let its answer out."""
        if why := self._why_not(params.arguments or {}):
            return CallToolResult(is_error=True, content=[TextContent(text=why)])
        self._in_flight += 1
        try:
            return shown(await call_next(ctx))
        finally:
            self._in_flight -= 1

    def _why_not(self, arguments: dict[str, Any]) -> str:
        now = self._clock()
        self._left = min(float(CALLS_AT_ONCE), self._left + (now - self._at) * CALLS_PER_S)
        self._at = now
        if self._left < 1:
            return f"Too many calls: more than {CALLS_PER_S} a second. Wait a second, then call again; get_status(wait_s=20) waits for you."
        self._left -= 1
        if self._in_flight >= MOST_IN_FLIGHT:
            return (
                f"{MOST_IN_FLIGHT} calls are already waiting for their answers. Wait for one of them, then call again."
            )
        if _is_longer(arguments, MAX_ARGUMENT_CHARS):
            return (
                f"The arguments hold more than {MAX_ARGUMENT_CHARS // 1024} thousand characters. Give a long table of examples as a "
                "file in an allowed directory (seed_path), or fewer at a time, and call again."
            )
        return ""


def shown(answer: HandlerResult) -> HandlerResult:
    """An answer as it may leave: cleaned, without a key of this process; an error also without what looks like one."""
    if isinstance(answer, CallToolResult):
        hide = partial(redacted if answer.is_error else without_keys, keys=held())
        structured = _each_text(answer.structured_content, hide)
        told = [_block(block, answer.structured_content, structured, hide) for block in answer.content]
        if structured != answer.structured_content or told != answer.content:
            return answer.model_copy(update={"content": told, "structured_content": structured})
        return answer
    return _each_text(answer, partial(without_keys, keys=held())) if isinstance(answer, dict) else answer  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def shown_text(text: str) -> str:
    """A text as it may leave."""
    return clean(without_keys(text))


def _block(block: ContentBlock, before: Any, after: Any, hide: Callable[[str], str]) -> ContentBlock:
    """A block of text that says what the structure says says the same afterwards."""
    if not isinstance(block, TextContent):
        return block
    if before is None and len(block.text) > MAX_ERROR_CHARS:
        return block.model_copy(update={"text": f"{clean(hide(block.text))[:MAX_ERROR_CHARS]}... (cut off)"})
    if before != after and _is_json_of(block.text, before):
        return block.model_copy(update={"text": json.dumps(after, ensure_ascii=False, indent=2)})
    return block.model_copy(update={"text": clean(hide(block.text))})


def _is_json_of(text: str, value: Any) -> bool:
    try:
        return json.loads(text) == value
    except ValueError:
        return False


def _each_text(value: Any, hide: Callable[[str], str]) -> Any:
    match value:
        case str():
            return clean(hide(value))
        case dict():
            return {clean(hide(str(key))): _each_text(each, hide) for key, each in value.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case list():
            return [_each_text(each, hide) for each in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def _is_longer(value: Any, most: int) -> bool:
    """Whether arguments hold more characters than that, found without writing them out."""
    left = most
    waiting: list[Any] = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                left -= len(text)
            case dict() as fields:  # pyright: ignore[reportUnknownVariableType]
                waiting += [*fields.keys(), *fields.values()]  # pyright: ignore[reportUnknownArgumentType]
            case list() as items:  # pyright: ignore[reportUnknownVariableType]
                waiting += items
            case _:
                left -= 1
        if left < 0:
            return True
    return False
