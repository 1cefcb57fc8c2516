"""``nanodistill-mcp import-data``: published distillation data, from a file or a dataset of the hub, taken over as a run."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill_mcp.cli.adopting import make_run
from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.data_files import ENDINGS, data_rows
from nanodistill_mcp.pipeline.import_data import Wanted, import_rows, select, shares, source_of
from nanodistill_mcp.pipeline.scored_rows import level
from nanodistill_mcp.student.hub import REPO_ID

_HIGHEST = 10.0


@dataclass(frozen=True)
class Asked:
    """What was typed."""

    source: str
    name: str
    instruction: str
    student: str
    file: str
    revision: str
    rv: tuple[float | None, float | None]
    cd: tuple[float | None, float | None]
    bins: str
    per_bin: str
    limit: int
    held_out: int


def asked_of(arguments: argparse.Namespace) -> Asked:
    """What was typed, as the command line read it."""
    return Asked(
        source=arguments.source,
        name=arguments.name,
        instruction=arguments.instruction,
        student=arguments.student,
        file=arguments.file,
        revision=arguments.revision,
        rv=(arguments.rv_min, arguments.rv_max),
        cd=(arguments.cd_min, arguments.cd_max),
        bins=arguments.difficulty_bins,
        per_bin=arguments.per_bin,
        limit=arguments.limit,
        held_out=arguments.held_out,
    )


def import_data(home: Path, asked: Asked) -> int:
    """Make a run of it, and say what was taken, what was not and what comes next."""
    wanted = _wanted(asked)
    path, source = _located(asked)
    found = select(data_rows(path), wanted)
    imported = import_rows(found, wanted, asked.instruction, source)
    run, created = make_run(home, imported, name=asked.name, instruction=asked.instruction, student=asked.student)
    if not created:
        print(f"Run {run.run_id} was made of it before: nanodistill-mcp show {run.run_id}")
        return 0
    facts = imported.facts
    bins = ", ".join(f"{count} of difficulty {name}" for name, count in facts["by_bin"].items() if name != "all")
    left_out = "".join(f"; left out {count}: {why}" for why, count in facts["left_out"].items())
    print(
        f"Run {run.run_id} has {facts['rows']} examples{f' ({bins})' if bins else ''} and {facts['held_out']} held out{left_out}.\n"
        "Nothing of it was verified here: look through examples.jsonl before training (revise_examples, or show --web).\n"
        f"To train, prove and export it: say so to your agent, or call train(run_id={run.run_id!r})."
    )
    return 0


def _wanted(asked: Asked) -> Wanted:
    bins = _edges(asked.bins, wants_bins=bool(asked.per_bin))
    if asked.limit < 1 or asked.held_out < 0:
        raise UserInputError("limit must be 1 or more, and held-out not below 0.", next_step="Correct it.")
    return Wanted(
        verbosity=_span(asked.rv),
        difficulty=_span(asked.cd),
        bins=bins,
        per_bin=shares(asked.per_bin, bins, asked.limit) if bins else (),
        limit=asked.limit,
        held_out=asked.held_out,
    )


def _span(typed: tuple[float | None, float | None]) -> tuple[float, float] | None:
    low, high = typed
    if low is None and high is None:
        return None
    return level(low or 0.0), _HIGHEST if high is None else level(high)


def _edges(typed: str, *, wants_bins: bool) -> tuple[float, ...]:
    if not typed and not wants_bins:
        return ()
    try:
        edges = tuple(float(part) for part in (typed or "0,3,6,10").split(","))
    except ValueError:
        edges = ()
    if len(edges) <= 1 or list(edges) != sorted(set(edges)) or any(math.isnan(edge) for edge in edges):
        raise UserInputError(
            "difficulty-bins are not rising edges.", next_step="Give them as EasyDistill 2 does: 0,3,6,10."
        )
    return edges


def _located(asked: Asked) -> tuple[Path, dict[str, Any]]:
    """The file, and where it is from: a path is looked for first, then a dataset."""
    path = Path(asked.source).expanduser().absolute()
    if path.exists() or not REPO_ID.match(asked.source):
        return path, source_of(path)
    from nanodistill_mcp.student.hub_data import fetch_data_file

    fetched = fetch_data_file(asked.source, asked.file, asked.revision, ENDINGS)
    print(f"{asked.source} at {fetched.revision}: {fetched.file}")
    return fetched.path, source_of(fetched.path, asked.source, fetched.revision, fetched.file)
