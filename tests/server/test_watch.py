"""Whoever listens to a run is told that it changed, and nobody else's folder is looked at."""

import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import ResourceListChangedNotification

from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Exit, Heartbeat
from nanodistill_mcp.runs.store import now
from nanodistill_mcp.server import watch
from nanodistill_mcp.server.build import build_server
from nanodistill_mcp.server.resources import RunsServer
from nanodistill_mcp.settings import load_settings
from tests.runs.made import make_run

STATUS = "nanodistill://runs/tickets/status"
REPORT = "nanodistill://runs/tickets/report.md"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunsServer:
    """A server that looks often."""
    monkeypatch.setattr(watch, "LOOK_S", 0.02)
    return build_server(load_settings(tmp_path, env={}))


def _beat(tmp_path: Path, done: int) -> JobPaths:
    job = JobPaths(tmp_path / "runs" / "tickets" / "jobs" / "001-train")
    job.root.mkdir(mode=0o700, exist_ok=True)
    write_json(job.heartbeat, Heartbeat(at=now(), done=done, message="x" * done).model_dump())
    return job


async def test_a_listener_is_told_of_a_heartbeat_an_end_and_a_file(server: RunsServer, tmp_path: Path) -> None:
    """What get_status would answer anew is what is told; reading it again is the client's business."""
    run = make_run(tmp_path)
    async with Client(server) as client, client.listen(resource_subscriptions=[STATUS, REPORT]) as events:

        async def told(uri: str) -> None:
            with anyio.fail_after(20):
                async for event in events:
                    if getattr(event, "uri", "") == uri:
                        return

        job = _beat(tmp_path, 1)
        await told(STATUS)
        write_json(job.exit, Exit(outcome="done", ended_at=now(), elapsed_s=1.0).model_dump())
        await told(STATUS)
        run.paths.report.write_text("# Report\n", encoding="utf-8")
        await told(REPORT)


@pytest.mark.filterwarnings("ignore:resources/:mcp.MCPDeprecationWarning")
async def test_a_client_of_the_older_era_subscribes_and_unsubscribes(server: RunsServer, tmp_path: Path) -> None:
    """Most clients of today still speak it."""
    make_run(tmp_path)
    heard: list[Any] = []
    arrived = anyio.Event()

    async def hear(message: Any) -> None:
        nonlocal arrived
        heard.append(message)
        arrived.set()

    async with Client(server, mode="legacy", message_handler=hear) as client:
        assert client.server_capabilities.resources is not None
        assert client.server_capabilities.resources.subscribe
        await client.subscribe_resource(STATUS)  # pyright: ignore[reportDeprecated]
        await client.subscribe_resource(REPORT)  # pyright: ignore[reportDeprecated]
        _beat(tmp_path, 1)
        with anyio.fail_after(20):
            await arrived.wait()
        await client.unsubscribe_resource(STATUS)  # pyright: ignore[reportDeprecated]
        arrived = anyio.Event()
        heard.clear()
        _beat(tmp_path, 2)
        make_run(tmp_path, "other")
        with anyio.fail_after(20):
            await arrived.wait()
    (message,) = heard
    assert isinstance(message, ResourceListChangedNotification)


async def test_a_new_run_changes_the_list_of_resources(server: RunsServer, tmp_path: Path) -> None:
    """Clients that list resources once show a run's report only when they are told to list again."""
    async with Client(server) as client, client.listen(resources_list_changed=True) as events:
        make_run(tmp_path)
        with anyio.fail_after(20):
            async for event in events:
                assert type(event).__name__ == "ResourcesListChanged"
                break


async def test_nothing_is_looked_at_while_nobody_listens(
    server: RunsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that idles in a client for weeks must cost nothing."""
    make_run(tmp_path)
    looked: list[object] = []
    monkeypatch.setattr(watch.Watch, "_marks", lambda _, uris: looked.append(uris) or {})  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    async with Client(server) as client, client.listen(tools_list_changed=True):
        await client.list_resources()
        await anyio.sleep(0.1)
    assert [uris for uris in looked if uris] == []


@pytest.mark.parametrize(
    "uri",
    ["nanodistill://runs/tickets/../../../etc/hostname", "nanodistill://runs/nope/status", "file:///etc/hostname"],
)
def test_an_address_that_is_none_of_ours_is_never_looked_up(server: RunsServer, tmp_path: Path, uri: str) -> None:
    """Listening must not say whether a file exists elsewhere, or when it changes."""
    make_run(tmp_path)
    mark = watch.Watch(server.app.store).mark
    assert mark(uri) in (None, mark("nanodistill://runs/tickets/no-such-file"))


def test_each_thing_that_changes_a_status_changes_its_mark(server: RunsServer, tmp_path: Path) -> None:
    """Also a worker's death, which writes nothing."""
    run = make_run(tmp_path)
    seen = [watch.Watch(server.app.store).mark(STATUS)]

    def differs() -> bool:
        seen.append(watch.Watch(server.app.store).mark(STATUS))
        return seen[-1] != seen[-2]

    assert not differs()
    lock = open_lock(run.paths.worker_lock)
    assert try_lock(lock)
    assert differs()
    os.close(lock)
    assert differs()
    run.paths.calls.write_text("{}\n", encoding="utf-8")
    assert differs()
