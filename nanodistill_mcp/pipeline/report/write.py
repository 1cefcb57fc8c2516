"""Writes a run's report: all of it that can be written."""

import errno
import traceback
from collections.abc import Callable
from pathlib import Path

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.pipeline.report.card import card
from nanodistill_mcp.pipeline.report.facts import Facts, facts_of
from nanodistill_mcp.pipeline.report.page import page
from nanodistill_mcp.pipeline.report.pictured import curve_of, scorecard_title, scored_sets
from nanodistill_mcp.runs.files import write_atomic
from nanodistill_mcp.runs.store import Run


def write_report(run: Run) -> dict[str, str]:
    """Write ``loss.png``, ``scorecard.png``, ``report.md`` and ``model/README.md``, each whole or not at all.

    Returns:
        What could not be written, and why: nothing, as a rule.
    """
    missing: dict[str, str] = {}

    def attempt(path: Path, make: Callable[[], bytes | None]) -> None:
        try:
            content = make()
            if content is not None:
                write_atomic(path, content)
        except NanodistillError as error:
            missing[path.name] = error.what
        except OSError as error:
            missing[path.name] = f"The file could not be written ({errno.errorcode.get(error.errno or 0, 'error')})."
        except Exception as error:  # noqa: BLE001 - a defect of ours must not undo hours of work; the log says where
            traceback.print_exception(error)
            missing[path.name] = f"A defect of this tool ({type(error).__name__}); the end of log.txt says where."

    found: list[Facts] = []
    attempt(run.paths.report, lambda: found.append(facts_of(run)))
    if not found:
        return missing
    facts = found[0]
    attempt(run.paths.loss_picture, lambda: _loss_picture(run, facts))
    attempt(run.paths.scorecard, lambda: _scorecard(facts))
    pictures = frozenset(path.name for path in (run.paths.loss_picture, run.paths.scorecard) if path.exists())
    attempt(run.paths.report, lambda: page(facts, pictures - missing.keys()).encode())
    if run.paths.model.is_dir():
        attempt(run.paths.model_card, lambda: card(facts).encode())
    return missing


def _loss_picture(run: Run, facts: Facts) -> bytes | None:
    curve = curve_of(run, facts.training) if facts.training else None
    if curve is None:
        return None
    from nanodistill_mcp.figures.loss import loss_picture  # noqa: PLC0415 - half a second, for jobs that draw

    return loss_picture(curve)


def _scorecard(facts: Facts) -> bytes | None:
    sets = scored_sets(facts)
    if not sets:
        return None
    from nanodistill_mcp.figures.scorecard import scorecard_picture  # noqa: PLC0415 - as above

    return scorecard_picture(scorecard_title(sets), sets)
