"""``nanodistill-mcp doctor``: what was found, a line each, and below it what mends it."""

from pathlib import Path

import anyio
from rich.console import Console
from rich.text import Text

from nanodistill_mcp.server.artifacts import clean
from nanodistill_mcp.server.doctor import examine

_COLOURS = {"ok": "green", "advice": "yellow", "no": "red"}


def show_doctor(home: Path, *, as_json: bool) -> int:
    """Check and print. The exit code is 1 when something is not usable."""
    reply = anyio.run(examine, home)
    if as_json:
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
