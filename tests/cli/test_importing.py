"""``nanodistill-mcp import-data``: from a file or a dataset of the hub to a run that only wants training."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.cli import command_line
from nanodistill_mcp.cli.importing import asked_of, import_data
from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.errors import UserInputError
from tests.cli.person import types
from tests.conftest import SHORT, Bench
from tests.pipeline.test_import_data import omnithought
from tests.student.hub_server import serving


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.slow
async def test_a_dataset_of_the_hub_is_a_run_at_whose_training_one_goes_on(bench: Bench, tmp_path: Path) -> None:
    """One named file at one commit, over the hub's own wire format; the real hub was not seen."""
    _write(tmp_path / "served" / "data" / "train-0.jsonl", omnithought(200))
    _write(tmp_path / "served" / "data" / "train-1.jsonl", omnithought(5))
    with serving() as hub:
        hub.repositories["org/thoughts"] = tmp_path / "served"
        env = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        words = ["import-data", "org/thoughts", "--name", "thoughts", "--student", str(student_path())]
        words += ["--file", "data/train-0.jsonl", "--rv-min", "0.6", "--cd-min", "2", "--difficulty-bins", "0,5,10"]
        words += ["--per-bin", "20%,80%", "--limit", "50", "--held-out", "10"]
        made = types(bench.home, *words, env=env)
        assert made.returncode == 0, made.stderr
        assert not any("train-1" in asked for asked in hub.requests)
    revision = "a" * 40
    assert made.stdout.splitlines()[:2] == [
        f"org/thoughts at {revision}: data/train-0.jsonl",
        (
            "Run thoughts has 50 examples (10 of difficulty 0 to 5, 40 of difficulty 5 to 10) and 10 held out; "
            "left out 22: outside the levels that were asked for; left out 20: beyond its bin's share; left out 4: beyond the limit."
        ),
    ]
    facts = json.loads((bench.run_folder("thoughts") / "imported.json").read_text(encoding="utf-8"))
    assert (facts["dataset"], facts["revision"], facts["file"]) == ("org/thoughts", revision, "data/train-0.jsonl")
    async with bench.connect() as agent:
        status = await agent.call("get_status", run_id="thoughts")
        assert [line["state"] for line in status["stages"][:4]] == ["done", "done", "done", "new"]
        assert status["next_step"]["tool"] == "train"
        assert status["spend"]["cost_usd"] == 0
    assert len(bench.rows("thoughts", "traces_amplified.jsonl")) == 50
    assert bench.teacher.asked == []


async def test_a_clone_of_imported_data_keeps_it_and_asks_no_teacher(bench: Bench, tmp_path: Path) -> None:
    """There is no journal to find the rows in: asked for anew, another's answers would be paid for and would not be the same."""
    rows = [
        {"instruction": row["input"], "output": f"<think>Clues.</think>{row['output']}"} for row in task.held_out()[:60]
    ]
    words = ["import-data", str(_write(tmp_path / "rows.jsonl", rows)), "--name", "rows", "--held-out", "10"]
    made = types(bench.home, *words, "--instruction", task.INSTRUCTION, "--student", str(student_path()))
    assert made.returncode == 0, made.stderr
    async with bench.connect() as agent:
        await agent.call("revise_examples", run_id="rows", drop=[bench.rows("rows", "traces_amplified.jsonl")[0]["id"]])
        changes = {
            "preset": "quick",
            "instruction": "Sort the mail.",
            "reasoning": "direct",
            "options": {"lora_rank": 4},
        }
        clone = await agent.call("clone_run", run_id="rows", name="other", changes=changes)
        assert clone["message"] == (
            "The examples that rows was given are this run's too; no teacher is asked for any; the revisions of examples hold here too."
        )
        assert (clone["revisions_carried"], clone["next_step"]["tool"]) == (1, "train")
        assert clone["plan"]["teacher_calls"] == {"low": 0, "high": 0}
        assert not any("budget" in warning for warning in clone["plan"]["warnings"])
        status = await agent.call("get_status", run_id="other")
        assert [line["state"] for line in status["stages"][:4]] == ["done", "done", "done", "new"]
        for stage in ("synthesize_cot", "extract_policy", "amplify"):
            assert (await agent.call(stage, run_id="other"))["state"] == "done"
        again = await agent.call("clone_run", run_id="other", name="third")
        assert again["next_step"]["tool"] == "train"
        for changed in ({"augment_factor": 900}, {"teacher": "host"}, {"response_schema": {"type": "object"}}):
            told = await agent.refused("clone_run", run_id="rows", name="new", changes=changed)
            assert f"{next(iter(changed))}: the examples of this run were given to it" in told
    for file in (
        "traces_amplified.jsonl",
        "traces_cot.jsonl",
        "imported.json",
        "policy.json",
        "policies/policy.v1.json",
    ):
        mine, theirs = (bench.run_folder(name) / file for name in ("other", "rows"))
        assert mine.read_bytes() == theirs.read_bytes()
    assert bench.teacher.asked == []


@pytest.mark.slow
async def test_a_file_of_such_data_is_trained_proved_and_exported(bench: Bench, tmp_path: Path) -> None:
    """The whole rest of the path, with its own held-out rows."""
    rows = [
        {"instruction": row["input"], "output": f"<think>Clues.</think>{row['output']}"}
        for row in [*task.seeds(), *task.held_out()[:60]]
    ]
    path = _write(tmp_path / "rows.jsonl", rows)
    words = ["import-data", str(path), "--name", "rows", "--instruction", task.INSTRUCTION, "--held-out", "10"]
    made = types(bench.home, *words, "--student", str(student_path()))
    assert made.returncode == 0, made.stderr
    assert types(bench.home, *words, "--student", str(student_path())).stdout.startswith(
        "Run rows was made of it before"
    )
    async with bench.connect() as agent:
        for stage in ("train", "evaluate", "export_gguf"):
            reply = await agent.finish("rows", stage, **({"options": SHORT} if stage == "train" else {}))
            assert reply["state"] == "done", reply
    evaluation = json.loads((bench.run_folder("rows") / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["held_out"]["student"]["rows"] == 10


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["absent.jsonl"], "There is no such file"),
        (["rows.jsonl", "--difficulty-bins", "3,1"], "not rising edges"),
        (["rows.jsonl", "--per-bin", "x"], "per-bin is neither"),
        (["rows.jsonl", "--cd-min", "9.5"], "Only 0 rows are left to train on"),
    ],
)
def test_what_cannot_be_a_run_is_refused_in_words(
    bench: Bench, tmp_path: Path, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is made, and without the content of the file."""
    _write(tmp_path / "rows.jsonl", omnithought(40))
    monkeypatch.chdir(tmp_path)
    typed = asked_of(command_line().parse_args(["import-data", *words, "--name", "a"]))
    with pytest.raises(UserInputError, match=told):
        import_data(bench.home, typed)
    assert not (bench.home / "runs" / "a").exists()


@pytest.mark.slow
def test_a_dataset_or_file_that_is_not_there_is_answered_by_who_can_fix_it(tmp_path: Path) -> None:
    """In a process of its own: the hub's address is read when its client is loaded."""
    _write(tmp_path / "one" / "rows.jsonl", omnithought(3))
    _write(tmp_path / "two" / "data" / "train-0.jsonl", omnithought(5))
    _write(tmp_path / "two" / "data" / "train-1.jsonl", omnithought(5))
    with serving() as hub:
        hub.repositories |= {"org/one": tmp_path / "one", "org/two": tmp_path / "two"}
        hub.refused["org/gated"] = (403, "GatedRepo")
        env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        for words, told in (
            (["org/none"], "The hub has no dataset org/none"),
            (["org/one", "--file", "other.jsonl"], "Check --file and --revision"),
            (["org/two"], "has 2 files of rows. Name one with --file: data/train-0.jsonl, data/train-1.jsonl."),
            (["org/gated"], "only for accounts that accepted its terms"),
        ):
            ended = types(tmp_path, "import-data", *words, "--name", "a", env=env)
            assert (ended.returncode, told in ended.stderr) == (2, True), ended.stderr
    unreachable = types(tmp_path, "import-data", "org/one", "--name", "a", env=env)
    assert "the hub does not answer" in unreachable.stderr
