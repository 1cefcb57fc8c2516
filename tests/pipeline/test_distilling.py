"""A local teacher as an option of a run: what is asked, what is refused, what is told, and a training with one."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.jobs.supervise import carry_out
from nanodistill_mcp.pipeline.distilling import in_words
from nanodistill_mcp.pipeline.plan import check_request
from nanodistill_mcp.pipeline.recipe import explained, resolve
from nanodistill_mcp.pipeline.stages import STAGES
from nanodistill_mcp.pipeline.training_plan import stored_plan
from nanodistill_mcp.runs.files import read_lines, read_object
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import Exit, Stage
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.runs.translations import translate
from nanodistill_mcp.settings import load_settings
from nanodistill_mcp.student.requests import StudentFacts
from tests.runs.made import SEEDS, begin_job, manifest, put_demo_examples


def _resolved(facts: StudentFacts | None = None, **options: Any) -> tuple[Any, dict[str, str]]:
    recipe, reasons = resolve("recommended", Options(**options), rows=100, layers=4, local_teacher=facts)
    return recipe.distilling, reasons


def _facts(**changes: Any) -> StudentFacts:
    values: dict[str, Any] = {
        "student": "org/large",
        "student_path": None,
        "model_type": "llama",
        "parameters": 9,
        "bytes_on_disk": 9,
        "layers": 4,
        "max_position_embeddings": 2048,
        "has_chat_template": True,
        "thinks_natively": False,
        **changes,
    }
    return StudentFacts(**values)


def test_a_local_teacher_alone_is_enough_and_without_one_nothing_changes() -> None:
    """Who names a teacher wants its probabilities; the shares have defaults."""
    how, _ = _resolved(local_teacher="org/large")
    assert (how.local_teacher, how.alpha, how.temperature, how.top_k) == ("org/large", 0.5, 2.0, 64)
    assert _resolved()[0] is None


def test_a_teacher_from_the_hub_is_the_commit_that_was_looked_at() -> None:
    """What was measured is what teaches, wherever the branch moves."""
    how, _ = _resolved(_facts(revision="a" * 40), local_teacher="org/large")
    assert how.local_teacher == f"org/large@{'a' * 40}"


def test_alpha_one_leaves_a_tenth_to_the_answers_and_says_so() -> None:
    """With nothing of the answers' own, others report students that write endless repetitions."""
    how, reasons = _resolved(local_teacher="org/large", distill_alpha=1.0)
    assert how.alpha == 0.9
    assert "0.9 instead of 1: a tenth of the loss stays the answers' own" in reasons["distill_alpha"]
    told = explained(
        "recommended", Options(local_teacher="org/large", distill_alpha=1.0), {"distill_alpha": how.alpha}, reasons
    )
    assert {"option": "distill_alpha", "value": 0.9, "why": f"set by you; {reasons['distill_alpha']}"} in told


@pytest.mark.parametrize(
    ("facts", "options", "said"),
    [
        (None, {"distill_alpha": 0.5}, "there is none"),
        (None, {"local_teacher_bits": 4}, "there is none"),
        (
            _facts(quantized_bits=4),
            {"local_teacher": "org/large", "local_teacher_bits": 8},
            "quantized to 4 bits already",
        ),
    ],
)
def test_what_makes_no_sense_together_is_refused_in_words(
    facts: StudentFacts | None, options: dict[str, Any], said: str
) -> None:
    """An option that is ignored costs a training."""
    with pytest.raises(UserInputError, match=said) as refused:
        _resolved(facts, **options)
    assert "local_teacher" in refused.value.next_step


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"distillation": {"alpha": 0.7, "temperature": 3}}, {"distill_alpha": 0.7, "distill_temperature": 3}),
        ({"local_teacher": "t", "alpha": 0.3}, {"local_teacher": "t", "distill_alpha": 0.3}),
        ({"kd_ratio": 0.4, "top_logits_num": 10}, {"distill_alpha": 0.4, "distill_top_k": 10}),
        (
            {"teacher_model_name_or_path": "t", "kd_temperature": 2.0, "temperature": 0.7},
            {"local_teacher": "t", "distill_temperature": 2.0, "temperature": 0.7},
        ),
    ],
)
def test_names_of_other_systems_are_taken_for_what_they_mean(given: dict[str, Any], meant: dict[str, Any]) -> None:
    """NLM, EasyDistill, DistillKit and TRL; ``temperature`` alone stays the paid teacher's."""
    assert translate(given)[0] == meant


def test_alpha_without_a_local_teacher_means_nothing() -> None:
    """It may be PEFT's as well: nobody guesses."""
    assert translate({"alpha": 16})[0] == {"alpha": 16}
    with pytest.raises(UserInputError, match="not taken"):
        translate({"distillation": {"alpha": 0.5, "path": "/"}})


def test_a_local_teacher_is_allowed_where_a_student_is(tmp_path: Path) -> None:
    """It is read like a student, and may lie nowhere else."""

    def asked(teacher: str, **settings: Any) -> str:
        loaded = load_settings(tmp_path / "home").model_copy(update=settings)
        request = check_request(
            loaded, name="r", instruction="Sort.", seed=[{"input": each, "output": "b"} for each in "acd"], seed_path="", teacher="host",
            student="org/small", augment_factor=5, reasoning="cot", response_schema={}, preset="recommended",
            options={"local_teacher": teacher}, budget_usd=1,
        )  # fmt: skip
        return request.local_teacher

    (folder := tmp_path / "models").mkdir()
    assert asked(str(folder), allowed_paths=[tmp_path]) == str(folder.resolve())
    with pytest.raises(UserInputError, match="local teacher's folder is outside the directories"):
        asked("/etc", allowed_paths=[tmp_path])
    with pytest.raises(UserInputError, match="That local teacher is not among those this server may use"):
        asked("evil/large", allowed_students=["org"])


def test_the_card_names_a_local_teacher_without_its_folder() -> None:
    """The card is for others; whose machine it was is not."""
    taught = {"alpha": 0.5, "temperature": 2.0, "top_k": 64, "covered": 0.987, "teacher_loss": 0.21}
    told = in_words({**taught, "local_teacher": "/home/someone/models/large"})
    assert "a local teacher, large (alpha 0.5, temperature 2, top 64 tokens with 98.7 % of the probability" in told
    assert "someone" not in told
    assert "org/large (" in in_words({**taught, "local_teacher": f"org/large@{'a' * 40}"})


async def _carried_out(run: Run, home: Path, stage: Stage, teacher: Path) -> Exit:
    """Carry a stage out in this process, its student processes as ever."""
    models = {"student": str(student_path()), "local_teacher": str(teacher)}
    job = begin_job(run, stage, training_lock_path=str(home / "training.lock"), **models)
    ended = await carry_out(job, STAGES[stage])
    assert ended is not None
    return ended


@pytest.mark.slow
async def test_a_run_is_trained_with_its_local_teacher_and_tells_it_everywhere(home: Path, tmp_path: Path) -> None:
    """The plan shows what will be done and takes the teacher's memory along; the outcome says what was."""
    teacher = shutil.copytree(student_path(), tmp_path / "teacher")
    options = {"local_teacher": str(teacher), "distill_alpha": 1.0, "distill_top_k": 16, "mlx_lm": {"iters": 8}}
    run, _ = RunStore(home).create(manifest(student=str(student_path()), options=options), SEEDS)
    put_demo_examples(run)

    ended = await _carried_out(run, home, "train", teacher)

    assert ended.outcome == "done", ended.what
    plan, outcome = stored_plan(run), read_object(run.paths.training)
    assert plan is not None
    assert outcome is not None
    resolved = {each["option"]: each["value"] for each in plan.resolved}
    assert (resolved["local_teacher"], resolved["distill_alpha"], resolved["distill_top_k"]) == (teacher.name, 0.9, 16)
    assert resolved["distill_temperature"] == 2.0
    assert plan.teacher_peak_memory_gb
    assert plan.peak_memory_gb >= plan.teacher_peak_memory_gb
    assert outcome["taught"]["rows_read"] == outcome["taught"]["rows"] == outcome["rows_trained"]
    assert 0.5 < outcome["taught"]["covered"] <= 1
    report = (run.paths.root / "report.md").read_text()
    assert "the probabilities of a local teacher, teacher (alpha 0.9" in report
    assert str(tmp_path) not in report
    messages = [line.get("message", "") for line in read_lines(run.paths.job_list()[-1].events, appended=True)]
    assert not [message for message in messages if str(tmp_path) in message]
