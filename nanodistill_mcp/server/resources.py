"""A run's artifacts as resources. The list is made anew each time, because some clients never ask for templates."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import (
    Annotations,
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    PromptReference,
    Resource,
    ResourceTemplateReference,
)
from pydantic import AnyUrl

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.server import board, prompts
from nanodistill_mcp.server.app import App, status_reply
from nanodistill_mcp.server.artifacts import SCHEME, artifact_list, mime_type, read_whole, uri_of
from nanodistill_mcp.server.boundary import reader_facing
from nanodistill_mcp.server.door import shown_text
from nanodistill_mcp.server.listing import runs_reply
from nanodistill_mcp.server.views import EXAMPLES

DOCTOR = "nanodistill://doctor"
_RUNS_LISTED = 10


class RunsServer(MCPServer[App]):
    """An MCP server whose resource list is what the run folders hold."""

    app: App

    async def list_resources(self) -> list[Resource]:
        """The list of runs, and the artifacts of the newest."""
        listed = [
            Resource(uri=SCHEME, name="runs", title="All runs", mime_type="application/json"),
            Resource(uri=DOCTOR, name="doctor", title="What works on this machine", mime_type="application/json"),
            Resource(uri=board.BOARD, name="board", title="A run's board", mime_type=board.MIME, _meta=board.META),
        ]
        for _, run in zip(range(_RUNS_LISTED), self.app.store.all(), strict=False):
            try:
                names = artifact_list(run)
            except (NanodistillError, OSError):  # a damaged run must not fail the list; get_status says what is wrong
                continue
            listed.append(_resource(run.run_id, "status", None))
            if run.paths.traces_amplified.exists():
                listed.append(_resource(run.run_id, EXAMPLES, None))
            listed += [_resource(run.run_id, artifact.name, artifact.bytes) for artifact in names]
        return listed

    async def list_prompts(self) -> list[Prompt]:
        """The prompts, from one table: made of functions they would cost each start of the server a model a prompt."""
        return prompts.prompt_list()

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[App, Any] | None = None
    ) -> GetPromptResult:
        """A prompt, or an error that says what there is: the SDK's own says nothing."""
        del context
        return prompts.prompt(self.app.store, name, arguments or {})

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[App, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """A resource, with its own media type: the SDK gives all that share a template the template's."""
        found = await super().read_resource(uri, context)
        if isinstance(found, InputRequiredResult):
            return found
        kind = mime_type(str(uri))
        typed = [replace(each, mime_type=kind) if each.mime_type == "text/plain" else each for each in found]
        return [replace(each, content=_shown(each)) for each in typed]


def add_resources(server: RunsServer) -> None:
    """Register what resources/read answers."""

    @server.resource(SCHEME, name="runs", mime_type="application/json")
    async def runs() -> str:
        return runs_reply(server.app).model_dump_json(indent=1)

    @server.resource(DOCTOR, name="doctor", mime_type="application/json")
    async def doctor() -> str:
        from nanodistill_mcp.server.doctor import examine  # noqa: PLC0415 - rarely asked, and a client waits for the start

        return (await examine(server.app.store.home)).model_dump_json(indent=1)

    @server.resource(board.BOARD, name="board", mime_type=board.MIME, meta=board.META)
    async def run_board() -> str:
        return board.page()

    @server.resource(f"{SCHEME}/{{run_id}}/status", name="status", mime_type="application/json")
    @reader_facing
    async def status(run_id: str, ctx: Context) -> str:
        del ctx
        return status_reply(server.app.store.open(run_id), detail=True).model_dump_json(indent=1)

    @server.resource(f"{SCHEME}/{{run_id}}/{{+artifact}}", name="artifact")
    @reader_facing
    async def artifact(run_id: str, artifact: str, ctx: Context) -> str | bytes:
        del ctx
        return read_whole(server.app.store.open(run_id), artifact)

    @server.completion()
    async def completion(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        from nanodistill_mcp.server.completions import complete  # noqa: PLC0415 - asked for only while somebody types

        given = (context.arguments if context else None) or {}
        found = complete(server.app, ref, argument.name, argument.value, given)
        return found.model_copy(update={"values": [shown_text(value) for value in found.values]})

    del runs, doctor, run_board, status, artifact, completion


def _shown(read: ReadResourceContents) -> str | bytes:
    """What is read of a run as it may leave; our own page goes as it is."""
    content = read.content
    return shown_text(content) if isinstance(content, str) and read.mime_type != board.MIME else content


def _resource(run_id: str, name: str, size: int | None) -> Resource:
    return Resource(
        uri=uri_of(run_id, name),
        name=f"{run_id}/{name}",
        mime_type=mime_type(name) if name != "status" else "application/json",
        size=size,
        annotations=Annotations(audience=["user", "assistant"], priority=0.5),
    )
