"""Word that a resource changed, for whoever listens, in both eras of the protocol.

Workers write to the run folder and tell nobody, so the folder is looked at: only while somebody listens, and only at what is
listened to. A client that listens for nothing of ours costs nothing.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourcesListChanged, ResourceUpdated
from mcp.types import (
    EmptyResult,
    ResourceListChangedNotification,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.jobs.locks import is_held
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.server.artifacts import SCHEME, open_artifact

LOOK_S = 2.0
_THE_LIST = ""
"""Stands for the list of resources among the addresses that are watched."""

_Mark = object
_Context = ServerRequestContext[Any, Any]


class Watch:
    """Looks at what is listened to. It holds nothing of a listener that is gone."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def add_to(self, server: MCPServer[Any]) -> None:
        """Answer the requests to listen: one stream in the newer era, single addresses in the older."""
        low = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - the older era's requests have no other way in
        low.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, self._listen)
        low.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)

    async def _listen(self, ctx: _Context, params: SubscriptionsListenRequestParams) -> HandlerResult:
        asked = params.notifications
        uris = [*(asked.resource_subscriptions or ()), *([_THE_LIST] if asked.resources_list_changed else [])]
        bus = InMemorySubscriptionBus()  # one a stream: what one client asked for concerns no other
        watched = self._marks(uris)

        async def tell(uri: str) -> None:
            await bus.publish(ResourceUpdated(uri=uri) if uri else ResourcesListChanged())

        answer: HandlerResult = None
        async with anyio.create_task_group() as tasks:
            if watched:
                tasks.start_soon(self._look, watched, tell)
            answer = await ListenHandler(bus)(ctx, params)
            tasks.cancel_scope.cancel()
        return answer

    async def _subscribe(self, ctx: _Context, params: SubscribeRequestParams) -> HandlerResult:
        connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - a subscription lasts as long as it, not as this request
        watched: dict[str, _Mark] | None = connection.state.get(__name__)
        if watched is None:

            async def tell(uri: str) -> None:
                if uri:
                    await connection.send_resource_updated(uri)
                else:
                    await connection.notify(ResourceListChangedNotification().method, None)

            watched = connection.state[__name__] = self._marks([_THE_LIST])
            looking = asyncio.create_task(self._look(watched, tell))
            connection.exit_stack.callback(looking.cancel)
        watched.update(self._marks([str(params.uri)]))
        return EmptyResult()

    async def _unsubscribe(self, ctx: _Context, params: UnsubscribeRequestParams) -> HandlerResult:
        watched: dict[str, _Mark] = ctx.session._connection.state.get(__name__, {})  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - as above
        watched.pop(str(params.uri), None)
        return EmptyResult()

    async def _look(self, watched: dict[str, _Mark], tell: Callable[[str], Awaitable[None]]) -> None:
        while True:
            await anyio.sleep(LOOK_S)
            for uri, mark in self._marks(list(watched)).items():
                if watched.get(uri, mark) != mark:
                    watched[uri] = mark
                    await tell(uri)

    def _marks(self, uris: Iterable[str]) -> dict[str, _Mark]:
        return {uri: self.mark(uri) for uri in uris}

    def mark(self, uri: str) -> _Mark:
        """What differs when a resource does: times and sizes of files, never their content."""
        if uri in (_THE_LIST, SCHEME):
            return self._runs()
        run_id, _, name = uri.removeprefix(f"{SCHEME}/").partition("/")
        if not uri.startswith(f"{SCHEME}/") or not name:
            return None
        try:
            run = self._store.open(run_id)
            return _status_mark(run) if name == "status" else _file_mark(run, name)
        except (NanodistillError, OSError):  # not there yet, or not any more: it differs when that does
            return None

    def _runs(self) -> _Mark:
        found: dict[str, int] = {}
        with contextlib.suppress(OSError), os.scandir(self._store.runs_dir) as entries:
            for entry in (each for each in entries if not each.name.startswith(".")):
                with contextlib.suppress(OSError):  # moved away since
                    found[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
        return found


def _status_mark(run: Run) -> _Mark:
    """The folder, where products appear; what the newest job last wrote; what was paid; whether a worker lives."""
    paths = run.paths
    newest = paths.job_list()[-1:]
    of_job = [path for job in newest for path in (job.root, job.heartbeat, job.control, job.exit)]
    marks = [_stat(path) for path in (paths.root, paths.calls, paths.host, *of_job)]
    return (*marks, is_held(paths.worker_lock))


def _file_mark(run: Run, name: str) -> _Mark:
    try:
        fd = open_artifact(run, name)
    except NanodistillError:  # made when it is read, of what lies in the folder
        return (_stat(run.paths.root), _stat(run.paths.revisions))
    try:
        found = os.fstat(fd)
        return (found.st_ino, found.st_mtime_ns, found.st_size)
    finally:
        os.close(fd)


def _stat(path: os.PathLike[str]) -> _Mark:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size)
