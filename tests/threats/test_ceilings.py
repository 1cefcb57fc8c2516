"""T6, T15: no argument raises what the configuration allows, and nothing is put away without its exact name."""

from typing import Any

import pytest

from nanodistill_mcp.runs.store import RunStore
from tests.runs.made import make_run
from tests.threats.conftest import Attack

_ABOVE = (
    {"budget_usd": 20.01},
    {"budget_usd": 1e308},
    {"caps": {"max_calls": 11}},
    {"caps": {"max_total_tokens": 100_001}},
)
CEILINGS: dict[str, Any] = {"usd_per_run": 20, "calls_per_run": 10, "tokens_per_run": 100_000}


async def test_no_tool_takes_a_budget_above_the_ceiling_of_the_configuration(attack: Attack) -> None:
    """Every tool that takes a budget, a cap or options with one; what stands in the run's files stays as it was."""
    async with attack(budget=CEILINGS) as attacker:
        run = make_run(attacker.home)
        before = {path: path.read_bytes() for path in run.paths.root.rglob("*") if path.is_file()}
        tools = {tool.name: tool.input_schema["properties"] for tool in (await attacker.client.list_tools()).tools}
        spending = {name for name, taken in tools.items() if {"budget_usd", "caps", "changes"} & set(taken)}
        assert spending == {"create_run", "clone_run", "refine", "synthesize_cot", "extract_policy", "amplify"}
        for above in _ABOVE:
            for tool in ("synthesize_cot", "extract_policy", "amplify"):
                told = await attacker.refused(attacker.call(tool, run_id=run.run_id, wait_s=0, **above))
                assert "ceiling" in told, told
        for options in ({"max_calls": 11}, {"max_total_tokens": 100_001}):
            assert "ceiling" in await attacker.refused(attacker.create(options=options))
            changes = {"options": options, "budget_usd": 5}
            told = await attacker.refused(attacker.call("clone_run", run_id=run.run_id, name="c", changes=changes))
            assert "ceiling" in told, told
        assert "ceiling" in await attacker.refused(attacker.create(budget_usd=20.01))
        changes = {"budget_usd": 20.01}
        assert "ceiling" in await attacker.refused(
            attacker.call("clone_run", run_id=run.run_id, name="c", changes=changes)
        )
        for wrong in (-1, float("nan"), float("inf")):
            for tool in ("synthesize_cot", "extract_policy", "amplify"):
                await attacker.refused(attacker.call(tool, run_id=run.run_id, wait_s=0, budget_usd=wrong))
        assert before == {path: path.read_bytes() for path in run.paths.root.rglob("*") if path.is_file()}
        assert attacker.teacher.asked == []


@pytest.mark.parametrize(
    ("run_id", "confirm"),
    [
        *(
            ("tickets", name)
            for name in ("*", "ticket*", "TICKETS", " tickets", "tickets ", "tickets\n", "yes", "all", "tickets/")
        ),
        *(
            (name, name)
            for name in (
                "*",
                "TICKETS",
                "tickets/",
                "./tickets",
                "../runs/tickets",
                "",
                ".",
                "..",
                "tickets\0",
                "tickets2",
            )
        ),
    ],
)
async def test_a_run_is_put_away_under_its_exact_name_alone(attack: Attack, run_id: str, confirm: str) -> None:
    """An agent that was told to delete everything deletes nothing by a pattern."""
    async with attack() as attacker:
        for name in ("tickets", "tickets-2"):
            make_run(attacker.home, name)
        await attacker.refused(attacker.call("delete_run", run_id=run_id, confirm_name=confirm))
        for action in ("cancel", "stop", "pause"):
            await attacker.refused(attacker.call("control_job", run_id=run_id, action=action))
        assert sorted(RunStore(attacker.home).names()) == ["tickets", "tickets-2"]
