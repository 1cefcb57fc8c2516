"""A student process as its worker sees it: a request, a result, an exit code, and what happens in between."""

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.runs.files import read_json, write_json
from nanodistill_mcp.student import checkpoints
from nanodistill_mcp.student.requests import InspectRequest, StudentFacts, TrainResult
from tests.student.bench import carry_out, events, start, training, wait_until


def test_training_lowers_the_loss_and_leaves_an_adapter_and_a_result(tmp_path: Path, student: Path) -> None:
    """The whole way once: what a worker starts, reads and hands on."""
    request = training(tmp_path, student, iters=60, lr_schedule="cosine", warmup_updates=5, optimizer="adamw")

    code, written = carry_out(request)

    result = TrainResult.model_validate(written)
    assert code == 0
    assert result.stopped == "finished"
    assert result.device.startswith(("the CPU: ", "the GPU, through "))
    assert result.iterations == 60
    assert result.first_train_loss is not None
    assert result.final_train_loss is not None
    assert result.final_train_loss < result.first_train_loss * 0.7
    assert result.best_valid_loss is not None
    assert result.best_valid_loss < events(request, "valid")[0]["valid_loss"]
    assert sorted(os.listdir(request.adapter_dir)) == ["adapter_config.json", "adapters.safetensors"]
    assert [event["iteration"] for event in events(request, "step")] == list(range(1, 61))
    assert events(request, "dataset")[0]["train_rows"] == 20


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_as_if_it_had_not_been(tmp_path: Path, student: Path) -> None:
    """SIGKILL at any moment costs time and nothing else: with dropout, accumulation and a best checkpoint, to the bit."""
    changes: dict[str, Any] = {
        "iters": 120,
        "lora_dropout": 0.1,
        "grad_accumulation_steps": 2,
        "lr_schedule": "linear",
        "train": 21,
    }
    straight = training(tmp_path / "straight", student, **changes)
    killed = training(tmp_path / "killed", student, **changes)

    expected = carry_out(straight)[1]
    for saved in (20, 60):
        with start(killed) as process:
            wait_until(lambda saved=saved: any(e["iteration"] >= saved for e in events(killed, "checkpoint")), process)
            process.send_signal(signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
    assert not killed.result_path.exists()
    _, result = carry_out(killed)

    assert result["resumed_from"] >= 60
    for name in ("adapter_sha256", "best_iteration", "best_valid_loss", "first_train_loss", "final_train_loss"):
        assert result[name] == expected[name], name
    assert result["trained_tokens"] == expected["trained_tokens"]
    losses = {event["iteration"]: event["train_loss"] for event in events(killed, "step")}
    assert losses == {event["iteration"]: event["train_loss"] for event in events(straight, "step")}


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(
    tmp_path: Path, student: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same at moments nobody chose, among them in the middle of a checkpoint; prints what was found."""
    seed = int(os.environ.get("KILL_SEED", str(random.SystemRandom().randint(0, 10**6))))
    rng = random.Random(seed)
    changes: dict[str, Any] = {"iters": 600, "lora_dropout": 0.1, "steps_per_eval": 5, "steps_per_checkpoint": 1}
    straight = training(tmp_path / "straight", student, **changes)
    killed = training(tmp_path / "killed", student, **changes)
    expected = carry_out(straight)[1]

    for kill in range(20):
        until = rng.uniform(0.85 * kill, kill + 1) * 0.04 * 600
        with start(killed) as process:
            wait_until(lambda until=until: any(e["iteration"] >= until for e in events(killed, "step")[-1:]), process)
            process.send_signal(signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
    _, result = carry_out(killed)

    same = [name for name in expected if result[name] == expected[name]]
    told = f"20 kills (KILL_SEED={seed}): final loss {result['final_train_loss']}, uninterrupted {expected['final_train_loss']}"
    print(told)
    record_property("kills", told)
    assert {"adapter_sha256", "final_train_loss", "best_iteration", "best_valid_loss", "trained_tokens"} <= set(same), (
        told
    )


def test_pause_holds_training_until_it_is_told_to_go_on_and_cancel_ends_it(tmp_path: Path, student: Path) -> None:
    """Control is cooperative: nothing is lost by either, and cancel is obeyed within two seconds."""
    request = training(tmp_path, student, iters=100_000, lr_schedule="constant", steps_per_eval=50_000)

    with start(request) as process:
        wait_until(lambda: len(events(request, "step")) > 3, process)
        write_json(request.control_path, {"want": "pause"})
        wait_until(lambda: bool(events(request, "paused")), process)
        (paused,) = events(request, "paused")
        assert checkpoints.newest_verified(request.checkpoints_dir) is not None
        write_json(request.control_path, {"want": "run"})
        wait_until(lambda: events(request, "step")[-1]["iteration"] > paused["iteration"] + 3, process)
        write_json(request.control_path, {"want": "cancel"})
        assert process.wait(10) == 0

    lines = [json.loads(line) for line in request.metrics_path.read_text().splitlines()]
    order = [(line["event"], line["iteration"]) for line in lines if line["event"] in ("paused", "resumed", "step")]
    at = order.index(("paused", paused["iteration"]))
    assert order[at - 1 : at + 3] == [
        ("step", paused["iteration"]),
        ("paused", paused["iteration"]),
        ("resumed", paused["iteration"]),
        ("step", paused["iteration"] + 1),
    ]
    result = TrainResult.model_validate_json(request.result_path.read_bytes())
    assert result.stopped == "cancelled"
    assert result.adapter_sha256 == ""
    assert not request.adapter_dir.exists()
    saved = checkpoints.newest_verified(request.checkpoints_dir)
    assert saved is not None
    assert saved.iteration == result.iterations


def test_sigterm_saves_and_stops_like_cancel(tmp_path: Path, student: Path) -> None:
    """A memory guard or a shutting system asks this way."""
    request = training(tmp_path, student, iters=100_000, steps_per_checkpoint=100_000, steps_per_eval=50_000)

    with start(request) as process:
        wait_until(lambda: len(events(request, "step")) > 3, process)
        process.terminate()
        assert process.wait(10) == 0

    result = TrainResult.model_validate_json(request.result_path.read_bytes())
    saved = checkpoints.newest_verified(request.checkpoints_dir)
    assert result.stopped == "cancelled"
    assert saved is not None
    assert saved.iteration == result.iterations


def test_an_anticipated_failure_is_a_result_in_our_words_with_exit_code_1(tmp_path: Path) -> None:
    """The worker passes it on; the library's words stay in the log."""
    request = InspectRequest(student=str(tmp_path / "nowhere"), result_path=tmp_path / "result.json")

    code, result = carry_out(request)

    assert code == 1
    assert result["failed"] is True
    assert result["kind"] == "input"
    assert "absolute path" in result["next_step"]


@pytest.mark.parametrize("body", ["", "{}", '{"kind": "dance"}'])
def test_anything_unforeseen_is_a_crash_without_a_result(tmp_path: Path, body: str) -> None:
    """A worker must be able to tell a bug from a failure someone can act on."""
    from nanodistill_mcp.student.child import EXIT_CRASHED, run

    request_path = tmp_path / "request.json"
    request_path.write_text(body)

    assert run(request_path) == EXIT_CRASHED
    assert os.listdir(tmp_path) == ["request.json"]


def test_a_student_process_says_what_it_computes_with_and_compiles_nothing_without_a_gpu(
    tmp_path: Path, student: Path
) -> None:
    """Compiling CPU kernels takes half a minute the first time."""
    code, result = carry_out(
        InspectRequest(student=str(student), result_path=tmp_path / "result.json"), TMPDIR=str(tmp_path)
    )

    log = (tmp_path / "log.txt").read_text()
    assert code == 0
    assert StudentFacts.model_validate(result).parameters == 98_624
    assert "compiles=False" in log or "device=gpu" in log
    assert not (tmp_path / "mlx").exists()


def test_stop_ends_training_early_and_keeps_what_it_learnt(tmp_path: Path, student: Path) -> None:
    """Who has seen enough of the loss need not choose between waiting and losing it; also out of a pause."""
    request = training(tmp_path, student, iters=100_000, grad_accumulation_steps=2, steps_per_eval=50_000)

    with start(request) as process:
        wait_until(lambda: len(events(request, "step")) > 3, process)
        write_json(request.control_path, {"want": "pause"})
        wait_until(lambda: bool(events(request, "paused")), process)
        write_json(request.control_path, {"want": "stop"})
        assert process.wait(30) == 0

    result = TrainResult.model_validate(read_json(request.result_path))
    assert result.stopped == "stopped"
    assert 0 < result.best_iteration <= result.iterations < 1000
    assert result.best_iteration % 2 == 0
    assert sorted(os.listdir(request.adapter_dir)) == ["adapter_config.json", "adapters.safetensors"]
