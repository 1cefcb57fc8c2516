"""Requests for answers: to a student, with an adapter or without one, or to a GGUF file of it."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from nanodistill_mcp.student.requests import Record


class Variant(Record):
    """One model to ask: the base, or the base with an adapter."""

    name: str
    adapter_dir: Path | None = None


class GenerateRequest(Record):
    """Answer prompts with one or more variants of a student, greedily and in batches. Rows already answered are kept."""

    kind: Literal["generate"] = "generate"
    student: str
    variants: list[Variant]
    prompts_path: Path = Field(
        description='JSONL of {"id": str, "messages": [Message]}, and "max_tokens" where a prompt has a limit of its own.'
    )
    output_path: Path = Field(description="JSONL of Generated rows, appended batch by batch, in any order.")
    metrics_path: Path
    result_path: Path
    max_tokens: int = Field(ge=1)
    batch_size: int = Field(default=16, ge=1)


class Generated(Record):
    """One answer. ``text`` is what the model wrote after the prompt, special tokens left out."""

    id: str
    variant: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    elapsed_s: float = Field(description="This row's share of its batch.")
    finish_reason: Literal["stop", "length"]


class AskGgufRequest(Record):
    """Answer prompts with a GGUF file in llama.cpp. ``variant`` names it in the rows."""

    kind: Literal["ask_gguf"] = "ask_gguf"
    gguf_path: Path
    variant: str = "gguf"
    prompts_path: Path
    output_path: Path
    metrics_path: Path
    result_path: Path
    max_tokens: int = Field(ge=1)


class Done(Record):
    """The result of a request that has nothing more to say than that it was carried out."""

    rows: int = 0
