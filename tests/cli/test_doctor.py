"""``doctor`` finds what does not work and says what mends it; keys are seen and never shown."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mcp.types import TextResourceContents

from nanodistill_mcp.demo.student import student_path
from tests.cli.person import types
from tests.conftest import KEY, SECRET, Bench
from tests.jobs.scenes import begin, lost
from tests.runs.made import make_run

HERE = {"NANODISTILL_DEFAULT_STUDENT": str(student_path()), "NANODISTILL_DEFAULT_TEACHER": "local"}


def _found(reply: dict[str, Any], what: str) -> dict[str, str]:
    return next(finding for finding in reply["findings"] if finding["what"] == what)


def test_a_machine_that_works_is_told_so_with_what_was_proved(bench: Bench) -> None:
    """Two real steps and a loaded llama.cpp say more than versions."""
    told = types(bench.home, "doctor", "--json", env={**bench.env, **HERE})
    assert told.returncode == 0, told.stdout + told.stderr
    reply = json.loads(told.stdout)
    assert reply["usable"]
    assert re.search(r"Python 3\.\d+\.\d+, mcp \d.*, litellm \d", _found(reply, "platform")["found"])
    assert "two steps took" in _found(reply, "device")["found"]
    assert _found(reply, "llama.cpp")["found"].endswith(" loads")
    assert _found(reply, "teacher local") == {
        "what": "teacher local",
        "state": "ok",
        "found": f"openai, {KEY} is set",
        "mend": "",
    }
    assert _found(reply, "jobs")["state"] == "ok"
    assert all(finding["mend"] for finding in reply["findings"] if finding["state"] != "ok")
    assert SECRET not in told.stdout


async def test_what_does_not_work_is_told_with_the_command_that_mends_it(home: Path) -> None:
    """A missing key, a student that is not there and an interrupted job, in one call."""
    run = make_run(home)
    await lost(run, await begin(run, "crash"))
    missing = {"NANODISTILL_DEFAULT_STUDENT": str(home / "nowhere"), "NANODISTILL_DEFAULT_TEACHER": "openai/gpt-4o"}
    told = types(home, "doctor", env=missing)
    assert told.returncode == 1
    lines = told.stdout.splitlines()
    key = next(number for number, line in enumerate(lines) if "teacher openai/gpt-4o" in line)
    assert lines[key] == "advice teacher openai/gpt-4o: openai, OPENAI_API_KEY is not set here"
    assert lines[key + 1].strip().startswith("mend: add OPENAI_API_KEY under env")
    assert any(line.startswith("no     student ") for line in lines)
    job = next(number for number, line in enumerate(lines) if line.startswith("advice jobs: train of run "))
    assert lines[job + 1].strip() == f"mend: nanodistill-mcp show {run.run_id}"
    assert "\x1b" not in told.stdout


@pytest.mark.slow
def test_a_data_directory_that_cannot_be_made_is_named(home: Path) -> None:
    """Everything else would fail later, one call at a time."""
    (home / "file").write_text("", encoding="utf-8")
    told = types(home / "file" / "below", "doctor", "--json", env={**HERE, "HOME": str(home)})
    assert told.returncode == 1
    finding = _found(json.loads(told.stdout), "data directory")
    assert (finding["state"], "NANODISTILL_HOME" in finding["mend"]) == ("no", True)


@pytest.mark.slow
async def test_an_agent_reads_the_same_as_a_resource(bench: Bench) -> None:
    """A client without a terminal finds out why a stage cannot work."""
    async with bench.connect(**HERE) as agent:
        assert "nanodistill://doctor" in {str(r.uri) for r in (await agent.client.list_resources()).resources}
        read = await agent.client.read_resource("nanodistill://doctor")
    [content] = read.contents
    assert isinstance(content, TextResourceContents)
    reply = json.loads(content.text)
    assert reply["usable"]
    assert {finding["what"] for finding in reply["findings"]} >= {"device", "llama.cpp", "data directory", "jobs"}
    assert SECRET not in content.text
