"""What holds of all commands alike."""

import subprocess
import sys
from pathlib import Path

from nanodistill_mcp.cli import COMMANDS, command_line, commands

SLOW = {"anyio", "jsonschema", "litellm", "mcp", "mlx", "numpy", "rich"}


def test_every_command_has_a_module_and_every_module_a_command() -> None:
    """A module that the list leaves out is dead, and nobody is told."""
    assert commands.__file__ is not None
    modules = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert modules == {name.replace("-", "_") + "_" * (name == "import") for name in COMMANDS}
    for name in COMMANDS:
        assert command_line([name]).format_help() == command_line().format_help()


def test_no_command_s_arguments_load_what_takes_time() -> None:
    """A shell asks for the completion at each start, and a client for the server: one line at a module's top would cost both."""
    code = f"""
import sys
from nanodistill_mcp.cli import command_line
command_line(["serve"])
print([name for name in sys.modules if name.startswith("nanodistill_mcp.cli.commands.")])
command_line()
print(sorted({SLOW} & sys.modules.keys()))"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert told.stdout.splitlines() == ["['nanodistill_mcp.cli.commands.serve']", "[]"]
