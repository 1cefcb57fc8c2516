"""What a model takes of memory is known before its weights are loaded, and what does not fit is refused with the setting to lower."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import gc
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from nanodistill_mcp.errors import MachineError
from nanodistill_mcp.student import models
from nanodistill_mcp.student.questions import KeepLoaded
from nanodistill_mcp.student.room import Room, of_mlx, questions_at_once
from tests.tiny_student import make_tiny

GB = 10**9
ROOM = Room(weights_bytes=2 * GB, question_bytes=GB)


def _asked(there_gb: float | None, *, parallel: int = 4, takes_fewer: bool = False) -> KeepLoaded:
    return KeepLoaded(context_tokens=4096, parallel=parallel, memory_gb=there_gb, takes_fewer=takes_fewer)


@pytest.mark.parametrize("arch", ["llama", "gemma3_text"])
def test_what_a_model_will_take_is_told_without_loading_it(tmp_path: Path, arch: str) -> None:
    """The state is what reading so many tokens really leaves, window or not; until then no weight is in memory."""
    folder = make_tiny(tmp_path / arch, arch, hidden=256)
    gc.collect()  # the models of tests before this one
    before = mx.get_active_memory()
    model = models.load(folder, lazy=True)[0]
    room = of_mlx(model, 700)
    assert mx.get_active_memory() - before < room.weights_bytes / 10
    mx.eval(model.parameters())
    loaded = mx.get_active_memory() - before
    assert loaded == pytest.approx(room.weights_bytes, rel=0.05)
    cache = make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, 700), mx.int32), cache=cache), [layer.state for layer in cache])
    assert sum(layer.nbytes for layer in cache) == room.question_bytes > 0


@pytest.mark.parametrize(
    ("there_gb", "remedy"),
    [
        (6.1, "Lower --parallel to 3, or --context;"),
        (3.9, "Lower --parallel to 1, or --context;"),
        (3.1, "Lower --context to 2176 and --parallel to 1;"),
        (2.1, "Close other programs and try again, or serve the GGUF file"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_what_to_lower(there_gb: float, remedy: str) -> None:
    """Swapped memory makes a machine useless for hours: how much is needed, how much is there, and what would fit."""
    with pytest.raises(MachineError) as refused:
        questions_at_once(ROOM, _asked(there_gb), 4096)
    assert refused.value.what == (
        "This model needs 7.15 GB of memory, 2.2 GB for its weights and 4.95 GB for 4 questions side by side, 4096 tokens each, "
        f"and {there_gb:g} GB can be spared."
    )
    assert refused.value.next_step.startswith(remedy)


def test_what_fits_is_loaded_and_a_teacher_takes_fewer_questions_rather_than_none() -> None:
    """A teacher's work has no setting for it and waits for its answers anyway; where nothing was measured nothing is refused."""
    assert questions_at_once(ROOM, _asked(7.2), 4096) == 4
    assert questions_at_once(ROOM, _asked(None), 4096) == 4
    assert questions_at_once(ROOM, _asked(5.0, takes_fewer=True), 4096) == 2
    with pytest.raises(MachineError, match=r"needs 7\.15 GB of memory") as refused:
        questions_at_once(ROOM, _asked(3.0, takes_fewer=True), 4096)
    assert "--" not in refused.value.next_step
