"""Completion knows the commands there are, and the runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.person import types
from tests.runs.made import make_run

ASKS = """
{script}
COMP_WORDS=({words}) COMP_CWORD={position}
_nanodistill_mcp
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["nanodistill-mcp", "sh"], "show"),
        (["nanodistill-mcp", "show", "tick"], "tickets"),
        (["nanodistill-mcp", "logs", "--f"], "--follow"),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_offers_commands_flags_and_run_ids(home: Path, tmp_path: Path, words: list[str], offered: str) -> None:
    """A run's id is the longest thing anyone has to type here."""
    make_run(home, "tickets")
    program = tmp_path / "bin" / "nanodistill-mcp"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nanodistill_mcp "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    script = types(home, "completion", "bash").stdout
    asked = ASKS.format(script=script, words=" ".join(words), position=len(words) - 1)
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "NANODISTILL_HOME": str(home), "HOME": str(home)}
    told = subprocess.run(
        ["bash", "-c", asked], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.split() == [offered]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_file_s_name_is_never_carried_out(home: Path, tmp_path: Path) -> None:
    """Completing in a folder that somebody else filled must not run what a name there says."""
    (tmp_path / "$(touch carried-out).yaml").write_text("", encoding="utf-8")
    script = types(home, "completion", "bash").stdout
    asked = ASKS.format(script=script, words="nanodistill-mcp run ''", position=2)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    subprocess.run(["bash", "-c", asked], cwd=tmp_path, env=environment, timeout=60, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir() if path != home] == ["$(touch carried-out).yaml"]
    assert "complete -o default" in script  # the shell's own way with files


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_told_every_command(home: Path, shell: str) -> None:
    """And read without an error, where the shell is installed."""
    script = types(home, "completion", shell).stdout
    for command in ("serve", "run", "show", "logs", "clean", "doctor"):
        assert command in script
    assert "nanodistill-mcp runs --names" in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n", "-c", script], timeout=60, check=True)
