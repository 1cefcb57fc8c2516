"""A run whose paid stages were carried out through the server, made once for all test processes."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from nanodistill_mcp.demo.wire import WireServer
from tests.conftest import KEY, SECRET, SHORT, STAGES, WAIT_S, Bench, ScriptedTeacher
from tests.once import once

OPTIONS = {**SHORT, "examples_per_call": 4}


@dataclass(frozen=True)
class Paid:
    """The run ``tickets`` up to its examples, and every question that was asked for it."""

    run_folder: Path
    asked: list[str]

    def adopted_by(self, bench: Bench) -> list[str]:
        """Put a copy of the run into a test's data directory; what was asked for it."""
        shutil.copytree(self.run_folder, bench.run_folder(self.run_folder.name), symlinks=True)
        return self.asked


@pytest.fixture(scope="session")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Paid:
    """The run, for tests that begin where the teacher was paid. Adopt it, never change it."""

    def make(home: Path) -> dict[str, Any]:
        scripted = ScriptedTeacher()
        with WireServer(scripted.answer) as server:
            scripted.server = server
            environment = {"NANODISTILL_HOME": str(home), "PATH": os.environ["PATH"], "HOME": str(home), KEY: SECRET}
            bench = Bench(home, scripted, environment)
            bench.configure()
            anyio.run(_pay, bench)
        return {"run": str(bench.run_folder("tickets")), "asked": [request.user for request in scripted.asked]}

    found = once(tmp_path_factory, "paid", make, within_s=WAIT_S)
    return Paid(Path(found["run"]), found["asked"])


async def _pay(bench: Bench) -> None:
    async with bench.connect() as agent:
        await agent.create(options=OPTIONS)
        for stage in STAGES[:3]:
            reply = await agent.finish("tickets", stage)
            assert reply["state"] == "done", reply["message"]
