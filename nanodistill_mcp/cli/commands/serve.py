"""``nanodistill-mcp serve``: the server, for a client on standard input and output or over HTTP."""

import argparse
import gc
import os
import sys

from nanodistill_mcp.runs.paths import data_home
from nanodistill_mcp.settings import DEVICE_VARIABLE, load_settings


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("--http", action="store_true", help="over HTTP instead, with a token: see docs/clients.md")
    command.add_argument("--port", type=int, default=8765, help="with --http (default 8765)")
    command.add_argument(
        "--host", default="127.0.0.1", help="with --http, the one address to serve (default 127.0.0.1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until the client leaves."""
    # What a start makes lives as long as the server: looking for garbage among it is a tenth of the start's time.
    gc.disable()
    import anyio

    from nanodistill_mcp.server.build import build_server
    from nanodistill_mcp.server.stdio import serve_stdio

    settings = load_settings(data_home())
    os.environ[DEVICE_VARIABLE] = settings.device  # wherever it was set: workers and their students inherit it
    if settings.prompts:  # one that is not accepted stops the server, as any other value of the configuration does
        from nanodistill_mcp.teacher.wording import read_wordings

        read_wordings(settings.prompts)
    server = build_server(settings)
    gc.freeze()
    gc.enable()
    if arguments.http:
        from nanodistill_mcp.server.over_http import serve_http

        anyio.run(serve_http, server, arguments.host, arguments.port)
        return 0
    if sys.stdin.isatty():
        print(
            "Serving on standard input: this is for an MCP client. Try 'nanodistill-mcp demo' or '--help'.",
            file=sys.stderr,
        )
    anyio.run(serve_stdio, server)
    return 0
