"""A run's trained model as it is served: which files, put to it in the run's own words, its text read as the run reads it."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from nanodistill_mcp.errors import RunStateError
from nanodistill_mcp.pipeline import recipe, thinking
from nanodistill_mcp.pipeline.evaluate import answer_tokens
from nanodistill_mcp.pipeline.limits import spare_for_a_model_gb
from nanodistill_mcp.runs.files import read_object
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.serving.app import Served
from nanodistill_mcp.student.questions import KeepLoaded
from nanodistill_mcp.student.requests import Message

Form = Literal["mlx", "gguf"]


@dataclass(frozen=True)
class Chosen:
    """What of a run is served."""

    keep: KeepLoaded
    served: Served
    words: str
    """The model, for people."""


def chosen(run: Run, form: Form, *, context_tokens: int, parallel: int) -> Chosen:
    """Choose a run's model: the fused one where it was exported, else the student with its adapter; or the GGUF file.

    Raises:
        RunStateError: The run has no trained model, or not in this form.
    """
    trained = read_object(run.paths.training)
    if trained is None or not trained.get("adapter_sha256"):
        raise RunStateError(
            f"Run {run.run_id!r} has no trained model yet.",
            next_step=f"See how far it is with: nanodistill-mcp show {run.run_id}; the stage train makes the model.",
        )
    exported = read_object(run.paths.export) or {}
    is_exported = exported.get("adapter_sha256") == trained["adapter_sha256"]
    keep = KeepLoaded(
        context_tokens=context_tokens,
        parallel=parallel,
        memory_gb=spare_for_a_model_gb(),
        instruction=run.manifest.spec.instruction,
    )
    match form:
        case "gguf" if is_exported and run.paths.gguf.exists():
            keep = keep.model_copy(update={"gguf_path": run.paths.gguf})
            words = f"its GGUF file in {exported['quantization']}"
        case "gguf":
            raise RunStateError(
                f"Run {run.run_id!r} has no GGUF file of its trained model.",
                next_step="Make it with the tool export_gguf, or serve the MLX model with --format mlx.",
            )
        case _ if is_exported and (run.paths.model / "config.json").exists():
            keep = keep.model_copy(update={"student": str(run.paths.model)})
            words = "its fused MLX model"
        case _:
            student = trained.get("student_path") or run.manifest.spec.student
            keep = keep.model_copy(update={"student": student, "adapter_dir": run.paths.adapters})
            words = "its student with the trained adapter"
    return Chosen(keep, _served(run), words)


def _served(run: Run) -> Served:
    spec = run.manifest.spec
    options = recipe.preset_options(spec.preset, Options.model_validate(spec.options))
    return Served(
        name=run.run_id,
        prepared=partial(_with_instruction, spec.instruction),
        parted=partial(thinking.part, form=thinking.format_of(run.manifest)),
        max_tokens=answer_tokens(run, options.max_new_tokens),
    )


def _with_instruction(instruction: str, messages: list[Message]) -> list[Message]:
    """The conversation behind the run's instruction, as in training; a caller's own system messages stand in its place."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(system) or instruction}, *others]
