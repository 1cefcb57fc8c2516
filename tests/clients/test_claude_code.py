"""The whole path through the real Claude Code. It needs that program: npm install @anthropic-ai/claude-code."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.person import types
from tests.clients.claude_code import check, drive, transcript

CLAUDE = os.environ.get("CLAUDE_CODE", "claude")
"""Claude Code's program, by name or path."""


@pytest.mark.clients
@pytest.mark.timeout(600)
def test_claude_code_gets_from_ten_examples_to_a_gguf_file_by_next_step_alone(tmp_path: Path) -> None:
    """Whatever Claude Code makes of our replies before its model sees them, the next call is still in there."""
    found = shutil.which(CLAUDE)
    assert found, "install it, or say where it is with CLAUDE_CODE"
    turns, run_folder = drive(Path(found).absolute(), tmp_path)
    check(turns, run_folder)
    assert "-> export_gguf(" in transcript(turns)


@pytest.mark.clients
@pytest.mark.timeout(600)
def test_in_a_terminal_claude_code_keeps_long_stages_as_tasks_and_wakes_the_model_with_their_results(
    tmp_path: Path,
) -> None:
    """A person goes on talking meanwhile; the model asks for no status, and still has the next step."""
    found = shutil.which(CLAUDE)
    assert found, "install it, or say where it is with CLAUDE_CODE"
    turns, run_folder = drive(Path(found).absolute(), tmp_path, interactive=True)
    check(turns, run_folder)
    assert "train" in [turn.tool for turn in turns if turn.in_background]
    assert "get_status" not in [turn.tool for turn in turns]


@pytest.mark.clients
def test_claude_code_connects_to_what_install_put_in_and_not_after_undo(tmp_path: Path) -> None:
    """Its own command adds the server; what it wrote into its file meanwhile stays."""
    found = shutil.which(CLAUDE)
    assert found, "install it, or say where it is with CLAUDE_CODE"
    path = {"PATH": f"{Path(found).absolute().parent}:{os.environ['PATH']}"}
    (tmp_path / ".claude.json").write_text('{"mcpServers": {"other": {"command": "false"}}}', encoding="utf-8")
    shown = types(tmp_path, "install", "--client", "claude-code", "--dry-run", env=path)
    assert "claude mcp add nanodistill --scope user" in shown.stdout
    told = types(tmp_path, "install", "--client", "claude-code", env=path)
    assert told.returncode == 0, told.stderr
    assert "Connected" in _listed(found, tmp_path)["nanodistill"]
    assert types(tmp_path, "install", "--client", "claude-code", "--undo", env=path).returncode == 0
    assert list(_listed(found, tmp_path)) == ["other"]
    assert list(json.loads((tmp_path / ".claude.json").read_text("utf-8"))["mcpServers"]) == ["other"]


def _listed(claude: str, home: Path) -> dict[str, str]:
    """What Claude Code says of each of its servers."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    ended = subprocess.run(
        [claude, "mcp", "list"], env=environment, cwd=home, capture_output=True, text=True, timeout=120, check=True
    )
    return {line.split(":")[0]: line for line in ended.stdout.splitlines() if ": " in line}
