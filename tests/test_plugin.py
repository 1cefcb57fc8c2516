"""The Claude Code plugin teaches tools that exist, and the real program accepts it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nanodistill_mcp.server.tools import all_tools

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "examples" / "claude-code-plugin"
SKILL = PLUGIN / "skills" / "distill" / "SKILL.md"
CLAUDE = os.environ.get("CLAUDE_CODE", "claude")


def test_the_skill_names_tools_and_arguments_that_exist() -> None:
    """A model that was taught a wrong argument asks again and again, and the user pays for it."""
    text = SKILL.read_text(encoding="utf-8")
    accepted = {tool.name: set(tool.parameters["properties"]) for tool in all_tools()}
    taught: set[str] = set()
    for name, arguments in re.findall(r"`(\w+)\(([^`]*)\)`", text):
        assert name in accepted, name
        given = set(re.findall(r"(\w+)=", arguments))
        assert given <= accepted[name], (name, given - accepted[name])
        taught.add(name)
    assert taught | {"create_run"} == accepted.keys()
    words = set(re.findall(r"`([a-z]+_[a-z_]+)`", text))
    assert words <= accepted.keys() | {"next_step", "seed_path"}


def test_the_skill_is_short_and_says_when_to_use_it() -> None:
    """It is read whole into the model's context each time."""
    head, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", SKILL.read_text(encoding="utf-8"), re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    assert fields["name"] == SKILL.parent.name
    assert "Use when" in fields["description"]
    assert len(fields["description"]) <= 1024
    assert len(body) < 6000


def test_the_plugin_starts_the_command_that_is_installed_and_has_its_version() -> None:
    """It is handed on as a folder, apart from the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plugin = json.loads((PLUGIN / ".claude-plugin" / "plugin.json").read_text(encoding="utf-8"))
    assert plugin["version"] == project["version"]
    server = json.loads((PLUGIN / ".mcp.json").read_text(encoding="utf-8"))["mcpServers"]["nanodistill"]
    variable, _, program = server["command"].strip("${}").partition(":-")
    assert program in project["scripts"]
    assert not variable.startswith("NANODISTILL_")  # the server refuses variables of its prefix that it does not know
    assert variable in (PLUGIN / "README.md").read_text(encoding="utf-8")


@pytest.mark.clients
def test_claude_code_accepts_the_plugin_and_connects_to_its_server(tmp_path: Path) -> None:
    """It needs that program: npm install @anthropic-ai/claude-code, or CLAUDE_CODE naming it. No key, no model."""
    program = shutil.which(CLAUDE)
    assert program, "install it, or say where it is with CLAUDE_CODE"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "NANODISTILL_HOME": str(tmp_path),
        "PATH_TO_NANODISTILL_MCP": str(Path(sys.executable).parent / "nanodistill-mcp"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    for words, expected in (
        (["plugin", "validate", str(PLUGIN)], "passed"),
        (["--plugin-dir", str(PLUGIN), "mcp", "list"], "Connected"),
    ):
        ended = subprocess.run(
            [program, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert expected in ended.stdout, ended.stdout
