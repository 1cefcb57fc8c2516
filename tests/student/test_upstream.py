"""What we rely on in MLX-LM beyond its documented interface: a new version that changes it must fail here, not in a run."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportPrivateImportUsage=false, reportIndexIssue=false

import inspect
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.tuner import trainer
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.utils import MODEL_REMAPPING, load

from nanodistill_mcp.student.adapters import attach_adapter
from nanodistill_mcp.student.lora import NoUI, silent
from tests.student.bench import recipe


def test_the_trainer_draws_its_table_through_a_name_that_can_be_replaced() -> None:
    """Its table goes to the log as escape sequences otherwise; every method of it that is called must be stood in for."""
    own = trainer.TrainUI

    with silent():
        ui: Any = trainer.TrainUI(10, rank=0)
        assert isinstance(ui, NoUI)
        with ui, ui.val_task(3) as advance:
            advance()
            ui.advance()
            ui.report_val(1, 0.5, 0.1)
    assert trainer.TrainUI is own


def test_the_trainer_takes_the_arguments_we_give_and_none_that_we_leave_to_a_default_by_mistake() -> None:
    """An option it gains decides something about training, and should be decided here."""
    assert set(inspect.signature(trainer.train).parameters) == {
        *("model", "optimizer", "train_dataset", "val_dataset", "args", "loss", "iterate_batches", "training_callback")
    }
    assert set(trainer.TrainingArgs.__dataclass_fields__) == {
        *(
            "batch_size",
            "iters",
            "val_batches",
            "steps_per_report",
            "steps_per_eval",
            "steps_per_save",
            "max_seq_length",
        ),
        *("adapter_file", "grad_checkpoint", "grad_accumulation_steps", "clear_cache_threshold"),
    }
    assert {"progress_callback", "iterate_batches", "num_batches"} <= set(
        inspect.signature(trainer.evaluate).parameters
    )


def test_the_trainer_reports_every_iteration_after_its_update_and_raising_stops_it_without_a_save(
    tmp_path: Path, student: Path
) -> None:
    """The session stands on this: what a report holds, when it comes, and that nothing is written over our checkpoints."""

    class Stop(Exception):  # noqa: N818
        pass

    reports: list[dict[str, float]] = []
    weights: list[float] = []

    class Callback(TrainingCallback):
        def on_train_loss_report(self, train_info: dict[str, float]) -> None:
            reports.append(train_info)
            weights.append(sum(float(mx.abs(value).sum()) for value in _trained(model)))
            if train_info["iteration"] == 2:
                raise Stop

    def batches(**given: object) -> object:
        assert given.keys() == {"dataset", "batch_size", "max_seq_length", "loop", "comm_group"}
        while True:
            yield mx.array([[1, 2, 3, 4]]), mx.array([[1, 3]])

    model = load(str(student))[0]
    attach_adapter(model, recipe())
    weights.append(sum(float(mx.abs(value).sum()) for value in _trained(model)))
    arguments = trainer.TrainingArgs(
        iters=5, steps_per_report=1, steps_per_save=9, adapter_file=str(tmp_path / "a.safetensors")
    )
    from mlx import optimizers

    try:
        with silent():
            trainer.train(
                model, optimizers.Adam(1e-2), [0], args=arguments, iterate_batches=batches, training_callback=Callback()
            )
    except Stop:
        pass

    assert [report["iteration"] for report in reports] == [1, 2]
    assert set(reports[0]) == {
        *("iteration", "train_loss", "learning_rate", "iterations_per_second", "tokens_per_second"),
        *("trained_tokens", "peak_memory"),
    }
    assert reports[0]["trained_tokens"] == 3  # targets 1 to 3: both ends count
    assert weights[0] != weights[1] != weights[2]
    assert list(tmp_path.iterdir()) == []


def test_the_batch_generator_and_the_table_of_model_types_are_where_we_look() -> None:
    """Generation uses the class below batch_generate, which alone says why an answer ended."""
    assert {"stop_tokens", "completion_batch_size"} <= set(inspect.signature(BatchGenerator).parameters)
    assert "max_tokens" in inspect.signature(BatchGenerator.insert).parameters
    assert MODEL_REMAPPING["mistral"] == "llama"


def test_the_random_state_is_one_key_that_can_be_written_in_place() -> None:
    """Dropout after a resume depends on it."""
    mx.random.seed(5)
    key = mx.array(mx.random.state[0])
    first = mx.random.uniform(shape=(3,)).tolist()
    mx.random.state[0][:] = key

    assert mx.random.uniform(shape=(3,)).tolist() == first


def _trained(model: object) -> list[mx.array]:
    from nanodistill_mcp.student.adapters import trained

    return list(trained(model).values())  # pyright: ignore[reportArgumentType]
