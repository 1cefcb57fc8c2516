"""``nanodistill-mcp doctor``: what was found, a line each, and below it what mends it."""

import argparse

from nanodistill_mcp.runs.paths import data_home

_COLOURS = {"ok": "green", "advice": "yellow", "no": "red"}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Check and print. The exit code is 1 when something is not usable."""
    import anyio
    from rich.console import Console
    from rich.text import Text

    from nanodistill_mcp.server.artifacts import clean
    from nanodistill_mcp.server.doctor import examine

    reply = anyio.run(examine, data_home())
    if arguments.json:
        print(reply.model_dump_json(indent=2))
        return 0 if reply.usable else 1
    console = Console()
    console.print(f"nanodistill-mcp {reply.version}, Python {reply.python} on {reply.platform}", highlight=False)
    for finding in reply.findings:
        mark = (f"{finding.state:<7}", _COLOURS[finding.state])
        console.print(Text.assemble(mark, clean(f"{finding.what}: {finding.found}")), soft_wrap=True)
        if finding.mend:
            console.print(Text(clean(f"         mend: {finding.mend}")), soft_wrap=True)
    return 0 if reply.usable else 1
