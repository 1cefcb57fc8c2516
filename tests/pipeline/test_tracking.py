"""Trainings told to experiment trackers. The trackers are the operator's: without one installed its proof is skipped."""
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import importlib.util
import json
import sqlite3
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.pipeline.tracking import Told
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.settings import TrackerName
from tests.cli.person import types
from tests.conftest import Bench, Demo


def _installed(tracker: TrackerName) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(tracker) is None, reason=f"{tracker} is not installed")


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_tracker_that_is_not_installed_is_named_with_the_command_that_installs_it(bench: Bench, demo: Demo) -> None:
    """It is the operator's package: none comes with the server."""
    run = Run(RunPaths(bench.run_folder(bench.adopt(demo))))
    with pytest.raises(ConfigurationError, match="mlflow is not installed") as refused:
        Told(run, "mlflow")
    assert f"{sys.executable} -m pip install mlflow" in refused.value.next_step


def _of_mlflow(home: Path) -> list[tuple[int, float]]:
    import mlflow

    client: Any = mlflow.MlflowClient(tracking_uri=f"file://{home}/mlruns")
    experiment = client.get_experiment_by_name("nanodistill")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.params["lora_rank"]
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "train_loss")]


@pytest.mark.slow
@_installed("mlflow")
def test_scores_are_told_with_the_training_and_only_once(bench: Bench, demo: Demo, tmp_path: Path) -> None:
    """Whoever asks for it again, in a script each night, must not see the same score as many measurements."""
    run_id = bench.adopt(demo)
    uri = f"file://{tmp_path}/mlruns"
    env = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_FILE_STORE": "true"}
    first, second = (types(bench.home, "track", run_id, "--to", "mlflow", env=env) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert not first.stdout.startswith("mlflow was told 0 lines")
    assert second.stdout.startswith("mlflow was told 0 lines")
    [path] = (tmp_path / "mlruns").glob("*/*/metrics/held_out/student_accuracy")
    assert len(path.read_text().splitlines()) == 1


def _of_wandb(home: Path) -> list[tuple[int, float]]:
    from wandb.proto import wandb_internal_pb2

    found: list[tuple[int, float]] = []
    for path in sorted(home.glob("wandb/offline-run-*/run-*.wandb")):
        for data in _logged(path.read_bytes()):
            record: Any = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            told = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            if "train_loss" in told:
                found.append((told["_step"], told["train_loss"]))
    return found


def _logged(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, which W&B keeps offline runs in: blocks of 32 KiB, parts with a type."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def _of_trackio(home: Path) -> list[tuple[int, float]]:
    [path] = list((home / "trackio").glob("nanodistill*.db"))
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    told = [(step, json.loads(metrics)) for step, metrics in rows]
    return [(step, metrics["train_loss"]) for step, metrics in told if "train_loss" in metrics]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracker", "read"),
    [
        pytest.param("mlflow", _of_mlflow, marks=_installed("mlflow"), id="mlflow"),
        pytest.param("wandb", _of_wandb, marks=_installed("wandb"), id="wandb"),
        pytest.param("trackio", _of_trackio, marks=_installed("trackio"), id="trackio"),
    ],
)
async def test_a_tracker_is_told_of_a_training_while_it_goes_on_and_only_once(
    bench: Bench, demo: Demo, tmp_path: Path, tracker: TrackerName, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real packages, with the stores they keep on this machine: every loss arrives, whoever tells it."""
    env = {
        "MLFLOW_TRACKING_URI": f"file://{tmp_path}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # to read it back
    run_id = bench.adopt(demo)
    bench.configure(trackers=[tracker], pass_environment=list(env))
    options = {"num_train_epochs": 0.1}
    async with bench.connect(**env) as agent:
        await agent.call("train", run_id=run_id, wait_s=0, restart=True, options=options)
        assert (await agent.finish(run_id, "train", options=options))["state"] == "done"
    log = next(iter(sorted(bench.run_folder(run_id).glob("jobs/*/tracker.log"))))
    again = types(bench.home, "track", run_id, "--to", tracker, env=env)
    assert again.returncode == 0, again.stderr + log.read_text()
    again = types(bench.home, "track", run_id, "--to", tracker, env=env)
    assert again.stdout.startswith(f"{tracker} was told 0 lines")
    steps = [line for line in bench.rows(run_id, f"{log.parent.relative_to(bench.run_folder(run_id))}/metrics.jsonl")
             if line["event"] == "step"]  # fmt: skip
    assert read(tmp_path) == [(line["iteration"], pytest.approx(line["train_loss"])) for line in steps]
