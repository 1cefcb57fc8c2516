"""A run's rows for other trainers: read back as each of them documents its form, they are what the student is taught.

The trainers themselves are too heavy to install here. Each reader below is a minimal copy of the documented schema: the files it is
documented in are named in nanodistill_mcp/pipeline/data_forms.py.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanodistill_mcp.cli import command_line
from nanodistill_mcp.cli.commands import export_data as export_data_command
from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.data_export import export_data
from nanodistill_mcp.pipeline.data_forms import COMMANDS, FORMS, DataForm
from nanodistill_mcp.pipeline.dataset import build_dataset
from nanodistill_mcp.pipeline.thinking import part
from nanodistill_mcp.runs.files import read_lines, write_json, write_lines
from nanodistill_mcp.runs.records import Example, Seed
from nanodistill_mcp.runs.store import Run, RunStore
from tests.runs.made import manifest

Messages = list[dict[str, str]]
HARD = 'lines\nof "text" \u2028 with <thinking> and </thinking>, \U0001f600'


def _run(home: Path, rows: int = 60, **spec: Any) -> Run:
    """A run with synthetic examples and two held-out seeds."""
    held_out = [
        Seed(id=f"s{i}", input=f"the held out question number {i} of the user", output=f"mine {i}", split="held_out")
        for i in range(2)
    ]
    run, _ = RunStore(home).create(manifest(**spec), held_out)
    texts = [(f"question {i}", f"answer {i}") for i in range(rows)]
    texts += [(HARD, "answer"), ("as it was: the held out question number 1 of the user", "given away")]
    examples = [
        Example(
            id=f"g{i}",
            input=text,
            thinking=f"because {text}",
            output=output,
            confidence=1.0,
            origin="synthetic",
            parents=[],
            call_ids=[],
        )
        for i, (text, output) in enumerate(texts)
    ]
    write_lines(run.paths.traces_amplified, [example.model_dump() for example in examples])
    return run


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]  # at U+2028, too


def _trl(folder: Path, name: str) -> list[Messages]:
    rows = _lines(folder / _data_files(folder)[name])
    assert all(set(row) == {"prompt", "completion"} for row in rows)
    return [[*row["prompt"], *row["completion"]] for row in rows]


def _unsloth(folder: Path, name: str) -> list[Messages]:
    rows = _lines(folder / _data_files(folder)[name])
    aliases = {"system": "system", "user": "user", "human": "user", "gpt": "assistant", "assistant": "assistant"}
    values: dict[str, set[str]] = {}
    for row in rows[:10]:
        for message in row["conversations"]:
            for key, value in message.items():
                values.setdefault(key, set()).add(value)
    first, second = values  # exactly two keys; the one of fewer values is the role
    role, content = (first, second) if len(values[first]) < len(values[second]) else (second, first)
    return [[{"role": aliases[m[role]], "content": m[content]} for m in row["conversations"]] for row in rows]


def _data_files(folder: Path) -> dict[str, str]:
    tree = ast.parse((folder / "sft.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    [found] = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "data_files"]
    return {**ast.literal_eval(found), "test": "test.jsonl", "held_out": "held_out.jsonl"}


def _llama_factory(folder: Path, name: str) -> list[Messages]:
    config = yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))
    info = json.loads((folder / config["dataset_dir"] / "dataset_info.json").read_text(encoding="utf-8"))
    described = info[config["dataset"]]
    if name == "validation":
        assert info[config["eval_dataset"]] == {**described, "file_name": described["file_name"].replace("train", name)}
    path = folder / described["file_name"].replace("train", name)
    rows = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else _lines(path)
    columns = described["columns"]
    if described.get("formatting", "alpaca") == "alpaca":
        asked = [(row[columns["prompt"]], row[columns["query"]], row[columns["response"]]) for row in rows]
        return [
            [{"role": r, "content": c} for r, c in zip(("system", "user", "assistant"), each, strict=True)]
            for each in asked
        ]
    tags = described["tags"]
    roles = {tags[f"{role}_tag"]: role for role in ("system", "user", "assistant")}
    return [
        [{"role": roles[m[tags["role_tag"]]], "content": m[tags["content_tag"]]} for m in row[columns["messages"]]]
        for row in rows
    ]


def _axolotl(folder: Path, name: str) -> list[Messages]:
    config = yaml.safe_load((folder / "axolotl.yml").read_text(encoding="utf-8"))
    [dataset] = config["datasets"]
    assert (dataset["type"], dataset["ds_type"], dataset["roles_to_train"]) == ("chat_template", "json", ["assistant"])
    if name == "validation":
        assert config["test_datasets"] == [{**dataset, "path": "validation.jsonl"}]
        assert config["val_set_size"] == 0  # the two exclude each other
    mapping = dataset["message_property_mappings"]
    rows = _lines(folder / dataset["path"].replace("train", name))
    return [
        [{"role": m[mapping["role"]], "content": m[mapping["content"]]} for m in row[dataset["field_messages"]]]
        for row in rows
    ]


READERS: dict[DataForm, Callable[[Path, str], list[Messages]]] = {
    "trl": _trl,
    "llama-factory": _llama_factory,
    "unsloth": _unsloth,
    "axolotl": _axolotl,
    "easydistill": _llama_factory,
    "alpaca": _llama_factory,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("thinking_format", ["xml", "json"])
def test_read_back_every_form_is_what_the_student_is_taught_row_by_row(
    home: Path, tmp_path: Path, form: DataForm, thinking_format: str
) -> None:
    """Another trainer must teach the same texts, on the same sides, reasoning and all."""
    run = _run(home, options={"thinking_format": thinking_format})
    build_dataset(run, 0.1)
    made = export_data(run, form, tmp_path / "out")
    for name, ours in (("train", "train"), ("validation", "valid"), ("test", "test")):
        taught = [row["messages"] for row in read_lines(run.paths.dataset / f"{ours}.jsonl")]
        wanted = [messages for messages in taught if "held out question" not in messages[1]["content"]]
        assert READERS[form](made.folder, name) == wanted, name
        assert made.rows[name] == len(wanted) > 0
    assert made.left_out == 1
    assert COMMANDS[form] in (made.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", FORMS)
def test_held_out_examples_are_a_file_of_their_own_with_the_users_answers(
    home: Path, tmp_path: Path, form: DataForm
) -> None:
    """Whoever trains elsewhere proves it on the same rows, which nothing else may hold."""
    made = export_data(_run(home), form, tmp_path / "out")
    held_out = READERS[form](made.folder, "held_out")
    assert [(m[1]["content"], m[2]["content"]) for m in held_out] == [
        (f"the held out question number {i} of the user", f"mine {i}") for i in range(2)
    ]
    others = [m[1]["content"] for name in ("train", "validation", "test") for m in READERS[form](made.folder, name)]
    assert len(others) == 61
    assert not [text for text in others if "held out question" in text]


def test_reasoning_can_be_left_out(home: Path, tmp_path: Path) -> None:
    """System 1: some trainers and some students are to answer at once."""
    run = _run(home)
    with_it = _trl(export_data(run, "trl", tmp_path / "a").folder, "train")
    without = _trl(export_data(run, "trl", tmp_path / "b", reasoning=False).folder, "train")
    assert [part(m[2]["content"], "xml")[1] for m in with_it] == [part(m[2]["content"], "xml")[1] for m in without]
    assert {bool(part(m[2]["content"], "xml")[0]) for m in with_it} == {True}
    assert {part(m[2]["content"], "xml")[0] for m in without} == {""}
    assert "without reasoning" in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")


def test_easydistills_rows_say_who_wrote_them(home: Path, tmp_path: Path) -> None:
    """Its metadata are what it calls provenance."""
    made = export_data(_run(home), "easydistill", tmp_path / "out")
    row = _lines(made.folder / "train.jsonl")[0]
    assert set(row) == {"messages", "metadata"}
    assert row["metadata"]["source"] == "teacher_model"
    assert row["metadata"]["model"] == "openai/desk"


def test_the_recipe_of_a_trained_student_goes_along_in_pefts_terms(home: Path, tmp_path: Path) -> None:
    """MLX's scale is absolute, PEFT's is alpha divided by the rank: a number that is copied trains differently."""
    run = _run(home)
    build_dataset(run, 0.1)
    used = {"lora_rank": 8, "lora_scale": 20.0, "learning_rate": 1e-5, "iters": 100, "batch_size": 2}
    write_json(run.paths.training, {"recipe": {**used, "max_seq_length": 512}})
    folder = export_data(run, "axolotl", tmp_path / "out", model="org/original").folder
    config = yaml.safe_load((folder / "axolotl.yml").read_text(encoding="utf-8"))
    rows = sum(1 for _ in read_lines(run.paths.dataset / "train.jsonl"))
    assert config["base_model"] == "org/original"
    assert (config["lora_r"], config["lora_alpha"], config["learning_rate"]) == (8, 160, 1e-5)
    assert config["sequence_len"] == 512
    assert config["num_epochs"] == pytest.approx(200 / rows, abs=0.01)


def test_few_examples_have_no_validation_rows_and_no_trainer_is_told_of_any(home: Path, tmp_path: Path) -> None:
    """A file that is named and missing stops a training at its start."""
    run = _run(home, rows=5)
    for form in FORMS:
        folder = export_data(run, form, tmp_path / form).folder
        assert not list(folder.glob("validation*"))
        named = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.*ml"))
        named += (folder / "dataset_info.json").read_text("utf-8") if (folder / "dataset_info.json").exists() else ""
        assert "validation" not in named, form
        if (folder / "sft.py").exists():
            assert "validation" not in _data_files(folder)


def test_nothing_is_written_over_and_a_run_without_examples_has_none(home: Path, tmp_path: Path) -> None:
    """The folder is named by the caller, and their files may be there."""
    run = _run(home)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserInputError, match="is there already and holds something"):
        export_data(run, "trl", tmp_path / "out")
    run.paths.traces_amplified.unlink()
    with pytest.raises(UserInputError, match="no examples yet"):
        export_data(run, "trl", tmp_path / "new")


def test_the_command_takes_every_form(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line names them without loading what writes them."""
    assert export_data_command.FORMS == FORMS
    run = _run(home)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANODISTILL_HOME", str(home))
    assert export_data_command.run(command_line().parse_args(["export-data", run.run_id, "--to", "trl"])) == 0
    assert (tmp_path / f"{run.run_id}-trl" / "train.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_library_they_load_rows_with_reads_them_back(home: Path, tmp_path: Path, form: DataForm) -> None:
    """Where ``datasets`` is installed, which is not brought along."""
    run = _run(home)
    folder = export_data(run, form, tmp_path / "out").folder
    [rows] = folder.glob("train.json*")
    program = "import datasets, json, sys; print(json.dumps(list(datasets.load_dataset('json', data_files=sys.argv[1])['train'])))"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, str(rows)]
    read = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    if "No module named 'datasets'" in read.stderr:
        pytest.skip("datasets is not brought along")
    assert read.returncode == 0, read.stderr
    text = rows.read_text(encoding="utf-8")
    assert json.loads(read.stdout) == (json.loads(text) if form == "alpaca" else _lines(rows))
