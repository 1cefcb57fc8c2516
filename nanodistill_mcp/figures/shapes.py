"""What the pictures show. Nothing here draws, so that whoever gathers the numbers loads no plotting library."""

from dataclasses import dataclass, field

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class LossCurve:
    """A training. ``x`` counts optimizer updates."""

    title: str
    train: Points
    valid: Points
    learning_rate: Points = field(default_factory=list[tuple[float, float]])
    best: float | None = None
    """The update whose checkpoint is the model."""
    resumed: list[float] = field(default_factory=list[float])
    """Updates at which an interrupted training went on."""
    diverged: float | None = None


@dataclass(frozen=True)
class Score:
    """How one model did."""

    model: str
    rows: int
    correct: int
    accuracy: float
    share: str
    """The accuracy as it is told."""
    low: float
    high: float


@dataclass(frozen=True)
class ScoredSet:
    """Models on the same examples."""

    name: str
    scores: list[Score]
