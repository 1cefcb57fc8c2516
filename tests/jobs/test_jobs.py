"""A job from its start to its end, with real detached workers."""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import anyio
import psutil
import pytest

from nanodistill_mcp.errors import RunStateError
from nanodistill_mcp.jobs import launch
from nanodistill_mcp.jobs.locks import is_held, open_lock, tell_who_holds, try_lock
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Control, ProcessIdentity
from nanodistill_mcp.runs.store import Run
from tests.jobs.scenes import (
    Launcher,
    attach,
    beat,
    begin,
    cancel,
    ended,
    facts,
    go,
    gone,
    living,
    lost,
    students_of,
    until,
    worker_of,
    workers_on,
)
from tests.runs.made import make_run

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


async def test_a_job_runs_to_its_end_and_says_what_it_found(home: Path) -> None:
    """The plain course: request, worker, heartbeat, events, exit."""
    run = make_run(home)
    job = await begin(run, "finish")
    exit_record = await ended(run, job)
    assert job.root.name == "001-train"
    assert (exit_record.outcome, exit_record.summary) == ("done", {"answer": 42})
    heartbeat = facts(job.heartbeat)
    assert (heartbeat["done"], heartbeat["total"], heartbeat["message"]) == (3, 3, "counted")
    assert [line["event"] for line in read_lines(job.events)] == ["started", "ended"]
    assert facts(job.request)["arguments"] == {"scene": "finish"}
    second = await begin(run, "finish")
    assert second.root.name == "002-train"
    assert (await ended(run, second)).outcome == "done"


async def test_the_exit_record_is_written_last(home: Path) -> None:
    """Whoever sees it may read everything else, and may start the next job."""
    run = make_run(home)
    job = await begin(run, "finish")
    await until(job.exit.exists)
    assert [line["event"] for line in read_lines(job.events)][-1] == "ended"
    assert facts(job.heartbeat)["done"] == 3
    assert facts(job.exit)["outcome"] == "done"
    assert (await attach(run, "finish"))[1]


async def test_the_run_is_free_once_the_exit_record_is_written_however_long_closing_down_takes(home: Path) -> None:
    """A library's thread that never ends must not block the run for ever."""
    run = make_run(home)
    first = await begin(run, "linger")
    await ended(run, first)
    still_there = worker_of(first)
    await ended(run, await begin(run, "finish"))
    assert still_there.is_running()
    still_there.kill()


@linux_only
async def test_a_worker_has_its_own_session_another_parent_and_none_of_our_streams(home: Path) -> None:
    """What a client ends with its server: the group, the tree below it, and whoever holds its pipes."""
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    try:
        run = make_run(home)
        job = await begin(run, "wait")
        worker = worker_of(job)
        assert os.getsid(worker.pid) != os.getsid(0)
        assert os.getpgid(worker.pid) != os.getpgid(0)
        assert os.getpid() not in [parent.pid for parent in worker.parents()]
        assert worker.cwd() == str(run.paths.root)
        worker.suspend()  # it opens and closes its heartbeat file all the time
        await until(lambda: worker.status() == psutil.STATUS_STOPPED)
        opened = {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{worker.pid}/fd").iterdir()}
        assert (opened[0], opened[1], opened[2]) == ("/dev/null", str(job.log), str(job.log))
        assert os.readlink(f"/proc/self/fd/{theirs}") not in opened.values()
        assert [path for path in opened.values() if path.endswith("worker.lock")] == [str(run.paths.worker_lock)]
        worker.resume()
    finally:
        os.close(ours)
        os.close(theirs)
    go(job)
    assert (await ended(run, job)).outcome == "done"


@pytest.mark.parametrize("kind", ["kill", "kill_group", "kill_tree"])
async def test_a_job_outlives_every_way_its_launcher_is_killed(home: Path, kind: str) -> None:
    """SIGKILL of the server, of its group (Python SDK, Bun), and of every descendant by parent (VS Code)."""
    run = make_run(home)
    with Launcher() as server:
        server.ready()
        server.ask(run, "wait")
        assert server.told() == {"job": "001-train", "started": True}
        getattr(server, kind)()
    [job] = run.paths.job_list()
    worker = worker_of(job)
    units = beat(run, job).done
    await until(lambda: beat(run, job).done > units)
    job_again, started = await attach(run, "wait")
    assert (job_again, started) == (job, False)
    assert worker_of(job) == worker
    go(job)
    assert (await ended(run, job)).outcome == "done"


async def test_a_second_start_attaches_to_the_job_that_runs(home: Path) -> None:
    """A client that retries gets the same job, and nothing is done twice."""
    run = make_run(home)
    job = await begin(run, "wait")
    for _ in range(3):
        assert await attach(run, "finish") == (job, False)
    assert workers_on(run) == [worker_of(job).pid]
    go(job)
    await ended(run, job)


async def _race(home: Path, rounds: int, servers: int) -> None:
    launchers = [Launcher() for _ in range(servers)]
    try:
        for launcher in launchers:
            launcher.ready()
        for number in range(rounds):
            run = make_run(home, f"run-{number}")
            for launcher in launchers:
                launcher.ask(run, "wait")
            told = [launcher.told() for launcher in launchers]
            assert sorted(map(json.dumps, told)) == sorted(
                json.dumps({"job": "001-train", "started": first}) for first in [True] + [False] * (servers - 1)
            )
            [job] = run.paths.job_list()
            assert workers_on(run) == [worker_of(job).pid]
            go(job)
            assert (await ended(run, job)).outcome == "done"
    finally:
        for launcher in launchers:
            launcher.__exit__()


async def test_racing_servers_start_one_worker(home: Path) -> None:
    """Two clients of one user call the same stage at once."""
    await _race(home, rounds=10, servers=4)


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(14400)
async def test_many_racing_servers_start_one_worker(home: Path) -> None:
    """The same, until chance has had its say."""
    await _race(home, rounds=int(os.environ.get("CRASH_ROUNDS", "1000")), servers=8)


async def test_racing_servers_after_a_lost_worker_agree_on_the_new_job(home: Path) -> None:
    """While one of them starts the next worker, the lost job's folder still is the newest: it must not be attached to."""
    run = make_run(home)
    first = await begin(run, "errand", does=["deaf"])  # its end takes the one that starts the next worker seconds
    await students_of(first)
    worker_of(first).kill()
    await lost(run, first)
    with Launcher() as one, Launcher() as other:
        for launcher in (one, other):
            launcher.ready()
            launcher.ask(run, "wait")
        assert (one.told()["job"], other.told()["job"]) == ("002-train", "002-train")
    second = run.paths.job_list()[-1]
    go(second)
    assert (await ended(run, second)).outcome == "done"


async def _kill_inside_start(home: Path, rounds: int) -> None:
    """Kill a launcher at each trace it leaves while it starts a worker; whatever is left, the next start is sound."""
    launcher = Launcher()
    for number in range(rounds):
        run = make_run(home, f"run-{number}")
        folder = run.paths.jobs / "001-train"
        trace = [
            run.paths.worker_lock,
            folder,
            folder / "request.json",
            folder / "log.txt",
            folder / "worker.json",
        ][number % 5]
        with launcher:
            launcher.ready()
            launcher.ask(run, "wait")
            deadline = time.monotonic() + 30
            while not trace.exists():  # the moment is what is tested: no pause between looks
                assert time.monotonic() < deadline
            launcher.kill()
        launcher = Launcher()
        job, _ = await attach(run, "wait")
        assert job == run.paths.job_list()[-1]
        assert workers_on(run) == [worker_of(job).pid]
        go(job)
        assert (await ended(run, job)).outcome == "done"
        await until(lambda lock=run.paths.worker_lock: not is_held(lock))
    launcher.kill()


async def test_a_launcher_that_is_killed_inside_start_leaves_one_worker_or_none(home: Path) -> None:
    """Never two workers, and never a lock that nobody holds for anything."""
    await _kill_inside_start(home, rounds=10)


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(14400)
async def test_many_launchers_that_are_killed_inside_start_leave_one_worker_or_none(home: Path) -> None:
    """The same, until chance has had its say."""
    await _kill_inside_start(home, rounds=int(os.environ.get("CRASH_ROUNDS", "1000")))


async def test_a_killed_worker_is_lost_and_the_next_start_goes_on(home: Path) -> None:
    """No exit record and no lock: never taken for success, and never for running."""
    run = make_run(home)
    job = await begin(run, "crash")
    assert await lost(run, job) == launch.Lost(orphaned_trainer=False)
    assert launch.active_job(run) is None
    assert (await ended(run, await begin(run, "finish"))).outcome == "done"
    assert launch.observe(run, job) == launch.Lost(orphaned_trainer=False)


@pytest.mark.parametrize("does", ["stay", "tree", "deaf", "stop"])
async def test_an_orphaned_trainer_is_seen_and_removed_by_the_next_start(home: Path, does: str) -> None:
    """A killed supervisor would otherwise leave gigabytes in use that nobody lists. One of them ignores SIGTERM."""
    run = make_run(home)
    job = await begin(run, "errand", does=[does])
    pids = await students_of(job)
    worker_of(job).kill()
    assert await lost(run, job) == launch.Lost(orphaned_trainer=True)
    assert living(pids) == pids
    second = await begin(run, "finish")
    await gone(pids)
    assert (await ended(run, second)).outcome == "done"


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_every_trainer_that_a_killed_supervisor_left_is_found_and_removed(
    home: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same, sixty times, over every kind of tree: none is missed, none is left."""
    took_s: list[float] = []
    for number in range(int(os.environ.get("CRASH_ROUNDS", "60"))):
        run = make_run(home, f"run-{number}")
        job = await begin(run, "errand", does=[("stay", "tree", "deaf", "stop")[number % 4]])
        pids = await students_of(job)
        worker_of(job).kill()
        assert await lost(run, job) == launch.Lost(orphaned_trainer=True)
        began_s = time.monotonic()
        second = await begin(run, "finish")
        await gone(pids)
        took_s.append(time.monotonic() - began_s)
        assert (await ended(run, second)).outcome == "done"
    told = f"{len(took_s)} supervisors killed: 0 orphans missed, 0 left, the slowest was gone after {max(took_s):.1f} s"
    record_property("measured", told)


async def _orphaned(run: Run) -> tuple[JobPaths, list[int]]:
    """A job whose worker wrote down who the trainer is and was killed, and the pids that live on."""
    job = await begin(run, "errand", does=["stay"])
    pids = await students_of(job)
    worker = worker_of(job)
    await until(lambda: facts(job.worker)["trainer"])
    worker.kill()
    await lost(run, job)
    return job, pids


async def test_a_trainer_whose_worker_was_killed_before_it_wrote_that_down_is_known_by_its_lock(home: Path) -> None:
    """The record takes a flush of the disk, which may take a second; the lock's file says it at once."""
    run = make_run(home)
    job, pids = await _orphaned(run)
    job.worker.write_text(json.dumps({**facts(job.worker), "trainer": None}))
    second = await begin(run, "finish")
    await gone(pids)
    assert (await ended(run, second)).outcome == "done"


async def test_a_trainer_that_cannot_be_known_for_sure_is_not_signalled(home: Path) -> None:
    """Its pid may be another program's by now: it is named to the user instead."""
    run = make_run(home)
    job, pids = await _orphaned(run)
    record = facts(job.worker)
    record["trainer"]["start_ticks"] = 1.0
    job.worker.write_text(json.dumps(record))
    tell_who_holds(run.paths.trainer_lock, ProcessIdentity.model_validate(record["trainer"]))
    with pytest.raises(RunStateError, match="still alive and could not be stopped"):
        await attach(run, "finish")
    assert living(pids) == pids
    assert run.paths.job_list() == [job]


async def test_the_trainer_lock_is_held_as_long_as_any_grandchild_lives(home: Path) -> None:
    """One held lock is the whole truth about a tree of processes."""
    run = make_run(home)
    job = await begin(run, "errand", does=["tree"])
    child, deaf, hearing = await students_of(job)
    worker_of(job).kill()
    for pid in (child, hearing):
        os.kill(pid, signal.SIGKILL)
    await gone([child, hearing])
    assert await lost(run, job) == launch.Lost(orphaned_trainer=True)
    os.kill(deaf, signal.SIGKILL)
    await until(lambda: launch.observe(run, job) == launch.Lost(orphaned_trainer=False))


@pytest.mark.parametrize("does", ["stay", "tree", "deaf", "stop"])
async def test_cancel_ends_the_whole_tree(home: Path, does: str) -> None:
    """Also a stopped process, which does not see SIGTERM, and a grandchild that ignores it."""
    run = make_run(home)
    job = await begin(run, "errand", does=[does])
    pids = await students_of(job)
    if does == "stop":
        await until(lambda: psutil.Process(pids[0]).status() == psutil.STATUS_STOPPED)
    cancel(job)
    assert (await ended(run, job)).outcome == "cancelled"
    assert not is_held(run.paths.trainer_lock)
    await gone(pids)


async def test_a_cancel_that_was_asked_for_stays_asked_for(home: Path) -> None:
    """A pause or a resume from another window must not undo it."""
    run = make_run(home)
    job = await begin(run, "wait")
    worker = worker_of(job)
    worker.suspend()
    cancel(job)
    launch.steer(job, Control(want="run"))
    launch.steer(job, Control(want="pause"))
    assert facts(job.control) == {"want": "cancel"}
    worker.resume()
    assert (await ended(run, job)).outcome == "cancelled"


def test_a_cancel_is_never_lost_among_other_wishes(home: Path) -> None:
    """Several windows at once: looking and writing must be one step."""
    run = make_run(home)
    for number in range(10):
        job = JobPaths(run.paths.jobs / f"{number + 1:03d}-train")
        job.root.mkdir()
        wishes: list[Literal["run", "pause", "cancel"]] = ["run", "pause", "run", "cancel", "pause", "run", "pause"]
        with ThreadPoolExecutor(len(wishes)) as windows:
            list(windows.map(launch.steer, [job] * len(wishes), [Control(want=want) for want in wishes]))
        assert facts(job.control) == {"want": "cancel"}


async def test_a_pause_holds_the_work_and_a_resume_goes_on_where_it_was(home: Path) -> None:
    """The heartbeat says paused; no unit of work is done meanwhile, so no call is paid."""
    run = make_run(home)
    job = await begin(run, "wait")
    await until(lambda: beat(run, job).done > 3)
    launch.steer(job, Control(want="pause"))
    await until(lambda: beat(run, job).phase == "paused")
    held = beat(run, job)
    await until(lambda: beat(run, job).at > held.at)
    assert beat(run, job).done - held.done <= 1
    assert isinstance(launch.observe(run, job), launch.Alive)
    launch.steer(job, Control(want="run"))
    await until(lambda: beat(run, job).phase == "running" and beat(run, job).done > held.done + 3)
    assert beat(run, job).live["unit"] == beat(run, job).done
    go(job)
    assert (await ended(run, job)).outcome == "done"
    assert [line["event"] for line in read_lines(job.events)] == ["started", "paused", "resumed", "ended"]


async def test_a_paused_job_can_be_cancelled(home: Path) -> None:
    """It waits for a resume that will not come."""
    run = make_run(home)
    job = await begin(run, "wait")
    launch.steer(job, Control(want="pause"))
    await until(lambda: beat(run, job).phase == "paused")
    cancel(job)
    assert (await ended(run, job)).outcome == "cancelled"


async def test_a_stopped_worker_is_alive_not_lost(home: Path) -> None:
    """The machine sleeps, or someone stops it by hand: a missing heartbeat is never a death certificate."""
    run = make_run(home)
    job = await begin(run, "wait")
    worker = worker_of(job)
    worker.suspend()
    assert isinstance(launch.observe(run, job), launch.Alive)
    assert await attach(run, "wait") == (job, False)
    worker.kill()
    assert await lost(run, job) == launch.Lost()


@pytest.mark.parametrize("scene", ["refuse", "refuse_in_a_group"])
async def test_an_anticipated_failure_is_recorded_in_its_own_words(home: Path, scene: str) -> None:
    """The agent reads what happened and what to do next, hours after the chat that started the job ended."""
    run = make_run(home)
    failed = await ended(run, await begin(run, scene))
    assert (failed.outcome, failed.error_kind) == ("failed", "budget")
    assert (failed.what, failed.next_step) == ("The budget is used up.", "Raise it.")


async def test_a_defect_is_recorded_by_its_kind_and_its_words_only_reach_the_log(home: Path) -> None:
    """The words of a library may hold text from a teacher or a file."""
    run = make_run(home)
    job = await begin(run, "defect")
    failed = await ended(run, job)
    assert failed.what == "The job ended on an unexpected ValueError; what it had done is kept."
    assert "canary" not in job.exit.read_text() + job.events.read_text()
    assert "canary" in job.log.read_text()


async def test_a_full_disk_is_named(home: Path) -> None:
    """The user can free some space, and nothing else helps."""
    run = make_run(home)
    failed = await ended(run, await begin(run, "full_disk"))
    assert failed.what == "The disk is full; what was done before is kept."


async def test_a_worker_that_is_asked_to_end_counts_as_interrupted(home: Path) -> None:
    """A logout or a shutdown sends SIGTERM: the job was not cancelled by its user, and goes on with the next call."""
    run = make_run(home)
    job = await begin(run, "errand", does=["tree"])
    pids = await students_of(job)
    await until(job.events.exists)
    worker_of(job).terminate()
    assert await lost(run, job) == launch.Lost(orphaned_trainer=False)
    await gone(pids)
    assert not job.exit.exists()
    assert [line["event"] for line in read_lines(job.events)] == ["started", "terminated"]


async def test_a_hangup_is_not_heard(home: Path) -> None:
    """The terminal a server was started in is closed."""
    run = make_run(home)
    job = await begin(run, "wait")
    worker_of(job).send_signal(signal.SIGHUP)
    done = beat(run, job).done
    await until(lambda: beat(run, job).done > done)
    go(job)
    assert (await ended(run, job)).outcome == "done"


async def test_a_student_answers_with_its_events_and_its_result(home: Path) -> None:
    """The way every model call of a run takes."""
    run = make_run(home)
    job = await begin(run, "errand", does=["answer"])
    assert (await ended(run, job)).summary == {"texts": ["done"]}
    assert facts(job.heartbeat)["done"] == 3
    assert not is_held(run.paths.trainer_lock)


@pytest.mark.parametrize(
    ("does", "what"),
    [
        ("refuse", "The loss is not a number."),
        (
            "die",
            "The student process (errand) was ended by SIGKILL without a result. It probably ran out of memory.",
        ),
        ("exit 3", "The student process (errand) ended with code 3 without a result."),
    ],
)
async def test_a_student_that_fails_says_how(home: Path, does: str, what: str) -> None:
    """A failure it knows in its own words, a death by its signal or code."""
    run = make_run(home)
    failed = await ended(run, await begin(run, "errand", does=[does]))
    assert (failed.outcome, failed.error_kind, failed.what) == ("failed", "training", what)


async def test_a_student_that_hangs_is_ended_and_says_so(home: Path) -> None:
    """A library that waits for ever would keep the run, and the machine, for ever; work that shows itself goes on."""
    run = make_run(home)
    job = await begin(run, "errand", does=["answer", "stop"], silent_s=0.5)
    failed = await ended(run, job)
    assert failed.outcome == "failed"
    assert failed.what == "The student process (errand) gave no sign of life for 0.5 s and was ended."
    await gone(await students_of(job))


async def test_what_a_student_leaves_running_is_ended_before_the_next_one_starts(home: Path) -> None:
    """It holds the trainer lock for a moment longer than its parent: not a reason to fail the job."""
    run = make_run(home)
    job = await begin(run, "errand", does=["leave a grandchild", "answer", "leave a grandchild", "answer"])
    assert (await ended(run, job)).summary == {"texts": ["left one", "done", "left one", "done"]}
    await gone(await students_of(job))


async def test_one_job_at_a_time_holds_the_machine_and_the_others_queue(home: Path) -> None:
    """Two trainings would swap each other out of memory."""
    runs = [make_run(home, name) for name in ("first", "second", "third")]
    lock_path = str(home / "training.lock")
    first = await begin(runs[0], "queue", lock_path=lock_path)
    await until(lambda: beat(runs[0], first).done > 0)
    second = await begin(runs[1], "queue", lock_path=lock_path)
    third = await begin(runs[2], "queue", lock_path=lock_path)
    await until(lambda: beat(runs[1], second).phase == beat(runs[2], third).phase == "queued")
    launch.steer(second, Control(want="pause"))
    await until(lambda: beat(runs[1], second).phase == "paused")
    launch.steer(second, Control(want="run"))
    await until(lambda: beat(runs[1], second).phase == "queued")
    assert (beat(runs[1], second).done, beat(runs[2], third).done) == (0, 0)
    assert beat(runs[1], second).message == "waiting for the training of run first"
    cancel(third)
    assert (await ended(runs[2], third)).outcome == "cancelled"
    go(first)
    go(second)
    assert (await ended(runs[0], first)).outcome == "done"
    assert (await ended(runs[1], second)).outcome == "done"
    assert [line["event"] for line in read_lines(second.events)] == [
        "started",
        "queued",
        "paused",
        "resumed",
        "ended",
    ]


async def test_the_machine_stays_taken_while_an_orphaned_trainer_uses_it(home: Path) -> None:
    """Its memory is in use, whoever started it."""
    lock_path = home / "training.lock"
    run = make_run(home)
    job = await begin(run, "queue_with_student", lock_path=str(lock_path), does=["stay"])
    [pid] = await students_of(job)
    worker_of(job).kill()
    await lost(run, job)
    assert is_held(lock_path)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not is_held(lock_path))


@linux_only
async def test_no_secret_of_the_server_reaches_a_worker_and_no_key_a_student(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker gets the keys it was given, a student none, and neither an endpoint or a switch of the server's."""
    hostile = ("ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "HTTPS_PROXY", "PYTHONPATH", "HF_ENDPOINT")
    for name in (*hostile, "WANDB_API_KEY", "HF_TOKEN", "MCP_SERVER"):
        monkeypatch.setenv(name, "canary")
    run = make_run(home)
    job = await begin(run, "errand", {"DESK_KEY": "sk-handed-over"}, does=["stay"])
    [student] = await students_of(job)

    def environment(pid: int) -> str:
        return Path(f"/proc/{pid}/environ").read_bytes().decode()

    worker, trainer = environment(worker_of(job).pid), environment(student)
    assert "DESK_KEY=sk-handed-over" in worker
    assert "DESK_KEY" not in trainer
    assert "canary" not in worker + trainer
    for line in (worker_of(job).cmdline(), psutil.Process(student).cmdline()):
        assert "sk-handed-over" not in " ".join(line)
    cancel(job)
    await ended(run, job)
    for file in run.paths.root.rglob("*"):
        if file.is_file():
            assert b"sk-handed-over" not in file.read_bytes(), file


async def test_a_worker_without_the_lock_does_nothing(home: Path) -> None:
    """Someone runs its command line again by hand: the descriptor is not the run's lock."""
    run = make_run(home)
    job = await begin(run, "wait")
    other = open_lock(home / "other.lock")
    assert try_lock(other)
    fcntl.fcntl(other, fcntl.F_SETFD, 0)
    nonce = facts(job.request)["nonce"]
    command: list[Any] = [*worker_of(job).cmdline()[:-4], run.paths.root, job.root.name, nonce, other]
    command[0] = sys.executable
    result = await anyio.run_process(list(map(str, command)), check=False, pass_fds=(other,))
    assert (result.returncode, result.stderr) == (os.EX_TEMPFAIL, b"No lock was handed over.\n")
    os.close(other)
    assert worker_of(job).is_running()
    go(job)
    assert (await ended(run, job)).outcome == "done"


async def test_a_worker_that_cannot_start_is_said_with_where_to_look(home: Path) -> None:
    """A broken installation: the launcher does not wait for its whole timeout."""
    run = make_run(home)
    with anyio.fail_after(15), pytest.raises(RunStateError) as caught:
        await launch.start(run, "train", {}, {}, worker=[sys.executable, "-I", "-c", "raise SystemExit('broken')"])
    assert caught.value.what == "The worker ended before it reported in."
    [job] = run.paths.job_list()
    assert job.log.read_text() == "broken\n"
    assert launch.observe(run, job) == launch.Lost()
    assert (await ended(run, await begin(run, "finish"))).outcome == "done"
