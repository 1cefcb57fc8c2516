"""The whole path through the real Claude Code. It needs that program: npm install @anthropic-ai/claude-code."""

import os
import shutil
from pathlib import Path

import pytest

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
