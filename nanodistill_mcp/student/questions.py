"""What passes between a process that keeps a student loaded and the one that asks it: a line of JSON each, over its pipes."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from nanodistill_mcp.student.requests import Message


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class KeepLoaded(_Line):
    """The first line: what to load and hold until standard input ends."""

    student: str = Field(default="", description="The absolute path of a folder, or a hub id that is cached.")
    adapter_dir: Path | None = None
    gguf_path: Path | None = Field(default=None, description="A GGUF file for llama.cpp, in place of a student.")
    context_tokens: int = Field(ge=64, description="Room for one prompt and its answer, at most.")
    parallel: int = Field(default=4, ge=1, description="Questions answered at once, at most.")
    memory_gb: float | None = Field(default=None, description="What the machine can spare; None: it is not asked.")
    takes_fewer: bool = Field(
        default=False, description="Fewer questions at once rather than none, where memory is short."
    )
    instruction: str = Field(default="", description="The system message of most prompts, which is read once.")
    is_one_asker: bool = Field(
        default=False, description="All questions are one's: prompts are kept for the next ones."
    )


class Ask(_Line):
    """One question. Greedy unless a temperature is given."""

    kind: Literal["ask"] = "ask"
    id: int
    messages: list[Message]
    max_tokens: int = Field(ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, description="None draws one.")
    as_it_comes: bool = Field(default=False, description="Tell the text while it is written, not at its end alone.")


class Drop(_Line):
    """Nobody waits for this question's answer any more. It is told as ended, as each one is."""

    kind: Literal["drop"] = "drop"
    id: int


class Loaded(_Line):
    """The student is there, and can be asked."""

    kind: Literal["loaded"] = "loaded"
    context_tokens: int
    parallel: int
    device: str


class NotLoaded(_Line):
    """It cannot be; in our own words. The process ends."""

    kind: Literal["not_loaded"] = "not_loaded"
    error: str
    what: str
    next_step: str


class Refused(_Line):
    """A question that cannot be asked of this student."""

    kind: Literal["refused"] = "refused"
    id: int
    why: Literal["too_long", "not_rendered"]
    prompt_tokens: int = 0


class Begun(_Line):
    """The student begins to answer."""

    kind: Literal["begun"] = "begun"
    id: int
    prompt_tokens: int
    opening: str = Field(default="", description="What the chat template already wrote of the answer, a thinking tag.")


class Wrote(_Line):
    """More of an answer."""

    kind: Literal["wrote"] = "wrote"
    id: int
    text: str
    tokens: int = Field(description="Of the answer so far.")


class Ended(_Line):
    """An answer's end."""

    kind: Literal["ended"] = "ended"
    id: int
    tokens: int
    finish: Literal["stop", "length", "dropped"]


Told = Loaded | NotLoaded | Refused | Begun | Wrote | Ended

ASKED: TypeAdapter[Ask | Drop] = TypeAdapter(Annotated[Ask | Drop, Field(discriminator="kind")])
TOLD: TypeAdapter[Told] = TypeAdapter(Annotated[Told, Field(discriminator="kind")])
