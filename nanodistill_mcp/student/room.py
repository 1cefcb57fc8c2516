"""What a model and the questions it answers side by side take of memory, found out before its weights are loaded."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from dataclasses import dataclass
from typing import Any, cast

from nanodistill_mcp.errors import MachineError
from nanodistill_mcp.student.questions import KeepLoaded

_WORKING = 1.1
"""What computing a step takes beside the weights and the state of the questions is a small part of both."""

_CHUNK_TOKENS = 2048
"""MLX-LM reads a prompt in parts of so many tokens."""

KEPT_QUESTIONS = 0.5
"""What is kept for prompts that begin alike takes at most as much as half a question that fills its context."""

_LEAST_CONTEXT_TOKENS = 256


@dataclass(frozen=True)
class Room:
    """What one model takes."""

    weights_bytes: int
    question_bytes: int
    """The state of one question whose answer fills the context."""

    @property
    def most_kept_bytes(self) -> int:
        """Of what is kept of prompts."""
        return int(KEPT_QUESTIONS * self.question_bytes)

    def gb(self, questions: int) -> float:
        """Memory for so many questions side by side; for none, that of the weights alone."""
        kept_bytes = self.most_kept_bytes if questions else 0
        return _WORKING * (self.weights_bytes + questions * self.question_bytes + kept_bytes) / 1e9


def of_mlx(model: Any, context_tokens: int) -> Room:
    """What a model takes that was loaded lazily. Nothing is computed: what is never looked at has a shape and no memory."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.cache import make_prompt_cache

    weights = sum(cast("mx.array", weight).nbytes for _, weight in tree_flatten(model.parameters()))
    cache = make_prompt_cache(model)
    for first in range(0, context_tokens, _CHUNK_TOKENS):
        model(mx.zeros((1, min(_CHUNK_TOKENS, context_tokens - first)), mx.int32), cache=cache)
    return Room(weights, sum(layer.nbytes for layer in cache))


def questions_at_once(room: Room, request: KeepLoaded, context_tokens: int) -> int:
    """How many questions are answered side by side in the memory there is.

    Raises:
        MachineError: Fewer than are asked for, where that was not left open; or none.
    """
    there_gb, wanted = request.memory_gb, request.parallel
    if there_gb is None or room.gb(wanted) <= there_gb:
        return wanted
    fitting = next((count for count in range(wanted - 1, 0, -1) if room.gb(count) <= there_gb), 0)
    if fitting and request.takes_fewer:
        return fitting
    states_gb = room.gb(wanted) - room.gb(0)
    asked = (
        f"{wanted} questions side by side, {context_tokens} tokens each" if wanted > 1 else f"{context_tokens} tokens"
    )
    raise MachineError(
        f"This model needs {room.gb(wanted):.3g} GB of memory, {room.gb(0):.3g} GB for its weights and {states_gb:.3g} GB for "
        f"{asked}, and {there_gb:.3g} GB can be spared.",
        next_step=_remedy(room, request, context_tokens, there_gb, fitting),
    )


def _remedy(room: Room, request: KeepLoaded, context_tokens: int, there_gb: float, fitting: int) -> str:
    otherwise = "close other programs and try again"
    if request.takes_fewer:
        return f"{otherwise.capitalize()}, or take a smaller model."
    if fitting:
        return f"Lower --parallel to {fitting}, or --context; or {otherwise}."
    left_gb, one_gb = there_gb - room.gb(0), room.gb(1) - room.gb(0)
    tokens = int(left_gb / one_gb * context_tokens) // 64 * 64
    if tokens >= _LEAST_CONTEXT_TOKENS:
        smaller = f"--context to {tokens}" + (" and --parallel to 1" if request.parallel > 1 else "")
        return f"Lower {smaller}; or {otherwise}."
    smaller = "" if request.gguf_path else ", or serve the GGUF file, which is smaller, with --format gguf"
    return f"{otherwise.capitalize()}{smaller}; else train a smaller student."
