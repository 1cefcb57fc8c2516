"""``serve-model``: a run's trained model for other programs, over HTTP."""

import os
import signal
import sys
from pathlib import Path

import anyio

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.pipeline.serve import Chosen, Form, chosen
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.serving.listening import bound, is_loopback, token_of
from nanodistill_mcp.serving.model import Model
from nanodistill_mcp.serving.serve import serve
from nanodistill_mcp.settings import DEVICE_VARIABLE, load_settings


def serve_model(
    home: Path,
    run_id: str,
    *,
    form: Form,
    host: str,
    port: int,
    with_token: bool,
    context_tokens: int,
    parallel: int,
) -> int:
    """Serve until a signal asks to stop."""
    os.environ[DEVICE_VARIABLE] = load_settings(home).device
    store = RunStore(home)
    found = chosen(store.open(run_id), form, context_tokens=context_tokens, parallel=parallel)
    token, where = token_of(home) if with_token or not is_loopback(host) else ("", "")
    anyio.run(_serve, found, home / f"serve-{run_id}.log", host, port, token, where)
    return 0


async def _serve(found: Chosen, log: Path, host: str, port: int, token: str, where: str) -> None:
    log.unlink(missing_ok=True)
    model = Model(found.keep, log)
    ended = anyio.Event()

    async def end_on_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                ended.set()

    async def tell_when_loaded() -> None:
        await model.ready.wait()
        if loaded := model.loaded:
            _tell(
                f"Loaded on {loaded.device}; {loaded.context_tokens} tokens a question and answer, {loaded.parallel} at once."
            )

    with bound(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        told = f" The token is in {where}." if token else ""
        warning = "" if is_loopback(host) else " The connection is not encrypted: use it in a network you trust."
        _tell(f"Serving {found.words} of run {found.served.name} at {address}/v1.{told}{warning} Ctrl-C ends it.")
        failure: NanodistillError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_on_signal)
            tasks.start_soon(tell_when_loaded)
            try:
                await serve(model, found.served, listening, ended, token=token)
            except NanodistillError as error:  # as itself, not in a group
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
