"""Carries out stages of a run in forks of itself, each with a plan of where to fail: a death costs a fork, not a start.

Reads one order a line and answers with how the fork ended. Not in the test's own process, whose threads a fork would miss.
"""

import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from nanodistill_mcp.pipeline.status import product_of
from nanodistill_mcp.runs import faults
from nanodistill_mcp.teacher import libraries
from tests.conftest import ScriptedTeacher
from tests.pipeline.paid_run import PaidRun


@dataclass
class Elsewhere(ScriptedTeacher):
    """A teacher that another process serves."""

    at: str = ""

    @property
    def url(self) -> str:
        return self.at


async def _carry_out(order: dict[str, Any]) -> dict[str, Any]:
    paid = PaidRun(Path(order["home"]), Elsewhere(at=order["url"]), spec=order["spec"])
    ended: dict[str, Any] = {"outcome": "done"}
    for stage, arguments in order["stages"]:
        if product_of(paid.run.paths, stage).exists():
            continue  # as the server does, which answers from what is there
        ended = (await paid.stage(stage, **arguments)).model_dump()
        if ended["outcome"] != "done":
            break
    return ended


def _child(order: dict[str, Any]) -> int:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faults.arm(order["plan"])
    try:
        ended = anyio.run(_carry_out, order)
    except OSError as error:  # the exit record itself could not be written: the worker's log is all there is
        traceback.print_exc()
        ended = {"outcome": "died", "what": type(error).__name__, "errno": error.errno}
    faults.arm("")
    Path(order["result"]).write_text(json.dumps(ended))
    return 0


def main() -> None:
    """Serve until the input ends."""
    libraries.litellm()  # before the forks, or each would import them anew
    libraries.instructor()
    os.write(1, b"ready\n")
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = _child(order)
            except BaseException:  # noqa: BLE001 - a fork must never go on as the server
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        os.write(1, json.dumps(os.waitstatus_to_exitcode(status)).encode() + b"\n")


if __name__ == "__main__":
    main()
