"""A folder of NanoDistill's becomes a run: what was paid there is trained on here."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.adopt import read_folder
from tests.cli.person import types
from tests.conftest import SHORT, Bench


def _row(source: str, output: str, **further: Any) -> str:
    return json.dumps({"input": source, "thinking": "Clues.", "output": output, "confidence": 0.85, **further}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As NanoDistill leaves it, the last line torn by a death."""
    made = tmp_path / "outputs" / "tutor"
    made.mkdir(parents=True)
    seeds = [_row(row["input"], row["output"]) for row in task.seeds()]
    (made / "traces_cot.jsonl").write_text("".join(seeds), encoding="utf-8")
    further = [_row(row["input"], row["output"]) for row in task.held_out()[:20]]
    (made / "traces_amplified.jsonl").write_text("".join([*seeds, *further, further[0], '{"input": "tor']), "utf-8")
    return made


async def test_a_folder_of_nanodistills_is_a_run_at_whose_training_one_goes_on(bench: Bench, folder: Path) -> None:
    """Nothing of it is paid again, its rows stand as they were, and what it lacks is said."""
    words = (
        "adopt",
        str(folder),
        "--name",
        "tutor",
        "--instruction",
        task.INSTRUCTION,
        "--student",
        str(student_path()),
    )
    adopted = types(bench.home, *words)
    assert adopted.returncode == 0, adopted.stderr
    assert adopted.stdout.startswith(
        "Run tutor has 10 seeds and 30 examples; left out 1: an input that was there before; left out 1: no row of input"
    )
    assert "did not verify its outputs" in adopted.stdout
    assert types(bench.home, *words).stdout.startswith("Run tutor was made of it before")
    async with bench.connect() as agent:
        status = await agent.call("get_status", run_id="tutor")
        assert [line["state"] for line in status["stages"][:4]] == ["done", "done", "done", "new"]
        assert status["next_step"]["tool"] == "train"
        assert status["spend"]["cost_usd"] == 0
    rows = bench.rows("tutor", "traces_amplified.jsonl")
    assert {(row["thinking"], row["confidence"]) for row in rows} == {("Clues.", 0.85)}
    assert len(rows) == 30
    assert bench.teacher.asked == []


@pytest.mark.slow
async def test_it_is_trained_proved_and_exported_as_any_run(bench: Bench, folder: Path) -> None:
    """The whole rest of the path, on rows nobody here made."""
    words = (
        "adopt",
        str(folder),
        "--name",
        "tutor",
        "--instruction",
        task.INSTRUCTION,
        "--student",
        str(student_path()),
    )
    assert types(bench.home, *words).returncode == 0
    async with bench.connect() as agent:
        for stage in ("train", "evaluate", "export_gguf"):
            reply = await agent.finish("tutor", stage, **({"options": SHORT} if stage == "train" else {}))
            assert reply["state"] == "done", reply
    assert (bench.run_folder("tutor") / "model.gguf").is_file()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("traces_cot.jsonl", None, "There is no readable traces_cot.jsonl in that folder"),
        ("traces_amplified.jsonl", None, "There is no readable traces_amplified.jsonl in that folder"),
        ("traces_cot.jsonl", "not json\n[1]\n{}\n", "traces_cot.jsonl holds 0 usable rows"),
    ],
)
def test_a_folder_that_is_none_is_refused_in_words(folder: Path, name: str, content: str | None, said: str) -> None:
    """Its content stays out of the error: it may be any folder."""
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserInputError, match=said) as refused:
        read_folder(folder, "Sort.")
    assert "not json" not in str(refused.value)


def test_what_is_known_of_the_task_is_its_answers_form(folder: Path) -> None:
    """No teacher was asked: the policy says no more than the rows do."""
    adopted = read_folder(folder, task.INSTRUCTION)
    assert adopted.policy.checker == "choice"
    assert set(adopted.policy.choices) == {row["output"] for row in [*task.seeds(), *task.held_out()[:20]]}
    assert {trace.split for trace in adopted.traces} == {"train"}
    assert [example.origin for example in adopted.examples] == ["seed"] * 10 + ["synthetic"] * 20
