"""What a run may spend, what each of its stages did spend, and at a cap: what is missing and what that would take."""

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from nanodistill_mcp.errors import BudgetError, DayBudgetError, RunStateError, UserInputError
from nanodistill_mcp.jobs.launch import active_job
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.journal import Record, spend_by_stage, spend_of
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import Range, RunBudget, Spend, Stage
from nanodistill_mcp.runs.store import Run, now
from nanodistill_mcp.settings import BudgetSettings
from nanodistill_mcp.teacher.ledger import Caps

CAP_OPTIONS = ("max_calls", "max_total_tokens")

_CHEAPER, _DEARER = 0.8, 1.5
"""What is missing may cost less or more each than what is there: the easy ones come first, and a few were asked twice."""


class Left(BaseModel):
    """What is missing of a stage, and what it would take."""

    missing: int
    calls: Range
    tokens: Range
    usd: Range | None


def check_ceilings(budget: RunBudget, ceilings: BudgetSettings) -> None:
    """Refuse a budget above what the server is configured to allow.

    Raises:
        UserInputError: Names the ceiling.
    """
    for wanted, ceiling, words, key in (
        (budget.usd, ceilings.usd_per_run, "budget of ${:g}", "usd_per_run"),
        (budget.max_calls, ceilings.calls_per_run, "cap of {:g} calls", "calls_per_run"),
        (budget.max_total_tokens, ceilings.tokens_per_run, "cap of {:g} tokens", "tokens_per_run"),
    ):
        if wanted is not None and ceiling is not None and wanted > ceiling:
            unit = "$" if key == "usd_per_run" else ""
            raise UserInputError(
                f"The {words.format(wanted)} is above this server's ceiling of {unit}{ceiling:g} per run.",
                next_step=f"Ask for less, or raise budget.{key} in the server's configuration.",
            )


def caps_of(run: Run, ceilings: BudgetSettings) -> Caps:
    """The least of what the run was given and what the server allows."""
    budget = run.budget()
    return Caps(
        usd=min(budget.usd, ceilings.usd_per_run),
        tokens=_least(budget.max_total_tokens, ceilings.tokens_per_run),
        calls=_least(budget.max_calls, ceilings.calls_per_run),
    )


def day_caps_of(ceilings: BudgetSettings) -> Caps:
    """What all runs together may spend in a day."""
    return Caps(usd=ceilings.usd_per_day, tokens=ceilings.tokens_per_day, calls=ceilings.calls_per_day)


def change_budget(run: Run, ceilings: BudgetSettings, budget_usd: float, caps: dict[str, int]) -> bool:
    """Give a run another budget, for its next job and all later ones. Written to ``budget.json``.

    Args:
        run: The run.
        ceilings: What the server allows.
        budget_usd: The run's new budget in all, what is spent included; 0 leaves it.
        caps: New values of max_calls and max_total_tokens; 0 takes a cap away.

    Returns:
        Whether anything changed.

    Raises:
        UserInputError: It is above a ceiling, or a cap has another name.
        RunStateError: A job of the run is paying under the present budget.
    """
    if unknown := sorted(caps.keys() - set(CAP_OPTIONS)):
        raise UserInputError(
            f"caps has names it does not know: {', '.join(unknown)[:100]}.",
            next_step=f"Accepted: {', '.join(CAP_OPTIONS)}.",
        )
    if any(value < 0 for value in caps.values()):
        raise UserInputError("A cap is below zero.", next_step="Give a whole number; 0 takes a cap away.")
    before = run.budget()
    given = {name: value or None for name, value in caps.items()}
    after = before.model_copy(update=given | ({"usd": budget_usd} if budget_usd else {}))
    if after == before:
        return False
    run.check_writable()
    check_ceilings(after, ceilings)
    if active_job(run) is not None:
        raise RunStateError(
            f"A job of run {run.run_id!r} is running under the budget of ${before.usd:g}.",
            next_step=f"Wait until it ends with get_status(run_id={run.run_id!r}, wait_s=20), or cancel it with "
            f"control_job(run_id={run.run_id!r}, action='cancel'), then call again.",
        )
    history = [*before.earlier, before.model_dump(exclude={"earlier"})]
    write_json(run.paths.budget, after.model_copy(update={"changed_at": now(), "earlier": history}).model_dump())
    return True


def left_of(run: Run, records: list[Record], stage: Stage, done: int, missing: int) -> Left | None:
    """What is missing of a stage would take: by what the run paid for each so far, else by its plan.

    Args:
        run: The run.
        records: Its journal.
        stage: The stage.
        done: How many the stage has paid for and kept.
        missing: How many are missing.
    """
    if missing < 1:
        return None
    spent = spend_by_stage(records).get(stage, Spend())
    if done and spent.calls:
        share = missing / done
        priced = run.manifest.usd_per_mtok is not None
        return Left(
            missing=missing,
            calls=_range(share * (spent.calls + spent.failed_calls), whole=True),
            tokens=_range(share * (spent.input_tokens + spent.output_tokens), whole=True),
            usd=_range(share * spent.usd) if priced else None,
        )
    planned = run.manifest.plan.by_stage.get(stage)
    if planned is None:
        return None
    return Left(missing=missing, calls=planned.calls, tokens=planned.tokens, usd=planned.cost_usd)


def in_words(left: Left) -> str:
    """What is missing would take, to be put after "would take about"."""
    parts = [f"{_span(left.calls)} calls", f"{_span(left.tokens)} tokens"]
    if left.usd is not None and left.usd.high > 0:
        parts.append(f"${left.usd.low:.2f}-{left.usd.high:.2f}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def further_budget(run: Run, records: list[Record], left: Left | None) -> dict[str, Any]:
    """The arguments that let a stage go on to its end: new totals for the caps that what is missing would pass."""
    if left is None:
        return {}
    budget, spent = run.budget(), spend_of(records)
    worst_usd = max((float(record.get("max_usd", 0)) for record in records if record["kind"] == "intent"), default=0.0)
    worst_tokens = max(
        (int(record.get("max_tokens", 0)) for record in records if record["kind"] == "intent"), default=0
    )
    arguments: dict[str, Any] = {}
    if left.usd is not None:
        needed_usd = spent.usd + spent.in_doubt_usd + left.usd.high + worst_usd
        if needed_usd > budget.usd:
            arguments["budget_usd"] = math.ceil(needed_usd * 100) / 100
    caps: dict[str, int] = {}
    calls = math.ceil(spent.calls + spent.failed_calls + spent.in_doubt_calls + left.calls.high)
    tokens = math.ceil(spent.tokens + left.tokens.high + worst_tokens)
    if budget.max_calls is not None and calls > budget.max_calls:
        caps["max_calls"] = calls
    if budget.max_total_tokens is not None and tokens > budget.max_total_tokens:
        caps["max_total_tokens"] = tokens
    return arguments | ({"caps": caps} if caps else {})


def at_the_cap(
    error: BudgetError, run: Run, records: list[Record], stage: Stage, *, done: int, total: int, free: int = 0
) -> BudgetError:
    """The error of a stage that stopped at a cap, with what is missing and the call that goes on.

    Args:
        error: What the budget said.
        run: The run.
        records: Its journal.
        stage: The stage.
        done: What the stage has.
        total: What it was to have.
        free: How much of what it has was not paid for by this stage.
    """
    left = left_of(run, records, stage, done - free, total - done)
    what = error.what
    if left is not None:
        what += f" {done} of {total} are done; the other {left.missing} would take about {in_words(left)}."
    if isinstance(error, DayBudgetError):
        return DayBudgetError(what, next_step=error.next_step)
    further = further_budget(run, records, left)
    if not further:
        further_text = "ask the user for a higher budget, then call the stage again with budget_usd or caps"
        return BudgetError(what, next_step=f"Everything paid for is kept: {further_text}.")
    call = call_text(stage, run.run_id, further)
    return BudgetError(what, next_step=f"Everything paid for is kept. When the user agrees, {call} goes on.")


def told_of(error: BudgetError, run: Run, ceilings: BudgetSettings, otherwise: str) -> dict[str, Any]:
    """What a stage that ended early at a cap keeps of it in its summary, for :func:`has_moved`."""
    of_the_day = isinstance(error, DayBudgetError)
    return {
        "what": error.what,
        "next_step": f"{error.next_step} {otherwise}",
        "day": _today() if of_the_day else "",
        "caps": asdict(day_caps_of(ceilings) if of_the_day else caps_of(run, ceilings)),
    }


def has_moved(told: dict[str, Any], run: Run, ceilings: BudgetSettings) -> bool:
    """Was the cap that ended a stage changed since, or is it another day's?"""
    if told["day"]:
        return told["day"] != _today() or told["caps"] != asdict(day_caps_of(ceilings))
    return told["caps"] != asdict(caps_of(run, ceilings))


def call_text(stage: Stage, run_id: str, arguments: dict[str, Any]) -> str:
    """A call as an agent writes it."""
    return f"{stage}({', '.join(f'{name}={value!r}' for name, value in {'run_id': run_id, **arguments}.items())})"


def budget_of_spec(usd: float, options: Options) -> RunBudget:
    """The budget a run is created with."""
    return RunBudget(usd=usd, max_calls=options.max_calls, max_total_tokens=options.max_total_tokens)


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _range(value: float, *, whole: bool = False) -> Range:
    low, high = _CHEAPER * value, _DEARER * value
    return Range(low=math.floor(low), high=math.ceil(high)) if whole else Range(low=round(low, 6), high=round(high, 6))


def _span(values: Range) -> str:
    return f"{values.low:,.0f}" if values.low == values.high else f"{values.low:,.0f}-{values.high:,.0f}"
