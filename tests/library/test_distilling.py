"""distill(): one call, over the same stages and the same folder as the tools."""

import json
import re
import subprocess
import sys
import types
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import nanodistill_mcp
from nanodistill_mcp import (
    AmplificationError,
    DistillationConfig,
    DistillationResult,
    NanoDistillError,
    TeacherAPIError,
    TrainingError,
    distill,
)
from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.demo.wire import Fails
from nanodistill_mcp.errors import BudgetError, ConfigurationError, RunStateError, UserInputError
from nanodistill_mcp.library.failures import failure
from nanodistill_mcp.pipeline.plan import check_options
from nanodistill_mcp.runs.files import read_object, write_lines
from tests.conftest import KEY, SECRET, SHORT, STAGES, Bench, Demo


class Ticket(BaseModel):
    """A form for answers."""

    queue: str


def _config(**given: Any) -> DistillationConfig:
    return DistillationConfig(name="tutor", seed=[{"input": "a", "output": "b"}], instruction="Say b.", **given)


@pytest.fixture
def caller(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory a script is called in, with the key in a ``.env`` beside it and nowhere else."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv(KEY, raising=False)
    (folder / ".env").write_text(f"{KEY}={SECRET}\nOPENAI_BASE_URL=http://127.0.0.1:9\nNANODISTILL_HOME=/nowhere\n")
    monkeypatch.setenv("NANODISTILL_HOME", str(bench.home))
    return folder


def _again(demo: Demo, bench: Bench) -> dict[str, Any]:
    """The arguments with which the demo's finished run is asked for again."""
    spec = (read_object(bench.run_folder(bench.adopt(demo)) / "run.json") or {})["spec"]
    return {
        "name": demo.run_folder.name,
        "seed": task.seeds(),
        **{name: spec[name] for name in ("instruction", "teacher", "student", "augment_factor")},
        "options": spec["options"],
    }


def test_a_run_that_is_there_is_answered_with_its_result_and_pays_nothing(
    bench: Bench, demo: Demo, caller: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Paid stages are never repeated, and the result says where everything lies and how good it is."""
    arguments = _again(demo, bench)
    told: list[dict[str, Any]] = []
    result = distill(**arguments, on_progress=told.append)
    assert isinstance(result, DistillationResult)
    assert result.folder == bench.run_folder(demo.run_folder.name)
    assert (result.model_path / "model.safetensors").is_file()
    assert result.gguf_path
    assert result.gguf_path.read_bytes()[:4] == b"GGUF"
    assert result.metrics["accuracy"] > result.metrics["base_accuracy"]
    assert set(STAGES) <= result.metrics.keys()
    assert result.decision in ("ship", "iterate", "stop", "too_few")
    assert bench.teacher.asked == []
    link = caller / "outputs" / demo.run_folder.name
    assert link.is_symlink()
    assert (link / "traces_amplified.jsonl").is_file()
    printed = capsys.readouterr().out
    assert "Going on with" in printed
    assert "Done for $" in printed


@pytest.mark.slow
def test_examples_become_a_model_in_one_call(caller: Path) -> None:
    """From a CSV file, without the GGUF file, in a notebook's cell as much as in a script."""
    seeds = caller / "seeds.csv"
    seeds.write_text("input,output\n" + "".join(f'"{row["input"]}",{row["output"]}\n' for row in task.seeds()))
    result = distill(
        "tutor", "seeds.csv", task.INSTRUCTION, "local", str(student_path()), 4, export_gguf=False, quiet=True, **SHORT
    )
    assert result.gguf_path is None
    assert (result.model_path / "adapters.safetensors").is_file()
    assert result.cost_usd > 0
    assert result.metrics["train"]["final_train_loss"] < result.metrics["train"]["first_train_loss"]


@pytest.mark.slow
@pytest.mark.usefixtures("caller")
def test_a_key_comes_from_the_dotenv_file_and_nothing_else_does(bench: Bench) -> None:
    """A file that came with somebody's examples must not say where the key is sent."""
    bench.teacher.script = lambda _: Fails("auth")
    with pytest.raises(TeacherAPIError) as stopped:
        distill("tutor", task.seeds(), task.INSTRUCTION, "local", str(student_path()), quiet=True)
    assert "refused the teacher's key" in stopped.value.what
    assert stopped.value.next_step
    assert {request.headers.get("authorization") for request in bench.teacher.asked} == {f"Bearer {SECRET}"}
    assert isinstance(stopped.value, NanoDistillError)


def test_a_refused_call_says_in_the_servers_words_what_is_accepted(bench: Bench, caller: Path) -> None:
    """The same check as an agent's call meets; a key that is missing is named before anything is spent."""
    with pytest.raises(NanoDistillError, match=f"{KEY} is not set"):
        distill("tutor", task.seeds(), task.INSTRUCTION, "local", str(student_path()), env_file=None, quiet=True)
    assert bench.teacher.asked == []
    assert not (caller / "outputs").exists()


def test_a_folder_of_somebody_elses_is_not_touched(bench: Bench, caller: Path) -> None:
    """The output directory is named by the caller, and their files may be there."""
    (caller / "outputs" / "tutor").mkdir(parents=True)
    with pytest.raises(UserInputError, match="is there already, and no run of this package"):
        distill("tutor", task.seeds(), task.INSTRUCTION, "local", str(student_path()))
    assert bench.teacher.asked == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_rank": 0}, "lora_rank: Input should be greater than or equal to 1"),
        ({"lora_rang": 8}, "lora_rang: Extra inputs are not permitted"),
        ({"preset": "best"}, "That is not a preset"),
        ({"litellm_kwargs": {"api_base": "http://x"}}, "endpoints are set under teachers"),
        ({"mlx_lm_kwargs": {"trust_remote_code": True}}, "code from a model's folder is never run"),
        ({"api_key": "sk-1"}, "keys and addresses are no arguments"),
        ({"memory_hard_limit_gb": 2, "max_memory_gb": 4}, "memory_hard_limit_gb"),
    ],
)
def test_what_is_not_accepted_is_said_before_anything_starts(given: dict[str, Any], said: str) -> None:
    """In the process of the caller, at once."""
    with pytest.raises(UserInputError) as refused:
        _config(**given)
    assert said in str(refused.value)
    assert "sk-1" not in str(refused.value)


def test_nanodistills_own_defaults_are_a_preset() -> None:
    """Whoever compares the two programs must be able to train alike."""
    config = _config(preset="nanodistill")
    assert config.get_litellm_synthesis_kwargs()["temperature"] == 0.7
    told = config.get_mlx_lm_cli_args()
    for flag, value in (
        *(("--learning-rate", "1e-05"), ("--num-layers", "4"), ("--batch-size", "1")),
        ("--max-seq-length", "256"),
    ):
        assert told[told.index(flag) + 1] == value


def test_keywords_of_both_libraries_are_merged_over_the_preset() -> None:
    """The semantics of NanoDistill: what is given goes before what is default."""
    config = _config(
        temperature=0.2,
        litellm_kwargs={"top_p": 0.8},
        mlx_lm_kwargs={"iters": 20, "grad_checkpoint": True},
        lora_layers=3,
    )
    assert config.get_litellm_synthesis_kwargs() == {"temperature": 0.2, "top_p": 0.8}
    told = config.get_mlx_lm_cli_args()
    assert "--grad-checkpoint" in told
    assert told[told.index("--iters") + 1] == "20"
    assert told[told.index("--num-layers") + 1] == "3"
    assert check_options(config.run_options()).mlx_lm == {"iters": 20}


def test_a_response_model_is_a_schema_that_every_output_keeps() -> None:
    """A class is what a Python user has; the run keeps its JSON Schema."""
    schema = _config(response_model=Ticket).arguments()["response_schema"]
    assert schema["properties"]["queue"]["type"] == "string"
    assert schema == Ticket.model_json_schema()


@pytest.mark.parametrize(
    ("stage", "kind", "error"),
    [
        ("amplify", "teacher", TeacherAPIError),
        ("amplify", "configuration", TeacherAPIError),
        ("train", "configuration", ConfigurationError),
        ("amplify", "budget", BudgetError),
        ("amplify", "defect", AmplificationError),
        ("train", "training", TrainingError),
        ("train", "defect", TrainingError),
        ("evaluate", "defect", NanoDistillError),
    ],
)
def test_an_error_is_classed_by_what_happened_and_else_by_the_stage(
    stage: str, kind: str, error: type[Exception]
) -> None:
    """A key that is refused in amplify is the teacher's matter, not amplification's."""
    made = failure(stage, kind, "It broke.", "Mend it.")
    assert type(made) is error
    assert (made.what, made.next_step) == ("It broke.", "Mend it.")


def test_the_library_is_loaded_when_it_is_asked_for() -> None:
    """The server imports this package as well, and a client waits for its start."""
    assert nanodistill_mcp.distill is distill
    with pytest.raises(AttributeError):
        _ = nanodistill_mcp.distil  # pyright: ignore[reportAttributeAccessIssue]
    assert sorted(nanodistill_mcp.__all__) == nanodistill_mcp.__all__


@pytest.mark.usefixtures("caller")
@pytest.mark.slow
def test_prompts_of_ones_own_reach_the_teacher(bench: Bench) -> None:
    """NanoDistill takes them as texts; a file does as well."""
    text = (resources.files("nanodistill_mcp.teacher") / "templates" / "solve.md").read_text(
        "utf-8"
    ) + "\nBe a lighthouse keeper.\n"
    bench.teacher.script = lambda _: Fails("auth")
    with pytest.raises(TeacherAPIError):
        distill(
            "tutor", task.seeds(), task.INSTRUCTION, "local", str(student_path()), prompts={"cot": text}, quiet=True
        )
    assert "lighthouse keeper" in json.dumps([request.body for request in bench.teacher.asked])
    with pytest.raises(NanoDistillError, match="The prompt 'cot' is not accepted"):
        distill("other", task.seeds(), task.INSTRUCTION, "local", str(student_path()), prompts={"cot": "Solve it."})


@pytest.mark.slow
@pytest.mark.usefixtures("caller")
def test_a_teacher_that_disagrees_with_the_examples_is_paid_no_more_without_a_word(bench: Bench) -> None:
    """Hundreds of examples of a task it does not understand would all be wrong."""
    rows = task.seeds()
    wrong = [{**row, "output": rows[number - 1]["output"]} for number, row in enumerate(rows)]
    with pytest.raises(RunStateError, match="Stopped before anything more is paid") as stopped:
        distill("tutor", wrong, task.INSTRUCTION, "local", str(student_path()), quiet=True)
    assert "anyway=True" in stopped.value.next_step
    assert {request.schema_name for request in bench.teacher.asked} <= {"WorkedSolution", "Derivation"}


@pytest.mark.parametrize("block", range(3))
def test_what_the_page_shows_is_python_that_runs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is copied. The first block starts a run, so here its call is only checked for what it passes."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {"DistillationConfig": DistillationConfig}
    if block:
        exec(blocks[block], names)
        return
    taken: list[DistillationConfig] = []

    def only_checked(**given: Any) -> Any:
        taken.append(DistillationConfig(**given))
        return types.SimpleNamespace(gguf_path="", decision="", metrics={"accuracy": 1}, cost_usd=0)

    monkeypatch.setattr(nanodistill_mcp, "distill", only_checked, raising=False)
    exec(blocks[block], names)
    assert taken[0].name == "ticket-router"


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", ["minimal", "low_memory", "high_performance", "quick", "production", "exploration", "nanodistill"]
)
def test_every_preset_is_carried_out_by_the_example(bench: Bench, caller: Path, preset: str) -> None:
    """Six configurations that NanoDistill shows, and its own defaults."""
    program = Path(__file__).resolve().parents[2] / "examples" / "python" / "distill_tickets.py"
    seeds, instruction = caller / "seeds.jsonl", caller / "instruction.md"
    write_lines(seeds, task.seeds())
    instruction.write_text(task.INSTRUCTION, encoding="utf-8")
    command = [sys.executable, str(program), preset, "--teacher", "local", "--student", str(student_path())]
    command += ["--seeds", str(seeds), "--instruction", str(instruction)]
    ended = subprocess.run(
        [*command, "--augment-factor", "2"],
        check=False,
        cwd=caller,
        env=bench.env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "model.gguf" in ended.stdout
