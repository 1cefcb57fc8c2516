"""A local teacher is asked once, what it said is kept, and a student is taught by it for real."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load

from nanodistill_mcp.errors import TrainingError, UserInputError
from nanodistill_mcp.student import models
from nanodistill_mcp.student.chat import ChatForm, Row
from nanodistill_mcp.student.control import Control, Want
from nanodistill_mcp.student.dataset import read_rows
from nanodistill_mcp.student.folder import StudentFolder
from nanodistill_mcp.student.local_teacher import taught
from nanodistill_mcp.student.lora import train, train_here
from nanodistill_mcp.student.requests import Distilling, InspectRequest, Taught, TrainRequest
from tests.student.bench import events, start, training
from tests.tiny_student import make_tiny


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the tiny student's tokenizer, wider and deeper."""
    return make_tiny(tmp_path_factory.mktemp("teachers") / "wide", hidden=128, layers=3)


def how(teacher: Path, **changes: Any) -> Distilling:
    """How it takes part."""
    values: dict[str, Any] = {"alpha": 0.5, "temperature": 2.0, "top_k": 8, **changes}
    return Distilling(local_teacher=str(teacher), **values)


def asked(request: TrainRequest, teacher: Path, **changes: Any) -> tuple[list[Row], list[Any], Taught, str]:
    """Ask the teacher about a request's training rows, or read what it said; answers with the rows first."""
    tokenizer = models.load_tokenizer(StudentFolder(Path(request.student)))
    rows = read_rows(request.dataset_dir / "train.jsonl", ChatForm(tokenizer), 128, mask_prompt=True).rows
    found, told, key = taught(
        rows,
        request.checkpoints_dir.with_name("teaching"),
        how(teacher, **changes),
        teacher,
        tokenizer,
        lambda _done, _of: None,
    )
    return rows, [np.array(row.taught) for row in found], told, key


def test_what_is_kept_is_what_the_teacher_says_of_each_row_alone(tmp_path: Path, student: Path, teacher: Path) -> None:
    """Rows are read side by side, padded; neither that nor the order they are read in may be felt."""
    rows, kept, told, _ = asked(training(tmp_path, student), teacher)

    model = load(str(teacher))[0]
    for row, its in zip(rows, kept, strict=True):
        logits = model(mx.array([row.tokens[:-1]]))[0, row.target_start - 1 :].astype(mx.float32)
        every = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        best = np.sort(every, axis=-1)[:, -8:]
        assert np.allclose(np.sort(its["logprobs"], axis=-1), best, atol=1e-4)
        assert np.allclose(np.take_along_axis(every, its["ids"], -1), its["logprobs"], atol=1e-4)
        assert np.allclose(every[np.arange(len(its)), row.tokens[row.target_start :]], its["target"], atol=1e-4)
    assert told.tokens == sum(len(its) for its in kept)
    assert told.covered == pytest.approx(
        np.mean(np.concatenate([np.exp(k["logprobs"]).sum(-1) for k in kept])), rel=1e-4
    )
    assert told.teacher_loss == pytest.approx(-np.mean(np.concatenate([k["target"] for k in kept])), rel=1e-4)


def test_the_teacher_is_asked_once_and_a_torn_part_again(tmp_path: Path, student: Path, teacher: Path) -> None:
    """Further epochs, a resumed training and one with another alpha read what is there; what is damaged is no word of its."""
    request = training(tmp_path, student, train=70)
    _, first, told, key = asked(request, teacher)
    assert (told.rows, told.rows_read) == (70, 70)

    _, again, told, _ = asked(request, teacher, alpha=0.9, temperature=1.0)
    assert told.rows_read == 0
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))

    parts = sorted((tmp_path / "teaching" / key).glob("*.npy"))
    assert len(parts) == 3
    parts[1].write_bytes(parts[1].read_bytes()[:-40])
    parts[2].with_suffix(".json").write_text("{")
    (tmp_path / "teaching" / "teacher.json").write_text("[]")
    _, mended, told, _ = asked(request, teacher)
    assert told.rows_read == 32 + 6
    assert all(np.array_equal(one, other) for one, other in zip(first, mended, strict=True))


@pytest.mark.slow
def test_other_weights_rows_or_tokens_kept_are_another_word(tmp_path: Path, student: Path, teacher: Path) -> None:
    """A stale answer of another teacher would teach in silence; what nothing reads any more gives its disk back."""
    request = training(tmp_path, student)
    keys = [asked(request, teacher)[3], asked(request, teacher, top_k=9)[3]]
    keys.append(asked(request, teacher, local_teacher_bits=8)[3])
    changed = shutil.copytree(teacher, tmp_path / "changed")
    weights = mx.load(str(changed / "model.safetensors"))
    assert isinstance(weights, dict)
    mx.save_safetensors(str(changed / "model.safetensors"), {name: value * 1.01 for name, value in weights.items()})
    keys.append(asked(request, changed)[3])

    assert len(set(keys)) == 4
    assert [entry.name for entry in (tmp_path / "teaching").iterdir() if entry.is_dir()] == keys[-1:]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_teacher_says_nearly_the_same(tmp_path: Path, student: Path, teacher: Path, bits: int) -> None:
    """Half or a quarter of the memory for a teacher that need not be exact."""
    whole = asked(training(tmp_path / "whole", student), teacher)[2]
    small = asked(training(tmp_path / "small", student), teacher, local_teacher_bits=bits)[2]

    assert small.teacher_loss == pytest.approx(whole.teacher_loss, rel=0.02)


def test_nothing_of_the_teacher_stays_in_memory(tmp_path: Path, student: Path, teacher: Path) -> None:
    """The two are never in memory together, or a machine that can hold either could train with neither."""
    request = training(tmp_path, student)
    before = mx.get_active_memory()

    asked(request, teacher)

    assert mx.get_active_memory() - before < 0.1 * sum(path.stat().st_size for path in teacher.glob("*.safetensors"))


def test_a_teacher_with_another_tokenizer_is_refused(tmp_path: Path, student: Path) -> None:
    """Its token 17 is another word: the loss would fall, and the student learn nonsense."""
    other = make_tiny(tmp_path / "other", seed=4, vocab=400)
    with pytest.raises(UserInputError, match="another tokenizer") as refused:
        train(training(tmp_path, student, distilling=how(other)))
    assert "student's own family" in refused.value.next_step
    assert not (tmp_path / "teaching").exists()

    with pytest.raises(UserInputError, match="another tokenizer"):
        models.inspect(InspectRequest(student=str(student), local_teacher=str(other), result_path=tmp_path / "r"))


@pytest.mark.parametrize("key", ["auto_map", "model_file"])
def test_a_teacher_that_brings_code_is_refused_as_a_student_is(
    tmp_path: Path, student: Path, teacher: Path, key: str
) -> None:
    """It is one more folder somebody else has written."""
    other = shutil.copytree(teacher, tmp_path / "code")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, key: "model.py"}))
    with pytest.raises(UserInputError, match="run code of its own"):
        train(training(tmp_path, student, distilling=how(other)))
    with pytest.raises(UserInputError, match="run code of its own"):
        models.inspect(InspectRequest(student=str(student), local_teacher=str(other), result_path=tmp_path / "r"))


def test_a_teacher_that_cuts_the_same_texts_otherwise_is_refused(tmp_path: Path, student: Path, teacher: Path) -> None:
    """The same tokens under the same numbers are not one tokenizer yet."""
    from nanodistill_mcp.student.measure import measure
    from nanodistill_mcp.student.requests import MeasureRequest

    other = shutil.copytree(teacher, tmp_path / "merges")
    told = json.loads((other / "tokenizer.json").read_text())
    told["model"]["merges"] = told["model"]["merges"][:5]
    (other / "tokenizer.json").write_text(json.dumps(told))
    request = training(tmp_path, student)
    asks = MeasureRequest(
        student=str(student), local_teacher=str(other), dataset_dir=request.dataset_dir, result_path=tmp_path / "m"
    )
    with pytest.raises(UserInputError, match="cut the run's texts"):
        measure(asks)
    assert measure(asks.model_copy(update={"local_teacher": str(teacher)})).local_teacher is not None


@pytest.mark.parametrize("changes", [{"packing": False, "grad_accumulation_steps": 2}, {"fine_tune_type": "full"}])
def test_a_student_is_taught_and_told_from_one_that_was_not(
    tmp_path: Path, student: Path, teacher: Path, changes: dict[str, Any]
) -> None:
    """Trained for real; the validation loss stays the answers' own, so that the two can be compared."""
    request = training(tmp_path, student, iters=10, learning_rate=2e-3, distilling=how(teacher), **changes)
    result = train(request)

    assert result.taught is not None
    assert (result.taught.alpha, result.taught.rows_read) == (0.5, 20)
    assert result.final_train_loss is not None
    assert result.first_train_loss is not None
    assert result.final_train_loss < result.first_train_loss
    plain = train(training(tmp_path / "plain", student, iters=10, learning_rate=2e-3, **changes))
    untaught, taught_ = (
        events(each, "valid")[0]["valid_loss"] for each in (training(tmp_path / "plain", student), request)
    )
    assert plain.taught is None
    assert taught_ == pytest.approx(untaught, rel=1e-4)
    assert [line["rows"] for line in events(request, "teaching")] == [0, 20]


@pytest.mark.slow
def test_killed_while_the_teacher_reads_it_goes_on_where_it_was(tmp_path: Path, student: Path, teacher: Path) -> None:
    """A teacher of many gigabytes takes its time, and a part whose manifest is missing is no part."""
    request = training(tmp_path, student, train=70, iters=2, valid=0, distilling=how(teacher))
    with start(request, NANODISTILL_FAULT="teaching.manifest:2:kill") as process:
        assert process.wait(60) == -9

    result = train(request)

    assert result.taught is not None
    assert (result.taught.rows, result.taught.rows_read) == (70, 70 - 32)


class CancelAt(Control):
    """Wants a cancel once an iteration is reported."""

    def __init__(self, request: TrainRequest, iteration: int) -> None:
        super().__init__()
        self._request, self._iteration = request, iteration

    @property
    def want(self) -> Want:
        return "cancel" if len(events(self._request, "step")) >= self._iteration else "run"


@pytest.mark.slow
def test_a_training_that_goes_on_reads_what_was_kept_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, student: Path, teacher: Path
) -> None:
    """The teacher runs once, however often training dies; to the last bit."""
    whole = train(training(tmp_path / "whole", student, iters=8, distilling=how(teacher)))
    request = training(tmp_path / "cut", student, iters=8, distilling=how(teacher))
    assert train_here(request, student, CancelAt(request, 5)).stopped == "cancelled"

    result = train(request)

    assert result.taught is not None
    assert (result.resumed_from, result.taught.rows_read) == (5, 0)
    assert result.adapter_sha256 == whole.adapter_sha256


def test_a_teacher_that_knows_less_than_the_student_is_refused(tmp_path: Path, student: Path) -> None:
    """Whatever the loss then says, the student would come to write the answers worse than before."""
    sure = make_tiny(tmp_path / "sure", hidden=128)
    weights = mx.load(str(sure / "model.safetensors"))
    assert isinstance(weights, dict)
    loud = {name: value * (12 if "embed" in name else 1) for name, value in weights.items()}
    mx.save_safetensors(str(sure / "model.safetensors"), loud, {"format": "pt"})
    request = training(tmp_path, student, distilling=how(sure))

    with pytest.raises(TrainingError, match="and the untrained student with") as refused:
        train(request)

    assert "trained for this task" in refused.value.next_step
    assert not events(request, "step")
