"""Other clients' libraries take the demo's task to a GGUF file, each by next_step alone and in its own environment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from tests.conftest import SHORT, STAGES, Bench

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / "build" / "clients"
"""Kept between runs; git ignores it."""

CLIENTS = {
    "mcp": "mcp==1.30.0",
    "fastmcp": "fastmcp==4.1.2",
    "openai-agents": "openai-agents==0.24.0",
    "pydantic-ai": "pydantic-ai-slim[mcp]==2.68.0",
}


@pytest.mark.clients
@pytest.mark.timeout(600)
@pytest.mark.parametrize("client", CLIENTS)
def test_another_client_gets_to_a_gguf_file_by_next_step_alone(bench: Bench, client: str) -> None:
    """Each speaks its own era of the protocol and makes its own of a reply; all must find the next step in it."""
    given = {
        "command": [sys.executable, "-P", "-m", "nanodistill_mcp", "serve"],
        "env": bench.env,
        "first": {
            "name": "tickets",
            "instruction": task.INSTRUCTION,
            "seed": task.seeds(),
            "teacher": "local",
            "student": str(student_path()),
            "augment_factor": 4,
            "options": SHORT,
        },
    }
    ended = subprocess.run(
        [_environment(client), str(Path(__file__).with_name("follow.py")), client],
        input=json.dumps(given),
        env={"PATH": bench.env["PATH"], "HOME": bench.env["HOME"]},
        cwd=bench.home,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    called = [line.split()[0] for line in ended.stdout.splitlines()]
    assert list(dict.fromkeys(tool for tool in called if tool != "get_status")) == ["create_run", *STAGES]
    assert (bench.run_folder("tickets") / "model.gguf").read_bytes()[:4] == b"GGUF"


def _environment(client: str) -> str:
    """The interpreter of an environment that holds the client and nothing of ours; made where it is missing."""
    folder = ENVIRONMENTS / client
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=120)
        subprocess.run([str(python), "-m", "pip", "install", "-q", CLIENTS[client]], check=True, timeout=400)
        (folder / "made").touch()
    return str(python)
