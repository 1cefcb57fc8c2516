"""Packs the server as an MCP bundle, which Claude Desktop installs with a double click and keeps the keys of.

    python examples/mcpb/build.py

The bundle holds this package's source and no library: uv, which the client brings along, installs those on the user's
machine. The same source makes the same bytes.
"""

import json
import re
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from nanodistill_mcp.server.tools import all_tools  # noqa: E402 - started as a script, only this folder is looked at

KEYS = {
    "ANTHROPIC_API_KEY": "Anthropic API key",
    "OPENAI_API_KEY": "OpenAI API key",
    "GEMINI_API_KEY": "Gemini API key",
}
"""The keys a user is asked for. Others go into the variable that config.yaml names."""

_MADE_AT = (2026, 1, 1, 0, 0, 0)


def manifest() -> dict[str, Any]:
    """The bundle's manifest, from pyproject.toml and the tools there are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    registry = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
    asked: dict[str, Any] = {
        variable.lower(): {
            "type": "string",
            "title": title,
            "description": f"For a teacher of this provider. Leave it empty with another teacher, or with none. ({variable})",
            "sensitive": True,
            "required": False,
            "default": "",
        }
        for variable, title in KEYS.items()
    }
    asked["examples_directory"] = {
        "type": "directory",
        "title": "Folder of examples",
        "description": "Where files of examples may be read from.",
        "required": False,
        "default": "${HOME}/Documents",
    }
    return {
        "manifest_version": "0.4",
        "name": project["name"],
        "display_name": registry["title"],
        "version": project["version"],
        "description": registry["description"],
        "long_description": project["description"],
        "author": {"name": "The nanodistill-mcp authors"},
        "license": project["license"],
        "keywords": project["keywords"],
        "server": {
            "type": "uv",
            "entry_point": "nanodistill_mcp/__main__.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", "nanodistill-mcp", "serve"],
                "env": {
                    **{variable: f"${{user_config.{variable.lower()}}}" for variable in KEYS},
                    "NANODISTILL_ALLOWED_PATHS": "${user_config.examples_directory}",
                },
            },
        },
        "tools": [{"name": tool.name, "description": _first_sentence(tool.description)} for tool in all_tools()],
        "prompts_generated": True,
        "compatibility": {"platforms": ["darwin", "linux"], "runtimes": {"python": project["requires-python"]}},
        "user_config": asked,
    }


def build(path: Path) -> None:
    """Write the bundle."""
    names = ["pyproject.toml", "README.md", "LICENSE"]
    package = ROOT / "nanodistill_mcp"
    names += [str(file.relative_to(ROOT)) for file in package.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "manifest.json", (json.dumps(manifest(), indent=2, ensure_ascii=False) + "\n").encode())
        for name in sorted(names):
            _add(archive, name, (ROOT / name).read_bytes())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _MADE_AT)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _first_sentence(description: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(description.split()), maxsplit=1)[0]


if __name__ == "__main__":
    bundle = Path(sys.argv[1] if len(sys.argv) > 1 else f"nanodistill-mcp-{manifest()['version']}.mcpb")
    build(bundle)
    print(f"{bundle}: {bundle.stat().st_size / 1e6:.1f} MB")
