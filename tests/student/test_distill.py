"""The loss of a white-box distillation, held against a reference written out in double precision."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportUnknownLambdaType=false

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.utils import load

from nanodistill_mcp.student import distill
from nanodistill_mcp.student.adapters import attach_adapter, trained
from nanodistill_mcp.student.chat import ChatForm, Row
from nanodistill_mcp.student.dataset import as_batch
from nanodistill_mcp.student.distill import LEAST_REST, TaughtRow, distilled_loss, distilling, kept_form
from nanodistill_mcp.student.packing import Packing, packing_of
from nanodistill_mcp.student.requests import Distilling
from tests.student.bench import conversation, recipe

VOCABULARY = 12


def how(alpha: float = 0.5, temperature: float = 2.0, top_k: int = 4) -> Distilling:
    """How a teacher takes part."""
    return Distilling(local_teacher="t", alpha=alpha, temperature=temperature, top_k=top_k)


def log_softmax(logits: Any) -> Any:
    """In the precision of its argument."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def reference(
    alpha: float, temperature: float, student: Any, teacher: Any, targets: Any, weights: Any, k: int
) -> float:
    """The loss as the documentation has it, token by token and outcome by outcome, in double precision."""
    total = 0.0
    for own, its, target, weight in zip(student, teacher, targets, weights, strict=True):
        q, p = np.exp(log_softmax(own)), np.exp(log_softmax(its))
        kept = np.argsort(-p, kind="stable")[:k]
        p_outcomes, q_outcomes = list(p[kept]), list(q[kept])
        if k < len(p):
            p_outcomes.append(max(1 - p[kept].sum(), LEAST_REST))
            q_outcomes.append(max(1 - q[kept].sum(), LEAST_REST))
        p_tempered, q_tempered = (
            np.array(each) ** (1 / temperature) / (np.array(each) ** (1 / temperature)).sum()
            for each in (p_outcomes, q_outcomes)
        )
        divergence = float((p_tempered * np.log(p_tempered / q_tempered)).sum())
        total += weight * (alpha * temperature**2 * divergence - (1 - alpha) * float(np.log(q[target])))
    return total / float(weights.sum())


def reference_gradient(loss: Any, logits: Any) -> Any:
    """Central differences."""
    gradient = np.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][index] += 1e-5
        moved[1][index] -= 1e-5
        gradient[index] = (loss(moved[0]) - loss(moved[1])) / 2e-5
    return gradient


@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1, VOCABULARY])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 2.0), (1.0, 1.0), (0.9, 4.0), (0.3, 0.5)])
def test_loss_and_gradient_are_those_of_a_reference_in_double_precision(
    k: int, alpha: float, temperature: float
) -> None:
    """With k tokens and the rest as one outcome; with all of them it is Hinton's own loss. What is masked counts nothing."""
    random = np.random.RandomState(k)
    student, teacher = random.normal(0, 2, (2, 5, VOCABULARY))
    targets, weights = random.randint(0, VOCABULARY, 5), np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    ids = np.argsort(-teacher, axis=-1, kind="stable")[:, :k]
    logprobs = np.take_along_axis(log_softmax(teacher), ids, -1)
    arrays = [
        mx.array(targets),
        mx.array(weights.astype(np.float32)),
        mx.array(ids),
        mx.array(logprobs.astype(np.float32)),
    ]

    def ours(logits: mx.array) -> mx.array:
        return distilled_loss(how(alpha, temperature, k), logits, *arrays)[0]

    value, gradient = mx.value_and_grad(ours)(mx.array(student.astype(np.float32)))

    def expected(logits: Any) -> float:
        return reference(alpha, temperature, logits, teacher, targets, weights, k)

    assert float(value) == pytest.approx(expected(student), rel=1e-4, abs=1e-6)
    assert np.allclose(np.array(gradient), reference_gradient(expected, student), rtol=1e-3, atol=1e-5)
    assert not np.array(gradient)[weights == 0].any()


def test_with_the_whole_vocabulary_it_is_the_published_loss() -> None:
    """Softmax of logits over T, and T² before it: nothing of the outcomes' making shows when no token is left out."""
    random = np.random.RandomState(1)
    student, teacher = random.normal(0, 3, (2, 6, VOCABULARY))
    ids = np.tile(np.arange(VOCABULARY), (6, 1))
    temperature = 3.0

    found = distill.divergence(
        mx.array(student.astype(np.float32)),
        mx.array(ids),
        mx.array(log_softmax(teacher).astype(np.float32)),
        temperature,
    )

    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    assert np.allclose(np.array(found), (np.exp(p) * (p - q)).sum(-1), rtol=1e-4)


def taught_rows(rows: list[Row], vocabulary: int, k: int) -> tuple[list[Row], list[Any]]:
    """Rows with a made-up teacher's word on each, and its logits, row by row."""
    random = np.random.RandomState(5)
    logits = [random.normal(0, 2, (len(row.tokens) - max(row.target_start, 1), vocabulary)) for row in rows]
    taught: list[Row] = []
    for row, its in zip(rows, logits, strict=True):
        kept = np.zeros(len(its), kept_form(k))
        kept["ids"] = np.argsort(-its, axis=-1)[:, :k]
        kept["logprobs"] = np.take_along_axis(log_softmax(its), kept["ids"], -1)
        taught.append(TaughtRow(row.tokens, row.target_start, kept))
    return taught, logits


@pytest.mark.parametrize("from_start", [False, True])
def test_a_batch_gives_each_token_its_own_teaching_packed_or_not(student: Path, from_start: bool) -> None:
    """A shift by one token, or another row's word, would teach repetitions; packed and unpacked have to agree with the rows alone."""
    model, tokenizer = load(str(student))[:2]
    chat = ChatForm(tokenizer)
    rows = [chat.row(conversation(number, many)["messages"]) for number, many in enumerate([3, 0, 14, 1, 7])]
    rows = [Row(row.tokens, 0) for row in rows] if from_start else rows
    attach_adapter(model, recipe())
    model.load_weights([(name, mx.random.normal(w.shape) * 0.1) for name, w in trained(model).items()], strict=False)
    vocabulary = model(mx.array([[1]])).shape[-1]
    taught, logits = taught_rows(rows, vocabulary, 6)
    packing = packing_of(model, taught)
    assert isinstance(packing, Packing), packing

    students = [
        np.array(model(mx.array([row.tokens[:-1]]))[0], np.float64)[max(row.target_start, 1) - 1 :] for row in rows
    ]
    targets = np.concatenate([row.tokens[max(row.target_start, 1) :] for row in rows])
    expected = reference(0.5, 2.0, np.concatenate(students), np.concatenate(logits), targets, np.ones(len(targets)), 6)
    gradients: list[dict[str, mx.array]] = []
    for each in (packing, None):
        loss, layout = distilling(how(top_k=6), each)
        (value, count), found = value_and_grad(model, loss)(model, *layout(taught))
        assert float(value) == pytest.approx(expected, rel=1e-3)
        assert int(count) == len(targets)
        gradients.append(dict(tree_flatten(found)))
    for name, gradient in gradients[1].items():
        assert mx.allclose(gradients[0][name], gradient, rtol=1e-2, atol=2e-3), name


def test_with_a_vanishing_share_of_the_teachers_it_is_the_plain_loss(student: Path) -> None:
    """The part that is cross-entropy counts the very tokens that MLX-LM's own loss counts."""
    model, tokenizer = load(str(student))[:2]
    rows = [ChatForm(tokenizer).row(conversation(number, number)["messages"]) for number in range(4)]
    taught, _ = taught_rows(rows, 100, 4)
    loss, layout = distilling(how(alpha=1e-9), None)

    value, count = loss(model, *layout(taught))

    expected, expected_count = default_loss(model, *as_batch(rows))
    assert (float(value), int(count)) == (pytest.approx(float(expected), rel=1e-4), int(expected_count))


def descended(alpha: float, *, top_k: int = 2) -> Any:
    """The probabilities of a student that writes a repetition and descends the loss alone, over an answer of six tokens."""
    random = np.random.RandomState(0)
    teacher = random.normal(0, 1, (6, VOCABULARY))
    targets = teacher.argmax(-1)
    teacher[np.arange(6), targets] += 3
    ids = np.argsort(-teacher, axis=-1)[:, :top_k]
    logprobs = np.take_along_axis(log_softmax(teacher), ids, -1)
    arrays = [mx.array(targets), mx.ones(6), mx.array(ids), mx.array(logprobs.astype(np.float32))]
    logits = mx.zeros((6, VOCABULARY))
    repeated = next(token for token in range(VOCABULARY) if token not in ids)
    logits[:, repeated] = 5.0
    slope = mx.grad(lambda own: distilled_loss(how(alpha, 1.0, top_k), own, *arrays)[0])
    for _ in range(300):
        logits = logits - 2.0 * slope(logits)
    return np.array(mx.softmax(logits, axis=-1)), targets


def test_at_alpha_one_a_student_cannot_hide_in_the_tokens_that_were_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others compare the k kept tokens with each other alone: their loss falls to nothing while the student repeats itself."""
    probabilities, targets = descended(1.0)
    assert (probabilities.argmax(-1) == targets).all()

    own = distill._outcomes  # pyright: ignore[reportPrivateUsage] - the guard itself, taken away for the control
    monkeypatch.setattr(distill, "_outcomes", lambda logprobs, temperature, **_: own(logprobs, temperature, whole=True))
    probabilities, targets = descended(1.0)
    assert (probabilities.argmax(-1) != targets).all()
