"""Pictures in a reply: what a person would rather see, beside the same facts as text."""

import base64
import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

from mcp.types import Annotations, CallToolResult, ContentBlock, ImageContent, TextContent
from pydantic import BaseModel

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.records import State
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.server.artifacts import mime_type, open_artifact, uri_of
from nanodistill_mcp.server.replies import PageReply, StageReply, StatusReply

PICTURE_OF = {"train": "loss.png", "evaluate": "scorecard.png"}
"""What a stage leaves that is worth showing when it is done."""

_MOST_BYTES = 300_000
"""Ours are a tenth of it; a larger one was put there by somebody else, and would fill the chat."""

_Reply = TypeVar("_Reply", StageReply, StatusReply)


def with_picture(run: Run, reply: StageReply) -> CallToolResult:
    """The reply of a stage; once that is done, with its picture."""
    name = PICTURE_OF.get(reply.stage) if reply.state is State.DONE else None
    return _shown(run, reply, [name] if name else [])


def with_pictures(run: Run, reply: StatusReply, ended: str, *, detail: bool) -> CallToolResult:
    """A run's status, with the picture of the stage that ended in the meantime; in detail, with all there are."""
    done = [line.stage for line in reply.stages if line.state is State.DONE]
    return _shown(
        run, reply, [PICTURE_OF[stage] for stage in done if stage in PICTURE_OF and (detail or stage == ended)]
    )


def picture_page(run: Run, name: str) -> CallToolResult:
    """A picture read as an artifact.

    Raises:
        UserInputError: There is no such picture, or it is too large to be sent.
    """
    os.close(open_artifact(run, name))
    shown = image(run, name)
    if shown is None:
        raise UserInputError(f"{name} is too large for a reply.", next_step=f"It lies at {run.paths.root / name}.")
    told = f"The picture is in this reply as an image, for the user. It lies at {run.paths.root / name}."
    page = PageReply(
        run_id=run.run_id, artifact=name, unit="pictures", offset=0, count=1, total=1, text=told, next_offset=-1
    )
    return as_result(page, [shown])


def as_result(reply: BaseModel, images: Sequence[ImageContent] = (), *, text: str = "") -> CallToolResult:
    """A reply as the SDK would send it, text and structure alike, and images after it. ``text`` says it in other words."""
    told: list[ContentBlock] = [TextContent(text=text or reply.model_dump_json(indent=2))]
    return CallToolResult(content=[*told, *images], structured_content=reply.model_dump(mode="json"))


def image(run: Run, name: str) -> ImageContent | None:
    """One of the run's pictures; None when it is not there, or not one that we drew."""
    try:
        with os.fdopen(open_artifact(run, name), "rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except UserInputError:  # the report could not be written, or was removed: the reply is as good without it
        return None
    if len(data) > _MOST_BYTES:
        return None
    return ImageContent(
        data=base64.b64encode(data).decode(), mime_type=mime_type(name), annotations=Annotations(audience=["user"])
    )


def _shown(run: Run, reply: _Reply, names: Iterable[str]) -> CallToolResult:
    found = {name: shown for name in names if (shown := image(run, name))}
    told = reply.model_copy(update={"pictures": [uri_of(run.run_id, name) for name in found]})
    return as_result(told, list(found.values()))
