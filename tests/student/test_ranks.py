"""One training over two processes on this machine, as mlx.launch starts them on several."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.runs.files import read_json, write_json
from nanodistill_mcp.student.requests import Distilling, TrainRequest, TrainResult
from tests.student.bench import carry_out, events, training, wait_until
from tests.tiny_student import make_tiny


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def launched(request: TrainRequest, ranks: int = 2) -> Generator[list["subprocess.Popen[bytes]"]]:
    """Start the entry as mlx.launch does, without its busy wait: a rank and the list of all addresses for each."""
    folder = request.result_path.parent
    together = request.model_copy(update={"ranks": ranks})
    write_json(folder / "request.json", together.model_dump(mode="json"))
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(ranks)]))
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log.txt").open("ab"))
        for rank in range(ranks):
            environment = {**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
            command = [sys.executable, "-m", "nanodistill_mcp.student", str(folder / "request.json")]
            started.append(stack.enter_context(subprocess.Popen(command, env=environment, stdout=log, stderr=log)))
            stack.callback(started[-1].kill)
        yield started


def finished(request: TrainRequest) -> TrainResult:
    """Train over two ranks to the end."""
    with launched(request) as ranks:
        codes = [rank.wait(90) for rank in ranks]
    assert codes == [0, 0], (request.result_path.parent / "log.txt").read_text()
    return TrainResult.model_validate(read_json(request.result_path))


@pytest.mark.slow
def test_two_ranks_share_each_batch_and_end_with_the_same_weights(tmp_path: Path, student: Path) -> None:
    """The batch and the rate are those of one process, so the losses are its losses, to what sums in another order differ by."""
    request = training(tmp_path / "two", student, iters=12, learning_rate=5e-4, steps_per_eval=6)
    alone = training(tmp_path / "one", student, iters=12, learning_rate=5e-4, steps_per_eval=6)

    result = finished(request)

    other = TrainResult.model_validate(read_json(tmp_path / "two" / "result.rank1.json"))
    assert result.adapter_sha256 == other.adapter_sha256
    expected = TrainResult.model_validate(carry_out(alone)[1])
    assert result.trained_tokens == expected.trained_tokens
    assert result.final_train_loss == pytest.approx(expected.final_train_loss, rel=1e-4)
    assert result.best_valid_loss == pytest.approx(expected.best_valid_loss, rel=1e-4)


@pytest.mark.slow
def test_two_ranks_with_a_local_teacher_end_with_the_same_weights(tmp_path: Path, student: Path) -> None:
    """Each asks it itself, as on machines of their own, and one may have kept what it said while another has not."""
    teacher = make_tiny(tmp_path / "teacher", hidden=128)
    how = Distilling(local_teacher=str(teacher), alpha=0.5, temperature=2.0, top_k=8)
    request = training(tmp_path / "two", student, iters=6, learning_rate=5e-4, distilling=how)

    result = finished(request)

    other = TrainResult.model_validate(read_json(tmp_path / "two" / "result.rank1.json"))
    assert result.adapter_sha256 == other.adapter_sha256
    shutil.rmtree(tmp_path / "two" / "teaching.rank1")
    shutil.rmtree(tmp_path / "two" / "checkpoints")
    shutil.rmtree(tmp_path / "two" / "checkpoints.rank1")
    again = finished(request)
    assert again.taught is not None
    assert (again.taught.rows_read, again.adapter_sha256) == (0, result.adapter_sha256)


@pytest.mark.slow
def test_killed_in_the_middle_both_ranks_go_on_from_what_both_have(tmp_path: Path, student: Path) -> None:
    """Machines do not fail together: one may have saved a checkpoint that the other has not."""
    changes: dict[str, Any] = {"iters": 60, "learning_rate": 5e-4, "steps_per_checkpoint": 5, "lora_dropout": 0.1}
    straight, killed = (training(tmp_path / name, student, **changes) for name in ("straight", "killed"))
    expected = finished(straight)

    with launched(killed) as ranks:
        wait_until(lambda: any(e["iteration"] >= 20 for e in events(killed, "checkpoint")), ranks[0])
        for rank in ranks:
            rank.send_signal(signal.SIGKILL)
    newest = max((killed.checkpoints_dir.with_name("checkpoints.rank1")).glob("*.json"))
    newest.unlink()
    result = finished(killed)

    assert 0 < result.resumed_from < 60
    assert result.adapter_sha256 == expected.adapter_sha256


@pytest.mark.slow
def test_a_wish_told_to_the_first_rank_stops_all(tmp_path: Path, student: Path) -> None:
    """Only the first rank's machine has the run's control file; a rank left alone would wait for ever."""
    request = training(tmp_path, student, iters=100_000, steps_per_eval=50_000)

    with launched(request) as ranks:
        wait_until(lambda: len(events(request, "step")) > 3, ranks[0])
        write_json(request.control_path, {"want": "stop"})
        assert [rank.wait(30) for rank in ranks] == [0, 0]

    assert TrainResult.model_validate(read_json(request.result_path)).stopped == "stopped"
