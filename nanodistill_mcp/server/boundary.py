"""The one place where failures become text for the agent, and where a tool's arguments are made strict."""

import difflib
import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, get_args

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.types import CallToolRequestParams, CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ValidationError

from nanodistill_mcp.errors import NanodistillError, machine_error

P = ParamSpec("P")
R = TypeVar("R")


def agent_facing(tool: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Let an anticipated failure reach the agent as text; let a defect stay a crash, whose text does not."""

    @functools.wraps(tool)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await tool(*args, **kwargs)
        except NanodistillError as error:
            raise ToolError(str(error)) from error
        except OSError as error:
            raise _told_by_the_machine(error, ToolError) from error

    return call


def reader_facing(resource: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """The same for a resource."""

    @functools.wraps(resource)
    async def read(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await resource(*args, **kwargs)
        except NanodistillError as error:
            raise ResourceNotFoundError(str(error)) from error
        except OSError as error:
            raise _told_by_the_machine(error, ResourceNotFoundError) from error

    return read


def _told_by_the_machine(error: OSError, kind: type[Exception]) -> Exception:
    known = machine_error(error)
    return kind(str(known)) if known else error


def strict_tool(
    tool: Callable[..., Awaitable[Any]],
    *,
    title: str,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = True,
    open_world: bool = False,
    found_by: str = "",
    shown_by: dict[str, Any] | None = None,
) -> Tool:
    """A tool that says it takes no other arguments, with all four annotations set.

    ``found_by`` are words its name lacks: Claude Code shows its model only names, until it looks for a tool.
    ``shown_by`` names the page that shows its answers.
    """
    annotations = ToolAnnotations(
        read_only_hint=read_only, destructive_hint=destructive, idempotent_hint=idempotent, open_world_hint=open_world
    )
    meta = {**({"anthropic/searchHint": found_by} if found_by else {}), **(shown_by or {})} or None
    made = Tool.from_function(
        agent_facing(tool), title=title, annotations=annotations, meta=meta, structured_output=False
    )
    made.description = _unwrapped(made.description)
    arguments = made.fn_metadata.arg_model
    made.parameters = _without_titles({**made.parameters, "additionalProperties": False})
    answers = tool.__annotations__["return"]  # the reply, or Annotated[CallToolResult, the reply]
    reply = _reply(get_args(answers)[1] if get_args(answers) else answers)
    made.fn_metadata = reply.model_copy(update={"arg_model": arguments})
    return made


def _unwrapped(description: str) -> str:
    """A docstring without the line ends and the indentation it has for readers of the source."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in description.split("\n\n"))


@functools.cache
def _reply(reply: type[BaseModel]) -> FuncMetadata:
    """A reply's schema and check, which the SDK would make for each tool anew: seven answer with a StageReply."""
    made = FuncMetadata(arg_model=ArgModelBase, output_model=reply)
    made.output_schema = _without_titles(made.output_schema)
    return made


class PlainArgumentErrors(Extension):
    """Says what is wrong with arguments, what is accepted and the nearest name, instead of a library's report.

    The SDK drops unknown arguments, so a misspelt option would silently do nothing. They are refused here and not by the
    tools' models, because building each of those a second time would be a hundredth of the server's start.
    """

    identifier = "io.github.nanodistill/plain-argument-errors"

    def __init__(self, tools: list[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Check the arguments before the SDK does."""
        tool = self._tools.get(params.name)
        if tool is None:
            near = difflib.get_close_matches(params.name, self._tools, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            return _error(f"There is no tool {params.name[:64]!r}.{hint} Tools: {', '.join(self._tools)}.")
        lines = _problems(tool, params.arguments or {})
        return _error(_told(tool, lines)) if lines else await call_next(ctx)


def _problems(tool: Tool, given: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    try:
        tool.fn_metadata.validate_arguments(given)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            where = ".".join(str(part) for part in problem["loc"])
            lines.append(f"{where}: {'required' if problem['type'] == 'missing' else problem['msg']}")
    accepted: dict[str, Any] = tool.parameters.get("properties", {})
    for name in (each for each in given if each not in accepted):
        near = difflib.get_close_matches(name, accepted, n=1)
        lines.append(f"{name[:64]}: not an argument of this tool{f'; did you mean {near[0]}?' if near else ''}")
    return lines


def _told(tool: Tool, lines: list[str]) -> str:
    accepted = list(tool.parameters.get("properties", {}))
    return f"The arguments of {tool.name} are not accepted: {'; '.join(lines)}. Accepted: {', '.join(accepted)}. Correct them and call {tool.name} again."


def _error(text: str) -> CallToolResult:
    return CallToolResult(is_error=True, content=[TextContent(text=text)])


def _without_titles(schema: Any) -> Any:
    """Generated titles repeat the names and cost tokens in every conversation."""
    if isinstance(schema, dict):
        return {k: _without_titles(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}  # pyright: ignore[reportUnknownVariableType]
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema  # pyright: ignore[reportUnknownVariableType]
