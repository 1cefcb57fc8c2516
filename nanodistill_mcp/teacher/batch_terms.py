"""How a stage wants its questions batched, and what it is told while they are away."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AtProvider:
    """A batch that is being waited for."""

    questions: int
    finished: int
    age_s: float


@dataclass(frozen=True)
class BatchTerms:
    """How a stage wants its questions batched."""

    mode: Literal["batch", "live"]
    """live: hand nothing in; stop the batches that are out, keep what they have answered, ask the rest live."""
    quiet_s: float = 1.0
    """A batch goes out when no question came for so long."""
    poll_s: float = 1.0
    longest_poll_s: float = 60.0
    most_questions: int = 5000
    most_bytes: int = 64_000_000
    on_change: Callable[[Sequence[AtProvider]], None] = lambda _: None
    """Told after every look at the provider what is being waited for."""
