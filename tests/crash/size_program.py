"""Looks at a data directory as a server does, in a process of its own, and says how long each look took and what memory it had."""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nanodistill_mcp.runs.files import tail_lines
from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.server.app import App, status_reply
from nanodistill_mcp.server.artifacts import read_page
from nanodistill_mcp.server.listing import runs_reply
from nanodistill_mcp.settings import load_settings


def main() -> None:
    """Measure what the arguments name."""
    home, run_id = Path(sys.argv[1]), sys.argv[2]
    app = App(load_settings(home, env={}), RunStore(home))
    run = app.store.open(run_id)
    last = max(0, len(app.store.names()) - 20)

    def resume() -> None:
        with Journal.open(run.paths.calls):
            pass

    looks: dict[str, Callable[[], object]] = {
        "first page": lambda: runs_reply(app),
        "last page": lambda: runs_reply(app, offset=last),
        "a tag": lambda: runs_reply(app, tag="rare"),
        "status": lambda: status_reply(run, detail=False),
        "status again": lambda: status_reply(run, detail=False),
        "tail": lambda: tail_lines(run.paths.traces_amplified, 20),
        "a page in the middle": lambda: read_page(run, "traces_amplified.jsonl", 50_000, 50),
        "resume": resume,
    }
    told: dict[str, list[float]] = {}
    for name in sys.argv[3:]:
        began = time.monotonic()
        looks[name]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told[name] = [round(time.monotonic() - began, 3), round(peak / (1 << (20 if sys.platform == "darwin" else 10)))]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
