"""A whole run from a file, without an agent: the same calls, and a second time it goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.cli.headless import add_examples, read_spec
from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.demo.wire import Fails
from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.library.channel import channel_file
from nanodistill_mcp.runs.files import write_lines
from tests.cli.person import types
from tests.conftest import SHORT, STAGES, Bench


def _spec(folder: Path, **further: Any) -> Path:
    """A file as a user writes it, beside the examples it names."""
    write_lines(folder / "seeds.jsonl", task.seeds())
    spec = {
        "name": "tickets",
        "instruction": task.INSTRUCTION,
        "seed_path": "seeds.jsonl",
        "teacher": "local",
        "student": str(student_path()),
        "augment_factor": 4,
        "options": SHORT,
        **further,
    }
    path = folder / "spec.yaml"
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_run_goes_as_far_as_wanted_and_on_from_there_when_called_again(bench: Bench, tmp_path: Path) -> None:
    """A night's job that was cut short is started again with the same line, and pays for nothing twice."""
    spec = str(_spec(tmp_path))
    first = types(bench.home, "run", spec, "--until", "synthesize_cot", env=bench.env)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(
        f"Created tickets in {bench.run_folder('tickets')}\n8 examples, 32 wanted, 2 held out"
    )
    assert "\nsynthesize_cot: The teacher agrees on " in first.stdout
    asked = [request.user for request in bench.teacher.asked]
    again = types(bench.home, "run", spec, "--until", "extract_policy", env=bench.env)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("Going on with tickets")
    assert "\nextract_policy: Policy version 1 is written" in again.stdout
    assert again.stdout.splitlines()[-1].startswith("Done for $0.")
    assert len(bench.teacher.asked) == len(asked) + 1


@pytest.mark.slow
def test_a_file_is_taken_all_the_way_to_a_model(bench: Bench, tmp_path: Path) -> None:
    """What stages are given beside the run stands in the file too."""
    spec = _spec(tmp_path, stages={"export_gguf": {"quantization": "Q8_0"}})
    ended = types(bench.home, "run", str(spec), env=bench.env)
    assert ended.returncode == 0, ended.stderr
    assert [line.split(":")[0] for line in ended.stdout.splitlines() if line.split(":")[0] in STAGES] == list(STAGES)
    export = json.loads((bench.run_folder("tickets") / "export.json").read_text(encoding="utf-8"))
    assert export["quantization"] == "Q8_0"


def test_a_refused_argument_ends_with_what_is_accepted(bench: Bench, tmp_path: Path) -> None:
    """A misspelt name must not be a run with a default."""
    told = types(bench.home, "run", str(_spec(tmp_path, augment_facter=4)), env=bench.env)
    assert told.returncode == 1
    assert "augment_facter: not an argument of this tool; did you mean augment_factor?" in told.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [", "cannot be read as YAML"),
        ("just words", "holds no names and values"),
        ("teacher: host", "here there is none"),
        ("stages: {trian: {}}", "There is no stage 'trian'. Stages, in their order: synthesize_cot,"),
        ("stages: [train]", "stages is not a mapping"),
    ],
)
def test_a_file_that_is_no_run_is_refused_before_anything_starts(tmp_path: Path, text: str, told: str) -> None:
    """The message names the line of thought, not a traceback."""
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserInputError) as refused:
        read_spec(path)
    assert told in str(refused.value)


def test_paths_in_the_file_are_beside_the_file(tmp_path: Path) -> None:
    """It is called from anywhere, by a timer too."""
    path = tmp_path / "spec.yaml"
    path.write_text("seed_path: a.jsonl\noptions: {test_path: /b.jsonl}", encoding="utf-8")
    assert read_spec(path) == {"seed_path": str(tmp_path / "a.jsonl"), "options": {"test_path": "/b.jsonl"}}


def test_the_examples_come_from_the_command_line_or_the_channel_where_the_file_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file of settings serves a training job's container and a terminal; the folder named there may be read."""
    channel = tmp_path / "input" / "data" / "train"
    channel.mkdir(parents=True)
    (channel / "README.md").write_text("what it is")
    (channel / ".part.jsonl").write_text("")
    (channel / "rows.jsonl").write_text("")
    monkeypatch.setenv("SM_CHANNEL_TRAIN", str(channel))
    spec: dict[str, Any] = {"name": "a"}
    assert add_examples(spec, "") == [channel]
    assert spec == {"name": "a", "instruction": "", "seed_path": str(channel / "rows.jsonl")}
    typed: dict[str, Any] = {"name": "a", "instruction": "Sort."}
    assert add_examples(typed, str(tmp_path / "other.csv")) == [tmp_path]
    assert typed == {"name": "a", "instruction": "Sort.", "seed_path": str(tmp_path / "other.csv")}
    named = {"seed_path": "/mine.jsonl"}
    assert add_examples(named, "") == []
    assert named == {"seed_path": "/mine.jsonl", "instruction": ""}
    with pytest.raises(UserInputError, match="names examples, and --train-file names others"):
        add_examples(named, "other.csv")
    monkeypatch.delenv("SM_CHANNEL_TRAIN")
    assert add_examples({}, "") == []


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "holds no data file: nothing."),
        (["notes.txt", ".hidden.jsonl"], "holds no data file: notes.txt."),
        (["b.csv", "a.jsonl", "notes.txt"], "holds 2 data files: a.jsonl, b.csv."),
        (None, "SM_CHANNEL_TRAIN names no directory."),
    ],
)
def test_a_channel_without_exactly_one_data_file_is_refused_by_name(
    tmp_path: Path, files: list[str] | None, told: str
) -> None:
    """Guessing which of two files is meant would train on the wrong one."""
    for name in files or []:
        (tmp_path / name).write_text("")
    folder = tmp_path if files is not None else tmp_path / "absent"
    with pytest.raises(UserInputError) as refused:
        channel_file({"SM_CHANNEL_TRAIN": str(folder)})
    assert told in refused.value.what


@pytest.mark.slow
def test_a_run_is_made_of_an_alpaca_file_in_the_channel_whose_bad_lines_are_set_aside(
    bench: Bench, tmp_path: Path
) -> None:
    """Through the command, as a container starts it: the rows say the instruction, and the run says what it left out."""
    channel = tmp_path / "train"
    channel.mkdir()
    rows = [json.dumps({"instruction": task.INSTRUCTION, **row}) for row in task.seeds()]
    (channel / "rows.jsonl").write_text("\n".join(["{torn", *rows]), encoding="utf-8")
    spec = json.loads(_spec(tmp_path).read_text(encoding="utf-8"))
    spec = {name: value for name, value in spec.items() if name not in ("instruction", "seed_path")}
    (tmp_path / "spec.yaml").write_text(json.dumps({**spec, "options": {"malformed": "set_aside"}, "budget_usd": 0}))
    bench.teacher.script = lambda _: Fails("auth")
    ended = types(bench.home, "run", str(tmp_path / "spec.yaml"), env={**bench.env, "SM_CHANNEL_TRAIN": str(channel)})
    assert ended.returncode == 1
    assert "Created tickets" in ended.stdout, ended.stderr
    made = json.loads((bench.run_folder("tickets") / "run.json").read_text(encoding="utf-8"))
    assert made["spec"]["instruction"] == task.INSTRUCTION
    assert bench.rows("tickets", "set_aside.jsonl") == [{"file": "seed", "line": 1, "reason": "not JSON"}]
    assert any("1 rows were set aside (1 not JSON)" in told for told in made["plan"]["warnings"])
