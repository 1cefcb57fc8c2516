"""A child learns where its parent fails, keeps what it knew, and is proved against it."""

import json
from collections import Counter
from typing import Any

import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.pipeline.grid import cell
from nanodistill_mcp.pipeline.inherited import Focus, focused
from nanodistill_mcp.pipeline.refine import focus_of
from nanodistill_mcp.runs.records import TaskPolicy
from tests.conftest import SHORT, Bench, Demo

POLICY = TaskPolicy.model_validate(
    {
        **dict.fromkeys(("task_description", "input_format", "output_format", "reasoning_style"), "x"),
        "key_constraints": [],
        "difficulty_level": "x",
        "reasoning_patterns": [],
        "examples_summary": "x",
        "input_length_range": (10, 90),
        "output_length_range": (1, 9),
        "checker": "choice",
        "choices": list("abcd"),
        "topics": ["one", "two", "three"],
    }
)


async def test_a_child_generates_where_its_parent_fails_and_trains_on_from_its_best_checkpoint(
    bench: Bench, demo: Demo
) -> None:
    """Iterating must cost only what is new, forget nothing, and be proved on the very same examples."""
    parent = bench.adopt(demo)
    _let_it_fail_at(bench, parent, "returns")
    inherited = len(bench.rows(parent, "traces_amplified.jsonl"))
    held_out = [row["input"] for row in bench.rows(parent, "seeds.jsonl") if row["split"] == "held_out"]

    async with bench.connect() as agent:
        status = await agent.call("get_status", run_id=parent)
        reply = await agent.call("refine", run_id=parent, name="child", examples=16)
        again = await agent.call("refine", run_id=parent, name="child", examples=16)
        assert (reply["created"], again["created"]) == (True, False)
        assert reply["refined_from"] == parent
        assert (reply["examples_inherited"], reply["examples_wanted"]) == (inherited, inherited + 16)
        assert [line["asked_for"] for line in reply["focus"]] == [{"answer": "returns"}]
        assert reply["next_step"]["tool"] == "amplify"
        assert list(reply["plan"]["by_stage"]) == ["amplify"]
        assert reply["plan"]["teacher_calls"]["high"] < status["spend"]["calls"] / 4
        await agent.call("delete_run", run_id=parent, confirm_name=parent)  # the child stands alone

        reply = await agent.finish("child", "amplify")
        assert reply["state"] == "done", reply["message"]
        examples = bench.rows("child", "traces_amplified.jsonl")
        new = examples[inherited:]
        assert len(new) == 16
        assert {example["cell"]["answer"] for example in new} == {"returns"}
        assert len({example["id"] for example in examples}) == len(examples)
        asked = "\n".join(request.user for request in bench.teacher.asked)
        assert 0 < len(bench.teacher.asked) < 120
        assert not [text for text in held_out if text in asked]

        reply = await agent.finish("child", "train", options=SHORT)
        assert reply["state"] == "done", reply["message"]
        assert reply["result"]["first_train_loss"] < 1.0  # a base that knows nothing of the task begins at 5
        assert reply["result"]["went_on_from"] == _json(demo, "training.json")["adapter_sha256"]
        tested = {row["id"] for row in bench.rows("child", "dataset/test.jsonl")}
        theirs = {json.loads(line)["id"] for line in (demo.run_folder / "dataset/test.jsonl").read_text().splitlines()}
        assert theirs <= tested

        reply = await agent.finish("child", "evaluate")
        assert reply["state"] == "done", reply["message"]
        found = reply["result"]["held_out"]
        assert found["student_against_parent"]["rows"] == 60
        assert found["passed_before"]["still"] <= found["passed_before"]["rows"]
        assert "parent" in reply["result"]["verdict"]
        row = await agent.call("read_artifact", run_id="child", artifact=f"lineage/{examples[20]['id']}")
        assert json.loads(row["text"])["calls"]
    (answered,) = (bench.run_folder("child") / "answered").glob("[0-9a-f]*.jsonl")
    rows = [json.loads(line) for line in answered.read_text(encoding="utf-8").splitlines()]
    assert set(Counter((row["variant"], row["id"]) for row in rows).values()) == {1}
    assert len({row["variant"] for row in rows}) == 3


async def test_a_child_needs_a_parent_that_fails_somewhere(bench: Bench, demo: Demo) -> None:
    """What to generate is not known before the evaluation, and not after one without failures."""
    parent = bench.adopt(demo)
    async with bench.connect() as agent:
        path = bench.run_folder(parent) / "evaluation.json"
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        for name in ("held_out", "synthetic"):
            evaluation[name]["failures"] = []
        path.write_text(json.dumps(evaluation), encoding="utf-8")
        assert "failed in none" in await agent.refused("refine", run_id=parent, name="child")
        path.unlink()
        assert "not known yet" in await agent.refused("refine", run_id=parent, name="child")
    assert not bench.run_folder("child").exists()


def test_groups_of_failures_become_cells_weighted_by_failures_beyond_the_usual() -> None:
    """What is asked for twice as often is what fails twice as often; what cannot be asked for is left out."""
    evaluation = {
        "held_out": {
            "student": {"rows": 40, "correct": 30},
            "failure_groups": [
                {"dimension": "topic", "value": "refunds", "rows": 8, "wrong": 6},
                {"dimension": "mistaken for", "value": "a → b", "rows": 10, "wrong": 4},
                {"dimension": "answer", "value": "a", "rows": 10, "wrong": 5},
                {"dimension": "form", "value": "not finished", "rows": 40, "wrong": 3},
                {"dimension": "length", "value": "up to 16 characters", "rows": 4, "wrong": 4},
            ],
        }
    }
    found = focus_of(evaluation)
    assert [(each.cell, each.weight) for each in found] == [({"topic": "refunds"}, 4.0), ({"answer": "a"}, 2.5)]
    assert found[1].because == "mistaken for a → b: 4 of 10 wrong; answer a: 5 of 10 wrong"


@pytest.mark.parametrize("count", [8, 24, 200])
def test_the_groups_take_turns_by_their_weights(count: int) -> None:
    """However few inputs are asked for, each group has its share, and the rest of the grid goes on turning."""
    focus = [
        Focus(cell={"topic": "one"}, weight=3, because=""),
        Focus(cell={"answer": "d"}, weight=1, because=""),
    ]
    cells = [focused(POLICY, 80_000 + number, focus) for number in range(count)]
    usual = [cell(POLICY, 80_000 + number) for number in range(count)]
    changed = [mine != theirs for mine, theirs in zip(cells, usual, strict=True)]
    of_first = sum(mine == {**theirs, "topic": "one"} for mine, theirs in zip(cells, usual, strict=True))
    assert any(changed)
    assert of_first / count == pytest.approx(0.75, abs=0.15)
    assert len({mine["answer"] for mine in cells}) >= 3


def _let_it_fail_at(bench: Bench, run_id: str, answer: str) -> None:
    """An evaluation that found a weakness; the demo's own finds another on each machine, or none."""
    path = bench.run_folder(run_id) / "evaluation.json"
    evaluation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert answer in {row["output"] for row in task.seeds()}
    failure = {"id": "t00001", "input": "x", "expected": answer, "answer": "billing"}
    group = {"dimension": "answer", "value": answer, "rows": 10, "wrong": 6, "share": 0.6, "p_value": 0.01}
    for name in ("held_out", "synthetic"):
        evaluation[name]["failures"] = [failure]
        evaluation[name]["failure_groups"] = [{**group, "examples": [failure]}] if name == "held_out" else []
    path.write_text(json.dumps(evaluation), encoding="utf-8")


def _json(demo: Demo, name: str) -> dict[str, Any]:
    return json.loads((demo.run_folder / name).read_text(encoding="utf-8"))
