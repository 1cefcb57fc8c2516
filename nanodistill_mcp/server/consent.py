"""The user's own word, asked for by the client where it can: before money is spent, a run is put away, a proof is fixed.

A client that cannot ask, or that answers for its user, gets an error that names the argument with which the agent passes the
user's word on. Nothing is ever asked for that is secret.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, assert_never

from mcp.server.mcpserver import (
    AcceptedElicitation,
    CancelledElicitation,
    DeclinedElicitation,
    Elicit,
    ElicitationResult,
    Resolve,
)
from pydantic import BaseModel, ConfigDict, Field

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.plan import drawn_to_hold_out
from nanodistill_mcp.pipeline.revisions import count_examples
from nanodistill_mcp.runs.paths import run_id_of
from nanodistill_mcp.runs.records import Seed, Stage, State
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.runs.texts import clean
from nanodistill_mcp.server.app import App
from nanodistill_mcp.server.arguments import Ctx, app_of
from nanodistill_mcp.server.boundary import agent_facing


class Consent(BaseModel):
    """What the user is asked."""

    model_config = ConfigDict(defer_build=True)  # asked for seldom, and a client waits for the start

    go_on: bool = Field(description="Go on?")


class NotAsked(Consent):
    """There was nobody to ask, or the agent passed something else on."""

    go_on: bool = False


Answer = ElicitationResult[Consent]
_SHOWN, _SHOWN_CHARS = 8, 160

_Question = Callable[..., Awaitable[Consent | Elicit[Consent]]]


def check(answer: Answer, what: str, next_step: str) -> None:
    """Go on only with the user's word.

    Raises:
        UserInputError: It was refused, or could not be asked for; ``next_step`` says how the agent passes it on.
    """
    match answer:
        case AcceptedElicitation(data=consent) if consent.go_on:
            return
        case AcceptedElicitation(data=NotAsked()):
            raise UserInputError(what, next_step=next_step)
        case DeclinedElicitation() | AcceptedElicitation():
            raise UserInputError(f"{what} The user said no, and nothing was done.", next_step=next_step)
        case CancelledElicitation():
            raise UserInputError(f"{what} The user was asked and gave no answer.", next_step=next_step)
        case _ as never:
            assert_never(never)


def check_held_out(answer: Answer) -> None:
    """Go on unless the user says no: nothing is spent yet, and who was not asked sees the plan before anything is.

    Raises:
        UserInputError: The user wants other examples held out.
    """
    match answer:
        case DeclinedElicitation() | AcceptedElicitation(data=Consent(go_on=False)):
            raise UserInputError(
                "The user does not want these examples held out, and no run was made.",
                next_step="Ask which of the examples are to prove the student, then call create_run with the same arguments and "
                "options.held_out=[their numbers, counted from 1]; an example with a wrong output is corrected in seed.",
            )
        case AcceptedElicitation() | CancelledElicitation():
            return
        case _ as never:
            assert_never(never)


def _question(ctx: Ctx, text: str) -> Consent | Elicit[Consent]:
    """The question, for a client that can put it; else what counts as no word yet."""
    return Elicit(text, Consent) if _can_ask(ctx) else NotAsked()


def _can_ask(ctx: Ctx) -> bool:
    declared = ctx.client_capabilities.elicitation if ctx.client_capabilities else None
    return declared is not None and (declared.form is not None or declared.url is None)


@agent_facing
async def may_hold_out(
    name: str, instruction: str, seed: list[dict[str, Any]], seed_path: str, options: dict[str, Any], ctx: Ctx
) -> Consent | Elicit[Consent]:
    """Ask about examples that were drawn: they alone prove the student, so a wrong one among them costs most."""
    app = app_of(ctx)
    if not _can_ask(ctx) or bool(seed) == bool(seed_path) or app.store.find(run_id_of(name)):
        return Consent(go_on=True)
    drawn = drawn_to_hold_out(app.settings, instruction, seed, seed_path, options)
    return Elicit(_held_out_question(drawn), Consent) if drawn else Consent(go_on=True)


def _held_out_question(drawn: list[Seed]) -> str:
    shown = [f"{each.input} \N{RIGHTWARDS ARROW} {each.output}" for each in drawn[:_SHOWN]]
    lines = [clean(" ".join(line.split())) for line in shown]
    more = [f"and {len(drawn) - _SHOWN} more"] if len(drawn) > _SHOWN else []
    return "\n".join(
        (
            f"{len(drawn)} of the examples are kept aside: the student never learns from them, and they prove it in the end.",
            *(
                line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"
                for line in lines
            ),
            *more,
            "Are these outputs right, and shall these examples be kept aside?",
        )
    )


@agent_facing
async def may_delete(run_id: str, confirm_name: str, ctx: Ctx) -> Consent | Elicit[Consent]:
    """Ask only when the agent passes no word on."""
    run = app_of(ctx).store.open(run_id)
    if confirm_name:
        return Consent(go_on=True) if confirm_name == run_id else NotAsked()
    return _question(ctx, f"Move the run {run.run_id} to the trash? Nothing is erased.")


def price_of_start(app: App, run: Run, stage: Stage, *, restart: bool) -> str:
    """What starting a stage now may cost, in words, when the server is configured to ask before as much; else nothing.

    Its estimate counts, and where no price is known, what is left of the budget. A stage that runs or is done costs nothing.
    """
    threshold = app.settings.budget.ask_above_usd
    found = states.stage_status(run, stage)
    if threshold is None or found.state.active or (found.state is State.DONE and not restart):
        return ""
    budget = run.budget().usd
    estimate = run.manifest.plan.by_stage.get(stage)
    likely = estimate.cost_usd if estimate else None
    most = min(likely.high, budget) if likely else budget - states.spend(run).usd
    if most <= threshold:
        return ""
    told = f"${likely.low:.2f} to ${likely.high:.2f}" if likely else "an amount that is not known"
    return f"{stage} of the run {run.run_id} is estimated at {told}, and never pays more than the run's ${budget:g} in all."


def _may_spend(stage: Stage) -> _Question:
    @agent_facing
    async def ask(run_id: str, budget_usd: float, restart: bool, ctx: Ctx) -> Consent | Elicit[Consent]:  # noqa: FBT001 - the tool's own arguments, by name
        return _asked(ctx, run_id, stage, given=budget_usd, restart=restart)

    return ask


@agent_facing
async def may_amplify(
    run_id: str,
    target_size: int,
    budget_usd: float,
    restart: bool,  # noqa: FBT001 - as above
    ctx: Ctx,
) -> Consent | Elicit[Consent]:
    """As for the other stages; done once, it may be asked to make more."""
    more = target_size > count_examples(app_of(ctx).store.open(run_id)) if target_size else False
    return _asked(ctx, run_id, "amplify", given=budget_usd, restart=restart or more)


def _asked(ctx: Ctx, run_id: str, stage: Stage, *, given: float, restart: bool) -> Consent | Elicit[Consent]:
    """A budget that comes with the call is the user's word, passed on by the agent."""
    app = app_of(ctx)
    price = "" if given else price_of_start(app, app.store.open(run_id), stage, restart=restart)
    return _question(ctx, f"{price} Go on?") if price else Consent(go_on=True)


def check_price(answer: Answer, app: App, run: Run, stage: Stage) -> None:
    """Start a stage only with the user's word, where the server is configured to ask for it.

    Raises:
        UserInputError: There is no such word; names the argument that passes it on.
    """
    call = f"{stage}(run_id={run.run_id!r}, budget_usd={run.budget().usd:g})"
    next_step = (
        f"Ask the user, then call {call} with the same arguments as before, which says that they agree to the budget."
    )
    check(answer, price_of_start(app, run, stage, restart=True) or f"{stage} is not started.", next_step)


MayHoldOut = Annotated[Answer, Resolve(may_hold_out)]
MayDelete = Annotated[Answer, Resolve(may_delete)]
MaySynthesize = Annotated[Answer, Resolve(_may_spend("synthesize_cot"))]
MayExtract = Annotated[Answer, Resolve(_may_spend("extract_policy"))]
MayAmplify = Annotated[Answer, Resolve(may_amplify)]
