"""A model kept and served together: they begin together, and neither outlives the other."""

import socket

import anyio

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.serving.app import ModelApp, Served
from nanodistill_mcp.serving.listening import hosts_of, listen
from nanodistill_mcp.serving.model import Model
from nanodistill_mcp.serving.wire import Door


async def serve(model: Model, served: Served, listening: socket.socket, ended: anyio.Event, *, token: str = "") -> None:
    """Serve a model at an address that listens already, until the event is set.

    Raises:
        NanodistillError: The model cannot be loaded, or its process dies again and again.
    """
    host, port = listening.getsockname()[:2]
    app = ModelApp(model, served, Door(hosts_of(host, port), token))
    failure: NanodistillError | None = None

    async def keep() -> None:
        nonlocal failure
        try:
            await model.run()
        except NanodistillError as error:
            failure = error
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        await listen(app, listening, ended)
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
