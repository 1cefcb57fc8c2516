"""The command line, for people. Without a command it serves a client on standard input and output."""

import argparse
import gc
import json
import os
import sys
from pathlib import Path

from nanodistill_mcp import __version__
from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.runs.paths import data_home
from nanodistill_mcp.settings import load_settings

_ALL = 1_000_000


def main() -> None:
    """Run one command; exits 2 on an anticipated failure, 130 on Ctrl-C."""
    arguments = _parser().parse_args()
    if arguments.home:
        os.environ["NANODISTILL_HOME"] = str(Path(arguments.home).expanduser().absolute())
    os.umask(0o077)
    try:
        sys.exit(_run(arguments))
    except NanodistillError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "demo":
            from nanodistill_mcp.demo.run import run_demo  # noqa: PLC0415 - brings the client and rich

            return run_demo(data_home(), seed=arguments.seed, fresh=arguments.fresh)
        case "doctor":
            from nanodistill_mcp.server.doctor import doctor  # noqa: PLC0415 - starts processes

            return doctor(data_home())
        case "runs" | "show":
            return _show(getattr(arguments, "run_id", ""), getattr(arguments, "tag", ""))
        case "compare":
            return _compare(arguments.run_id, arguments.other_id)
        case _:
            return _serve()


def _serve() -> int:
    # What a start makes lives as long as the server: looking for garbage among it is a tenth of the start's time.
    gc.disable()
    import anyio  # noqa: PLC0415 - the other commands do without

    from nanodistill_mcp.server.build import build_server, serve_stdio  # noqa: PLC0415 - brings mcp

    settings = load_settings(data_home())
    if settings.prompts:  # one that is not accepted stops the server, as any other value of the configuration does
        from nanodistill_mcp.teacher.wording import read_wordings  # noqa: PLC0415 - most servers have none

        read_wordings(settings.prompts)
    server = build_server(settings)
    gc.freeze()
    gc.enable()
    if sys.stdin.isatty():
        print(
            "Serving on standard input: this is for an MCP client. Try 'nanodistill-mcp demo' or '--help'.",
            file=sys.stderr,
        )
    anyio.run(serve_stdio, server)
    return 0


def _show(run_id: str, tag: str) -> int:
    from nanodistill_mcp.runs.store import RunStore  # noqa: PLC0415
    from nanodistill_mcp.server.app import App, status_reply  # noqa: PLC0415 - brings mcp
    from nanodistill_mcp.server.listing import runs_reply  # noqa: PLC0415

    app = App(load_settings(data_home()), RunStore(data_home()))
    reply = status_reply(app.store.open(run_id), detail=True) if run_id else runs_reply(app, tag=tag, limit=_ALL)
    print(reply.model_dump_json(indent=2))
    return 0


def _compare(run_id: str, other_id: str) -> int:
    from nanodistill_mcp.pipeline.compare_runs import compare_runs  # noqa: PLC0415
    from nanodistill_mcp.runs.store import RunStore  # noqa: PLC0415

    store = RunStore(data_home())
    print(json.dumps(compare_runs(store.open(run_id), store.open(other_id)), indent=2, ensure_ascii=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nanodistill-mcp", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--home", default="", help="the data directory (else NANODISTILL_HOME, else this user's)")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("serve", help="serve an MCP client on standard input and output (the default)")
    demo = commands.add_parser(
        "demo", help="the whole job with an offline teacher and a tiny student: no key, no download"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the data order and the adapter's start (default 0)")
    demo.add_argument("--fresh", action="store_true", help="begin anew instead of continuing")
    commands.add_parser("doctor", help="check this machine: Python, data directory, student and teacher libraries")
    runs = commands.add_parser("runs", help="list all runs as JSON")
    runs.add_argument("--tag", default="", help="only those of this tag")
    compare = commands.add_parser(
        "compare", help="two runs side by side as JSON: settings, scores on the same rows, cost"
    )
    compare.add_argument("run_id", help="a run's id")
    compare.add_argument("other_id", help="the other's")
    show = commands.add_parser("show", help="show one run as JSON")
    show.add_argument("run_id", help="the run's id")
    return parser
