"""Training in this process: the recipe's variants, its limits, and the ways it ends."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load

from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.errors import NanodistillError, TrainingError, UserInputError
from nanodistill_mcp.runs.files import sha256_of, write_json
from nanodistill_mcp.student import checkpoints, lora
from nanodistill_mcp.student.control import Control, Want
from nanodistill_mcp.student.lora import learning_rate, train, train_here
from nanodistill_mcp.student.requests import TrainRequest
from tests.student.bench import conversation, events, recipe, training, write_jsonl
from tests.tiny_student import make_tiny


class CancelAt(Control):
    """Wants a cancel from the moment an iteration is reported."""

    def __init__(self, request: TrainRequest, iteration: int) -> None:
        super().__init__()
        self._request, self._iteration = request, iteration

    @property
    def want(self) -> Want:
        reported = events(self._request, "step")
        return "cancel" if reported and reported[-1]["iteration"] >= self._iteration else "run"


@pytest.mark.parametrize(
    "changes",
    [
        {"fine_tune_type": "lora"},
        {"fine_tune_type": "dora"},
        {"fine_tune_type": "full", "learning_rate": 1e-3},
        {"lora_keys": ["self_attn.q_proj", "mlp.down_proj"], "num_layers": 1},
        {"optimizer": "adamw", "weight_decay": 0.1, "lora_dropout": 0.2},
        {"optimizer": "muon", "optimizer_config": {"ns_steps": 3}},
        {"optimizer": "sgd", "learning_rate": 0.05, "optimizer_config": {"momentum": 0.9}},
        {"optimizer": "adafactor", "learning_rate": 1e-2},
        {"mlx_schedule": {"name": "exponential_decay", "arguments": [5e-3, 0.99], "warmup": 2, "warmup_init": 0.0}},
        {"lora_keys": ["self_attn.o_proj", "model.embed_tokens"]},
        {"grad_checkpoint": True},
        {"grad_accumulation_steps": 4},
        {"mask_prompt": False},
        {"num_layers": 16},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_each_kind_of_recipe_learns_and_its_adapter_loads_in_mlx_lm(
    tmp_path: Path, student: Path, changes: dict[str, Any]
) -> None:
    """The adapter is the product: mlx_lm.load must take it, with exactly the trained weights."""
    request = training(tmp_path, student, **changes)
    result = train(request)

    assert result.first_train_loss is not None
    assert result.final_train_loss is not None
    assert result.final_train_loss < result.first_train_loss
    adapter_path = request.adapter_dir / "adapters.safetensors"
    assert result.adapter_sha256 == sha256_of(adapter_path)
    model = load(str(student), adapter_path=str(request.adapter_dir))[0]
    written = mx.load(str(adapter_path))
    assert isinstance(written, dict)
    loaded = dict(_leaves(model))
    assert all(bool(mx.array_equal(loaded[name], value)) for name, value in written.items())
    assert sum(value.size for value in written.values()) == result.trainable_parameters


def test_a_quantized_student_is_trained_with_lora(tmp_path: Path, quantized_student: Path) -> None:
    """The default students are quantized to 4 bits."""
    result = train(training(tmp_path, quantized_student))

    assert result.stopped == "finished"


@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "gemma2", "gemma3_text", "mistral"])
def test_students_of_every_family_are_trained(tmp_path: Path, arch: str) -> None:
    """What the exporter supports, the trainer must."""
    result = train(training(tmp_path, make_tiny(tmp_path / "student", arch), iters=3))

    assert result.iterations == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fine_tune_type": "full"}, "quantized to 4 bits"),
        ({"lora_keys": ["q_proj"]}, "names what is no module of this student that LoRA is put on: 'q_proj'"),
    ],
)
def test_a_recipe_that_does_not_fit_the_student_is_refused_by_name(
    tmp_path: Path, quantized_student: Path, changes: dict[str, Any], said: str
) -> None:
    """MLX says "no gradient" and "at least one argument"."""
    with pytest.raises(UserInputError, match=said):
        train(training(tmp_path, quantized_student, **changes))


def test_a_wrong_target_among_right_ones_is_refused_with_the_list_of_the_right_ones(
    tmp_path: Path, student: Path
) -> None:
    """MLX-LM leaves it out in silence: half of the adapter is then missing."""
    with pytest.raises(UserInputError, match=r"LoRA is put on: 'attention\.wq'\.") as refused:
        train(training(tmp_path, student, lora_keys=["self_attn.q_proj", "attention.wq", "no such thing"]))
    assert "mlp.down_proj, mlp.gate_proj, mlp.up_proj, self_attn.k_proj" in refused.value.next_step
    assert "'auto'" in refused.value.next_step


def test_fewer_rows_than_a_batch_lower_the_batch(tmp_path: Path, student: Path) -> None:
    """MLX-LM refuses to train and does not say which set is too small."""
    request = training(tmp_path, student, train=3, valid=1, batch_size=8, iters=5)
    result = train(request)

    assert (result.iterations, result.rows_trained) == (5, 3)
    assert events(request, "dataset")[0]["batch_size"] == 3


def test_one_row_and_no_validation_rows_are_enough_to_train(tmp_path: Path, student: Path) -> None:
    """The last checkpoint is then the best there is."""
    request = training(tmp_path, student, train=1, valid=0, iters=5)
    result = train(request)

    assert (result.rows_trained, result.best_iteration, result.best_valid_loss) == (1, 5, None)
    assert not events(request, "valid")


def test_rows_that_do_not_fit_are_counted_in_the_result(tmp_path: Path, student: Path) -> None:
    """Nothing is cut, and nobody has to wonder why there are fewer."""
    request = training(tmp_path, student, iters=2, max_seq_length=64)
    write_jsonl(request.dataset_dir / "train.jsonl", [conversation(number, number * 20) for number in range(5)])
    result = train(request)

    assert (result.rows_trained, result.rows_dropped) == (1, 4)


def test_rows_none_of_which_fits_are_an_error_before_training(tmp_path: Path, student: Path) -> None:
    """MLX-LM trains on and saves weights that are no numbers."""
    with pytest.raises(TrainingError, match="None of the 20 training rows fits"):
        train(training(tmp_path, student, max_seq_length=8))


def test_a_large_validation_set_is_measured_in_part(tmp_path: Path, student: Path) -> None:
    """An evaluation must not take longer than the training between two."""
    request = training(tmp_path, student, train=8, valid=256 + 40, iters=1, batch_size=8)
    train(request)

    assert events(request, "dataset")[0]["valid_rows"] == 256


def test_a_loss_that_is_no_number_stops_training_and_the_last_good_checkpoint_stays(
    tmp_path: Path, student: Path
) -> None:
    """MLX-LM goes on to the end and saves weights that are no numbers."""
    request = training(tmp_path, student, learning_rate=1e30, steps_per_checkpoint=1)

    with pytest.raises(TrainingError, match="iteration 2, before anything was learnt") as refused:
        train(request)

    assert "lower options.learning_rate" in refused.value.next_step
    kept = checkpoints.newest_verified(request.checkpoints_dir)
    assert kept is not None
    assert all(bool(mx.isfinite(value).all()) for value in kept.tensors("weights.").values())
    assert not request.adapter_dir.exists()


@pytest.mark.parametrize("valid", [0, 5])
@pytest.mark.parametrize(("hot", "what"), [(0.3, "ran away, from"), (1e30, "stopped being a usable number")])
def test_a_loss_that_runs_away_ends_training_with_what_was_learnt_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valid: int, hot: float, what: str
) -> None:
    """Hours of steps on a ruined student are wasted, and its last checkpoint is the worst of all."""
    monkeypatch.setattr(lora, "learning_rate", lambda _: lambda update: mx.where(update < 40, 1e-3, hot))
    changes: dict[str, Any] = {"iters": 90, "steps_per_eval": 10, "steps_per_checkpoint": 10, "max_seq_length": 512}
    request = training(tmp_path, student_path(), valid=valid, **changes)

    result = train(request)

    assert result.stopped == "diverged"
    assert result.why.startswith(f"The loss {what}")
    assert result.why.endswith(f"what was learnt until iteration {result.best_iteration} is kept.")
    assert 20 <= result.best_iteration <= 40
    assert (request.adapter_dir / "adapters.safetensors").exists()


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path, student: Path) -> None:
    """A loss is computed before the update, so the checkpoint after it could be poisoned while the loss looks well."""
    request = training(tmp_path, student, learning_rate=3e38, steps_per_checkpoint=1)

    with pytest.raises(TrainingError, match="iteration 1"):
        train(request)

    assert checkpoints.newest_verified(request.checkpoints_dir) is None


def test_training_stops_early_when_validation_no_longer_gains_and_gives_the_best(tmp_path: Path, student: Path) -> None:
    """Training answers that contradict the validation set makes its loss rise soon."""
    request = training(tmp_path, student, iters=200, steps_per_eval=5, patience=2, learning_rate=1e-2)
    odd = [conversation(number) for number in range(5)]
    for row in odd:
        row["messages"][-1]["content"] = "zzz qqq 999 www"
    write_jsonl(request.dataset_dir / "valid.jsonl", odd)
    result = train(request)

    losses = {event["iteration"]: event["valid_loss"] for event in events(request, "valid")}
    assert result.stopped == "early"
    assert result.iterations < 200
    assert result.best_iteration == result.iterations - 10
    assert result.best_valid_loss == losses[result.best_iteration] == min(losses[at] for at in losses if at)
    best = checkpoints.verified(request.checkpoints_dir, result.best_iteration)
    adapter = mx.load(str(request.adapter_dir / "adapters.safetensors"))
    assert best is not None
    assert isinstance(adapter, dict)
    assert all(bool(mx.array_equal(adapter[name], value)) for name, value in best.tensors("weights.").items())


def test_a_finished_training_asked_for_again_gives_the_same_adapter_without_training(
    tmp_path: Path, student: Path
) -> None:
    """A worker that died after training, before it was told, asks again."""
    request = training(tmp_path, student)
    first = train(request)
    shutil.rmtree(request.adapter_dir)
    steps = len(events(request, "step"))
    again = train(request)

    assert again.adapter_sha256 == first.adapter_sha256
    assert (again.stopped, again.iterations, again.resumed_from) == ("finished", 20, 20)
    assert len(events(request, "step")) == steps


@pytest.mark.parametrize("stop_at", [1, 3, 6, 7, 12])
def test_a_cancelled_training_goes_on_from_its_last_update_and_ends_alike(
    tmp_path: Path, student: Path, stop_at: int
) -> None:
    """Also before the first update, between two (every third batch), and inside an evaluation (at 6 and 12)."""
    changes: dict[str, Any] = {"iters": 12, "grad_accumulation_steps": 3, "steps_per_eval": 6, "lora_dropout": 0.1}
    expected = train(training(tmp_path / "straight", student, **changes))
    request = training(tmp_path / "stopped", student, **changes)

    stopped = train_here(request, student, CancelAt(request, stop_at))
    result = train(request)

    assert stopped.stopped == "cancelled"
    assert result.resumed_from == stop_at // 3 * 3
    assert result.adapter_sha256 == expected.adapter_sha256
    assert (result.best_iteration, result.best_valid_loss) == (expected.best_iteration, expected.best_valid_loss)


@pytest.mark.parametrize("users", ["run", "pause"])
def test_a_training_that_the_guard_unloads_leaves_its_last_update_and_no_adapter(
    tmp_path: Path, student: Path, users: str
) -> None:
    """Its memory is needed by others now, whether it runs or the user has paused it; started again it ends alike."""
    expected = train(training(tmp_path / "straight", student))
    request = training(tmp_path / "unloaded", student)
    guard_path = tmp_path / "guard.json"
    write_json(request.control_path, {"want": users})
    write_json(guard_path, {"want": "unload", "clears": 1})

    unloaded = train(request.model_copy(update={"guard_path": guard_path}))
    assert (unloaded.stopped, unloaded.adapter_sha256, request.adapter_dir.exists()) == ("unloaded", "", False)
    assert len(events(request, "cache_emptied")) == 1
    write_json(request.control_path, {"want": "run"})
    result = train(request.model_copy(update={"memory_limit_bytes": 10**9}))
    assert result.adapter_sha256 == expected.adapter_sha256


@pytest.mark.parametrize(
    ("users", "guards", "holds"),
    [
        ("run", "run", "run"),
        ("run", "pause", "pause"),
        ("pause", "run", "pause"),
        ("pause", "unload", "unload"),
        ("stop", "unload", "stop"),
        ("cancel", "pause", "cancel"),
        ("cancel", "unload", "cancel"),
        ("run", "cancel", "run"),
    ],
)
def test_of_the_users_wish_and_the_guards_the_stronger_holds(
    tmp_path: Path, users: str, guards: str, holds: str
) -> None:
    """A guard that sees memory again must not undo the user's pause, and cannot cancel anything."""
    write_json(tmp_path / "control.json", {"want": users})
    write_json(tmp_path / "guard.json", {"want": guards})

    assert Control(tmp_path / "control.json", guard_path=tmp_path / "guard.json").want == holds


def test_checkpoints_of_another_recipe_or_dataset_are_refused(tmp_path: Path, student: Path) -> None:
    """MLX-LM resumes a rank-4 adapter under a rank-8 configuration without a word."""
    request = training(tmp_path, student, iters=5)
    train(request)

    with pytest.raises(TrainingError, match="restart=true"):
        train(request.model_copy(update={"recipe": recipe(iters=5, lora_rank=8)}))
    write_jsonl(request.dataset_dir / "train.jsonl", [conversation(99)])
    with pytest.raises(TrainingError, match="restart=true"):
        train(request)


def test_a_damaged_best_checkpoint_is_forgotten_not_delivered(tmp_path: Path, student: Path) -> None:
    """The hash is checked again when the adapter is taken from it."""
    request = training(tmp_path, student, iters=10, steps_per_eval=10)
    result = train(request)
    os.truncate(request.checkpoints_dir / f"{result.best_iteration:07d}.safetensors", 100)

    again = train(request)

    assert again.resumed_from < result.best_iteration
    assert again.adapter_sha256 == result.adapter_sha256


def test_when_the_best_checkpoint_is_damaged_and_a_newer_one_is_not_the_newer_one_is_delivered(
    tmp_path: Path, student: Path
) -> None:
    """What is left of the training is still of use."""
    request = training(tmp_path, student, iters=20, steps_per_eval=100)
    result = train(request)
    manifest = request.checkpoints_dir / "0000020.json"
    state = json.loads(manifest.read_text())
    state["state"]["progress"]["best_iteration"] = 10
    write_json(manifest, state)
    os.truncate(request.checkpoints_dir / "0000010.safetensors", 100)

    again = train(request)

    assert (again.best_iteration, again.best_valid_loss) == (20, None)
    assert again.adapter_sha256 == result.adapter_sha256


def test_a_training_goes_on_when_the_students_folder_was_moved(tmp_path: Path) -> None:
    """A hub id at first, its folder in the cache after the download: the same student."""
    request = training(tmp_path, make_tiny(tmp_path / "here"), iters=5)
    first = train(request)
    (tmp_path / "here").rename(tmp_path / "there")
    again = train(request.model_copy(update={"student": str(tmp_path / "there")}))

    assert (again.resumed_from, again.adapter_sha256) == (5, first.adapter_sha256)
    assert again.student_path == tmp_path / "there"
    with pytest.raises(TrainingError, match="restart=true"):
        train(request.model_copy(update={"student": str(make_tiny(tmp_path / "other", layers=3))}))


def test_a_new_adapter_never_lies_beside_the_configuration_of_an_old_one(tmp_path: Path, student: Path) -> None:
    """Training again writes into the same folder."""
    request = training(tmp_path, student, iters=2)
    train(request)
    shutil.rmtree(request.checkpoints_dir)
    train(request.model_copy(update={"recipe": recipe(iters=2, lora_rank=2)}))

    configuration = json.loads((request.adapter_dir / "adapter_config.json").read_text())
    assert configuration["lora_parameters"] == {"rank": 2, "scale": 10.0, "dropout": 0.0}
    load(str(student), adapter_path=str(request.adapter_dir))


def test_the_learning_rate_warms_up_and_falls_to_the_given_share_over_the_updates() -> None:
    """Steps count updates, not batches: with accumulation there are fewer."""
    values = {"iters": 40, "grad_accumulation_steps": 4, "learning_rate": 1.0, "final_lr_ratio": 0.1}
    for schedule, middle in (("constant", 1.0), ("linear", 0.55), ("cosine", 0.55)):
        rate = learning_rate(recipe(**values, lr_schedule=schedule, warmup_updates=3))
        rates = [float(rate(mx.array(update))) for update in range(10)]
        assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
        assert rates[6] == pytest.approx(middle)
        assert rates[9] == pytest.approx(1.0 if schedule == "constant" else 0.1)


def test_a_student_whose_files_do_not_fit_together_is_an_error_in_our_words(tmp_path: Path, student: Path) -> None:
    """MLX lists parameter names."""
    broken = shutil.copytree(student, tmp_path / "student")
    config = json.loads((broken / "config.json").read_text())
    write_json(broken / "config.json", {**config, "hidden_size": 32})

    with pytest.raises(NanodistillError, match="do not fit together"):
        train(training(tmp_path, broken))


def _leaves(model: object) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())  # pyright: ignore[reportAttributeAccessIssue,reportReturnType]
