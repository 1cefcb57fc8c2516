"""The probe: real steps on real weights, which may end the process that takes them."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import TrainingError, UserInputError
from nanodistill_mcp.runs.files import read_json, read_lines
from nanodistill_mcp.student.folder import StudentFolder
from nanodistill_mcp.student.lora import train
from nanodistill_mcp.student.measure import measure
from nanodistill_mcp.student.probe import probe
from nanodistill_mcp.student.requests import (
    EXIT_OVER_MEMORY,
    Measured,
    MeasureRequest,
    ProbeRequest,
    ProbeResult,
    Recipe,
    TrainRequest,
)
from tests.student.bench import carry_out, conversation, recipe, training, write_jsonl
from tests.student.gguf_students import make_family
from tests.tiny_student import CHAT_TEMPLATE

PLENTY = 10**10


def _probe_of(request: TrainRequest, *recipes: Recipe, limit: int = PLENTY) -> ProbeRequest:
    folder = request.result_path.parent
    return ProbeRequest(
        student=request.student,
        dataset_dir=request.dataset_dir,
        recipes=list(recipes) or [request.recipe],
        memory_limit_bytes=limit,
        metrics_path=folder / "probe.jsonl",
        result_path=folder / "probe.json",
    )


def _measure(request: TrainRequest) -> Measured:
    return measure(
        MeasureRequest(
            student=request.student,
            dataset_dir=request.dataset_dir,
            result_path=request.result_path.with_name("m.json"),
        )
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"fine_tune_type": "full"}, {"optimizer": "muon"}, {"grad_accumulation_steps": 4}, {"packing": False}],
    ids=str,
)
def test_what_the_probe_measured_is_what_training_then_takes(
    tmp_path: Path, student: Path, changes: dict[str, Any]
) -> None:
    """The peak decides whether training is begun at all; too low a figure is found out hours later."""
    request = training(tmp_path, student, **changes)
    gc.collect()  # MLX counts what this process still holds, of earlier tests and of the probe
    probed = probe(_probe_of(request))
    gc.collect()
    trained = train(request)

    assert probed.rung == 0
    assert trained.peak_memory_gb <= 1.15 * probed.peak_memory_gb
    assert probed.trainable_parameters == trained.trainable_parameters
    assert probed.losses[0] == pytest.approx(trained.first_train_loss, rel=0.3)
    assert 0 < probed.mean_tokens <= probed.step_tokens
    assert probed.short_step_tokens <= probed.step_tokens
    assert probed.valid_tokens > 0
    checkpoint = max(path.stat().st_size for path in request.checkpoints_dir.glob("*.safetensors"))
    assert checkpoint == pytest.approx(probed.checkpoint_bytes, rel=0.5, abs=20_000)


def test_the_first_rung_that_fits_is_taken(tmp_path: Path, student: Path) -> None:
    """A smaller batch of the same effect, before anything that costs quality."""
    request = training(tmp_path, student, batch_size=16, packing=False)
    rungs = [request.recipe.model_copy(update={"batch_size": size}) for size in (16, 8, 1)]
    large, small = (_carried_out(_probe_of(request, rung)).peak_memory_gb for rung in rungs[:2])
    assert small < large

    result = _carried_out(_probe_of(request, *rungs, limit=int(1e9 * (large * 0.96))))

    assert result.rung == 1
    assert [attempt.fits for attempt in result.attempts] == [False, True]


def _carried_out(request: ProbeRequest) -> ProbeResult:
    """In a process of its own, whose memory nothing else is in, and which a probe may end."""
    code, result = carry_out(request)
    assert code == 0
    return ProbeResult.model_validate(result)


def test_a_step_far_above_the_limit_ends_the_process_and_not_the_machine(tmp_path: Path, student: Path) -> None:
    """MLX enforces no limit on the CPU: the kernel would end something, and perhaps not this."""
    request = _probe_of(training(tmp_path, student, batch_size=16), limit=1_000_000)
    code, result = carry_out(request)

    assert (code, result) == (EXIT_OVER_MEMORY, None)
    assert [line["rung"] for line in read_lines(request.metrics_path)] == [0]


def test_weights_that_alone_are_too_much_are_not_loaded(tmp_path: Path, student: Path) -> None:
    """Nothing is tried that cannot end well."""
    result = probe(_probe_of(training(tmp_path, student), limit=100_000))

    assert (result.rung, result.attempts) == (None, [])
    assert result.weights_gb > 0.0001


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen3_5"])
def test_students_with_experts_or_states_are_trained_when_their_gradients_are_sound(
    tmp_path: Path, family: str
) -> None:
    """Some architectures' layers have no gradient in MLX, or none that is a number; two steps tell."""
    request = training(tmp_path, make_family(tmp_path / "student", family))

    assert _measure(request).facts.kind == {"qwen3_moe": "mixture of experts", "qwen3_5": "hybrid"}[family]
    result = probe(_probe_of(request))
    assert result.rung == 0
    assert all(norm > 0 for norm in result.gradient_norms)
    assert len(result.gradient_norms) == 2


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ("return states * float('nan')", "its gradients are no numbers"),
        ("return mx.stop_gradient(states)", "its gradients are all zero"),
        ("raise ValueError('[Primitive::vjp] Not implemented')", "no gradient passes through its layers"),
    ],
)
def test_a_student_through_which_no_gradient_passes_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str, said: str
) -> None:
    """It would train for hours, and be what it was before."""
    import mlx.core as mx
    from mlx_lm.models import qwen3_moe

    request = training(tmp_path, make_family(tmp_path / "student", "qwen3_moe"), packing=False)
    scope: dict[str, Any] = {"mx": mx}
    exec(f"def broken(states):\n    {breaks}\n", scope)
    own = qwen3_moe.Model.__call__

    def call(self: Any, *inputs: Any, **named: Any) -> Any:
        return scope["broken"](own(self, *inputs, **named))

    monkeypatch.setattr(qwen3_moe.Model, "__call__", call)
    with pytest.raises(UserInputError) as caught:
        probe(_probe_of(request))
    assert said in caught.value.what
    assert "mixture of experts architecture qwen3_moe" in caught.value.what
    assert "dense student" in caught.value.next_step


def test_a_learning_rate_that_breaks_the_student_at_once_is_told_apart(tmp_path: Path, student: Path) -> None:
    """The student is fine; the recipe is not."""
    with pytest.raises(TrainingError, match=r"learning rate of 1e\+30 the loss is no number"):
        probe(_probe_of(training(tmp_path, student), recipe(learning_rate=1e30)))


def test_gradient_checkpointing_of_one_rung_does_not_stay_for_the_next(tmp_path: Path, student: Path) -> None:
    """The trainer puts it on the class of the blocks, for the rest of the process."""
    from mlx_lm.models import llama

    own = llama.TransformerBlock.__call__
    result = probe(_probe_of(training(tmp_path, student), recipe(grad_checkpoint=True)))

    assert result.rung == 0
    assert llama.TransformerBlock.__call__ is own


def test_a_probe_in_a_process_says_all_it_found(tmp_path: Path, student: Path) -> None:
    """As the worker runs it."""
    request = _probe_of(training(tmp_path, student))
    code, _ = carry_out(request)

    assert code == 0
    result = ProbeResult.model_validate(read_json(request.result_path))
    assert (result.device, result.rung) == ("CPU", 0)


def test_every_row_is_measured_and_proved(tmp_path: Path, student: Path) -> None:
    """What is learnt is the answer and its end token; rows that quote the end token would teach to stop in the middle."""
    request = training(tmp_path, student, train=6, valid=2)
    quoting = conversation(7)
    quoting["messages"][-1]["content"] += "<|im_end|> and more"
    write_jsonl(request.dataset_dir / "train.jsonl", [*map(conversation, range(6)), quoting])
    measured = _measure(request)

    assert (len(measured.train), len(measured.valid), measured.quoting_rows) == (6, 2, 1)
    assert all(0 < row.learnt < row.tokens for row in measured.train)


def test_rows_whose_answers_the_tokenizer_changes_are_named_together(tmp_path: Path, student: Path) -> None:
    """One at a time the user would be sent back for each."""
    broken = shutil.copytree(student, tmp_path / "student")
    (broken / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    path = broken / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "odd"}, "content": "even"}
    path.write_text(json.dumps(tokenizer))
    request = training(tmp_path, broken)
    write_jsonl(request.dataset_dir / "train.jsonl", [{"id": f"g{n}", **conversation(n)} for n in range(16)])
    with pytest.raises(TrainingError) as caught:
        _measure(request)
    assert "the answers of 10 rows (g1, g3, g5, g7, g9, ...)" in caught.value.what


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "gemma3_text", "layer_types": ["sliding_attention", "full_attention"]}, "dense"),
        ({"model_type": "smollm3", "layer_types": ["full_attention"], "num_experts": 0}, "dense"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 256}, "mixture of experts"),
        (
            {"model_type": "gpt_oss", "num_local_experts": 32, "layer_types": ["sliding_attention"]},
            "mixture of experts",
        ),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, "hybrid"),
        ({"model_type": "qwen3_next", "num_experts": 512, "full_attention_interval": 4}, "hybrid"),
        ({"model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"], "num_local_experts": 8}, "hybrid"),
        ({"model_type": "falcon_h1", "mamba_d_state": 128}, "hybrid"),
        ({"model_type": "qwen3_5", "text_config": {"layer_types": ["linear_attention", "full_attention"]}}, "hybrid"),
    ],
    ids=str,
)
def test_the_kind_of_an_architecture_is_read_from_its_configuration(
    tmp_path: Path, config: dict[str, Any], kind: str
) -> None:
    """It decides how many blocks are trained, and what is said when no gradient passes."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert StudentFolder(tmp_path).kind == kind
