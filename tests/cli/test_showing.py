"""Runs as a person sees them in a terminal or pipes them into another program."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.cli.person import types
from tests.conftest import Bench, Demo
from tests.jobs.scenes import begin, ended, go
from tests.runs.made import make_run
from tests.server.made import RUN, amplified_run


def test_the_list_of_runs_is_plain_text_when_piped_and_json_when_asked_for(bench: Bench) -> None:
    """A pipe gets no colours and no frame; a program gets what the tools answer."""
    amplified_run(bench)
    piped = types(bench.home, "runs")
    assert piped.returncode == 0, piped.stderr
    assert f"| {RUN} | " in piped.stdout
    assert "\x1b" not in piped.stdout
    assert "get_status(" not in piped.stdout
    listed = json.loads(types(bench.home, "runs", "--json").stdout)
    assert [line["run_id"] for line in listed["runs"]] == [RUN]
    assert types(bench.home, "runs", "--names").stdout == f"{RUN}\n"


def test_the_list_of_runs_is_a_table_on_a_terminal(bench: Bench) -> None:
    """People read columns."""
    amplified_run(bench)
    ours, theirs = pty.openpty()
    environment = {**bench.env, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "nanodistill_mcp", "runs"]
    child = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # how Linux says that the other end was closed
        pass
    os.close(ours)
    assert child.wait(60) == 0
    assert "┃" in shown.decode()
    assert f"│ {RUN} " in shown.decode()


def test_a_home_without_runs_says_how_to_begin(home: Path) -> None:
    """The first command of a new user must not answer with an empty table."""
    assert "nanodistill-mcp demo" in types(home, "runs").stdout


def test_one_run_is_shown_at_a_glance_with_what_comes_next(bench: Bench, demo: Demo) -> None:
    """Stages, verdict, cost and the next call: what a person asks an agent for."""
    run_id = bench.adopt(demo)
    shown = types(bench.home, "show", run_id)
    assert shown.returncode == 0, shown.stderr
    assert f"{run_id} in {bench.run_folder(run_id)}" in shown.stdout
    assert "  train           done" in shown.stdout
    assert "on 60 held-out examples" in shown.stdout
    assert "policy.json, " in shown.stdout
    assert "Next: compare_models(" in shown.stdout
    assert json.loads(types(bench.home, "show", run_id, "--json").stdout)["detail"]["train"]["iterations"] > 0


def test_an_unknown_run_is_answered_with_those_there_are(bench: Bench) -> None:
    """A mistyped id costs one look."""
    amplified_run(bench)
    told = types(bench.home, "show", "nope")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == f"There is no run 'nope'. Known runs: {RUN}.\n"


def test_logs_tell_what_a_job_did_and_how_it_ended(bench: Bench, demo: Demo) -> None:
    """Why a training chose what it chose stands in its events."""
    run_id = bench.adopt(demo)
    told = types(bench.home, "logs", run_id, "--stage", "train")
    assert told.returncode == 0, told.stderr
    assert "-train in " in told.stdout
    assert "started  stage: train" in told.stdout
    assert " resolved  option: " in told.stdout
    assert "done after " in told.stdout


def test_logs_as_json_are_one_object_a_line_for_a_program_that_gathers_logs(bench: Bench, demo: Demo) -> None:
    """Each line stands alone: whose it is, when, and what kind."""
    run_id = bench.adopt(demo)
    told = types(bench.home, "logs", run_id, "--stage", "train", "--json")
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert {(line["run_id"], line["stage"]) for line in lines} == {(run_id, "train")}
    assert all(line["at"] and line["job"] for line in lines)
    assert {"started", "resolved", "dataset"} <= {line["event"] for line in lines if line["kind"] == "event"}
    assert (lines[-1]["kind"], lines[-1]["outcome"]) == ("end", "done")


def test_logs_of_a_stage_that_never_ran_name_those_that_did(bench: Bench) -> None:
    """An empty answer would look like an empty log."""
    amplified_run(bench)
    told = types(bench.home, "logs", RUN, "--stage", "train")
    assert told.returncode == 2
    assert told.stderr == f"Run '{RUN}' has no job of 'train'. Stages that ran: none so far.\n"


@pytest.mark.parametrize("scene", ["finish", "crash"])
async def test_following_logs_ends_with_the_job_and_says_how(home: Path, scene: str) -> None:
    """A script waits for a training with it: it must end when the job does, and not with success when the job died."""
    run = make_run(home)
    job = await begin(run, "wait" if scene == "finish" else scene)
    command = [sys.executable, "-m", "nanodistill_mcp", "--home", str(home), "logs", "-f", run.run_id]
    following = await anyio.open_process(command)
    assert following.stdout is not None
    told = ""
    with anyio.fail_after(60):
        told += (await following.stdout.receive()).decode()
        if scene == "finish":
            go(job)
        async for part in following.stdout:
            told += part.decode()
        await following.wait()
    assert "001-train in " in told
    assert following.returncode == (0 if scene == "finish" else 1)
    assert ("done after" if scene == "finish" else "interrupted: its worker is gone") in told


async def test_a_job_is_cancelled_from_the_terminal(home: Path) -> None:
    """Whoever left a run going must be able to end it without an agent; what is not there is said."""
    run = make_run(home)
    job = await begin(run, "wait")
    told = types(home, "control", run.run_id, "cancel")
    assert (told.returncode, told.stdout) == (0, "cancel: train is cancelled.\n")
    assert (await ended(run, job)).outcome == "cancelled"
    again = types(home, "control", run.run_id, "pause")
    assert (again.returncode, "has no running job" in again.stderr) == (2, True)
