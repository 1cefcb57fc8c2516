"""What a run will take is said before it starts, what it may take is never passed, and at a cap the way on is named."""

import json
from typing import Any

import pytest

from nanodistill_mcp.demo import task, teacher
from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest
from nanodistill_mcp.runs.journal import read_journal, spend_by_stage
from tests.conftest import Bench, Demo

PAID = ("synthesize_cot", "extract_policy", "amplify")


async def test_the_plan_says_calls_tokens_dollars_minutes_and_disk_stage_by_stage(bench: Bench) -> None:
    """The user decides on these numbers; each has a low and a high end, and says what it rests on."""
    async with bench.connect() as agent:
        plan = (await agent.create())["plan"]
    assert tuple(plan["by_stage"]) == PAID
    for name in ("calls", "cost_usd"):
        ends = [sum(stage[name][end] for stage in plan["by_stage"].values()) for end in ("low", "high")]
        whole = plan["teacher_calls" if name == "calls" else name]
        assert ends == pytest.approx([whole["low"], whole["high"]], abs=1e-3)
    for name in ("teacher_calls", "teacher_tokens", "cost_usd", "teacher_minutes", "training_minutes"):
        assert 0 < plan[name]["low"] < plan[name]["high"], name
    assert plan["disk_gb"] > 0
    assert plan["assumptions"][0].startswith("Tokens of the real prompts over these examples are counted by LiteLLM's")
    assert bench.teacher.asked == []


async def test_what_the_demo_paid_lies_within_what_its_plan_said(bench: Bench, demo: Demo) -> None:
    """An estimate that the truth does not fall into is worse than none."""
    run_id = bench.adopt(demo)
    manifest = json.loads((bench.run_folder(run_id) / "run.json").read_text(encoding="utf-8"))
    spent = spend_by_stage(read_journal(bench.run_folder(run_id) / "calls.jsonl").records)
    for stage, planned in manifest["plan"]["by_stage"].items():
        paid = spent[stage]
        for name, value in (
            ("calls", paid.calls),
            ("input_tokens", paid.input_tokens),
            ("output_tokens", paid.output_tokens),
        ):
            assert planned[name]["low"] <= value <= planned[name]["high"], (stage, name)
    training = json.loads((bench.run_folder(run_id) / "training.json").read_text(encoding="utf-8"))
    minutes = manifest["plan"]["training_minutes"]
    assert minutes["low"] <= max(training["elapsed_s"] / 60, minutes["low"]) <= minutes["high"]


async def test_arguments_can_lower_a_cap_of_the_server_and_never_raise_it(bench: Bench) -> None:
    """The configuration is the user's word; an agent's argument is not."""
    bench.configure(budget={"usd_per_run": 2, "calls_per_run": 50, "tokens_per_run": 90_000})
    async with bench.connect() as agent:
        for further, told in (
            ({"budget_usd": 3}, "The budget of $3 is above this server's ceiling of $2 per run."),
            ({"options": {"max_calls": 51}}, "The cap of 51 calls is above this server's ceiling of 50 per run."),
            (
                {"options": {"max_total_tokens": 90_001}},
                "The cap of 90001 tokens is above this server's ceiling of 90000 per run.",
            ),
        ):
            arguments: dict[str, Any] = {"budget_usd": 1, **further}
            text = await agent.refused(
                "create_run", name="over", instruction="Sort.", seed=task.seeds(), teacher="local", **arguments
            )
            assert text.startswith(told)
            assert "in the server's configuration" in text
        await agent.create(budget_usd=1)
        assert "above this server's ceiling" in await agent.refused("synthesize_cot", run_id="tickets", budget_usd=2.5)
        assert "Accepted: max_calls, max_total_tokens." in await agent.refused(
            "synthesize_cot", run_id="tickets", caps={"dollars": 3}
        )
    assert bench.teacher.asked == []


@pytest.mark.parametrize(
    ("ceilings", "option", "words"),
    [
        ({"calls_per_run": 50, "calls_per_day": 5}, {"max_calls": 40}, "All 5 calls that all runs may make in a day"),
        pytest.param(
            {"tokens_per_run": 9_000},
            {"max_total_tokens": 7_000},
            "of the cap of 7000 are left.",
            marks=pytest.mark.slow,
        ),
    ],
)
async def test_the_least_of_all_caps_stops_the_stage_and_says_what_is_missing(
    bench: Bench, ceilings: dict[str, int], option: dict[str, int], words: str
) -> None:
    """Whoever set it: it holds, what is paid is kept, and the rest has a price."""
    bench.configure(budget=ceilings)
    async with bench.connect() as agent:
        await agent.create(options=option)
        reply = await agent.finish("tickets", "synthesize_cot")
    assert reply["state"] == "failed"
    assert words in reply["message"]
    assert " of 10 are done; the other " in reply["message"]
    assert "Everything paid for is kept" in reply["message"]
    assert reply["spend"]["calls"] < 10
    assert reply["spend"]["input_tokens"] + reply["spend"]["output_tokens"] <= 7_000


async def test_a_stage_that_met_the_budget_names_the_call_that_goes_on_and_that_call_does(bench: Bench) -> None:
    """More money for the same run, without paying twice and without a second run."""
    async with bench.connect() as agent:
        await agent.create(options={"max_calls": 4})
        stopped = await agent.finish("tickets", "synthesize_cot")
        step = stopped["next_step"]
        assert (stopped["state"], step["tool"]) == ("failed", "synthesize_cot")
        assert step["arguments"]["caps"]["max_calls"] >= 10
        assert "Ask the user first" in step["why"]
        done = await agent.finish("tickets", "synthesize_cot", caps=step["arguments"]["caps"])
        assert done["state"] == "done"
        assert done["spend"]["calls"] == len(bench.teacher.asked) == 10
        questions = [request.user for request in bench.teacher.asked]
        assert len(set(questions)) == len(questions)
        again = await agent.create(options={"max_calls": 4})
        assert again["created"] is False
    budget = json.loads((bench.run_folder("tickets") / "budget.json").read_text(encoding="utf-8"))
    assert [earlier["max_calls"] for earlier in budget["earlier"]] == [4]


async def test_amplify_stopped_by_the_budget_prices_the_rest_and_goes_on_with_more(bench: Bench) -> None:
    """What the other 188 of 500 examples would cost is something a user can decide on."""
    async with bench.connect() as agent:
        await agent.create(budget_usd=0.35)
        for stage in PAID[:2]:
            await agent.finish("tickets", stage)
        bench.teacher.script = _costly
        stopped = await agent.finish("tickets", "amplify", target_size=40)
        result = stopped["result"]
        assert (stopped["state"], result["stopped_by"]) == ("done", "budget")
        assert result["missing"] == result["target"] - result["accepted"] > 0
        assert stopped["next_step"]["tool"] == "train"
        assert (
            f"{result['accepted']} of 40 are done; the other {result['missing']} would take about" in stopped["message"]
        )
        assert "goes on. Or train on what there is." in stopped["message"]
        assert stopped["spend"]["cost_usd"] <= 0.35
        bench.teacher.script = lambda _: None
        more = await agent.finish("tickets", "amplify", budget_usd=5)
        assert (more["result"]["stopped_by"], more["result"]["accepted"]) == ("target", 40)
        assert more["spend"]["budget_usd"] == 5
        told = await agent.refused("create_run", **_creation(budget_usd=5))
        assert "create_run does not change it" in told


def _costly(request: WireRequest) -> WireReply:
    return Says(teacher.answer(request.system, request.user, request.schema_name), output_tokens=900)


def _creation(**further: Any) -> dict[str, Any]:
    from nanodistill_mcp.demo.student import student_path

    return {
        "name": "tickets",
        "instruction": task.INSTRUCTION,
        "seed": task.seeds(),
        "teacher": "local",
        "student": str(student_path()),
        "augment_factor": 4,
        **further,
    }


async def test_an_unknown_price_needs_a_cap_of_another_kind_from_anyone(bench: Bench) -> None:
    """Dollars that nobody can count are no cap; calls are, also when only the server's configuration names them."""
    assert bench.teacher.server is not None
    teachers = {
        "far": {"model": "openai/desk", "api_base": "http://10.255.255.1:9/v1", "api_key_env": "TEST_TEACHER_KEY"}
    }
    bench.configure(teachers=teachers)
    async with bench.connect() as agent:
        told = await agent.refused("create_run", **_creation(teacher="far"))
        assert "is not known, so a budget in dollars cannot hold" in told
        assert (await agent.create("capped", teacher="far", options={"max_calls": 9}))["plan"]["cost_usd"] is None
    bench.configure(teachers=teachers, budget={"calls_per_run": 9})
    async with bench.connect() as agent:
        assert (await agent.create("tickets", teacher="far"))["plan"]["cost_usd"] is None
