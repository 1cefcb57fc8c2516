"""The bundle for Claude Desktop is accepted, whole, and asks for keys in the way that keeps them secret."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from nanodistill_mcp.server.tools import all_tools

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "tests" / "data" / "mcpb" / "manifest.schema.json"
MCPB = os.environ.get("MCPB", "mcpb")
"""The maker's own program, by name or path: npm install @anthropic-ai/mcpb."""


@pytest.fixture(scope="module")
def maker() -> Any:
    """The program that builds the bundle."""
    spec = importlib.util.spec_from_file_location("mcpb_build", ROOT / "examples" / "mcpb" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bundles_manifest_keeps_its_schema(maker: Any) -> None:
    """A client that refuses a manifest says little about why."""
    manifest = maker.manifest()
    jsonschema.validate(manifest, json.loads(SCHEMA.read_text(encoding="utf-8")))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (manifest["name"], manifest["version"]) == (project["name"], project["version"])
    assert [tool["name"] for tool in manifest["tools"]] == [tool.name for tool in all_tools()]
    assert manifest["server"]["mcp_config"]["args"][-2] in project["scripts"]


def test_every_key_is_asked_for_as_a_secret_and_reaches_the_server_as_its_variable(maker: Any) -> None:
    """A plain text lies readable in the client's settings; one that is never handed on was asked for in vain."""
    manifest = maker.manifest()
    handed = manifest["server"]["mcp_config"]["env"]
    asked = manifest["user_config"]
    assert sorted(handed.values()) == sorted(f"${{user_config.{name}}}" for name in asked)
    keys = [name for name in handed if name.endswith("_KEY")]
    assert keys
    assert all(asked[name.lower()]["sensitive"] for name in keys)
    assert not any(option["required"] for option in asked.values())  # teacher="host" needs none


def test_the_bundle_holds_what_its_build_needs_and_is_the_same_every_time(maker: Any, tmp_path: Path) -> None:
    """A missing template shows only on the user's machine; a second checksum for the same source is trusted by nobody."""
    first, second = tmp_path / "first.mcpb", tmp_path / "second.mcpb"
    maker.build(first)
    maker.build(second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        packed = set(archive.namelist())
        manifest = json.loads(archive.read("manifest.json"))
        archive.extractall(tmp_path / "unpacked")
    package = [path for path in (ROOT / "nanodistill_mcp").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert packed == {
        *(str(path.relative_to(ROOT)) for path in package),
        *("manifest.json", "pyproject.toml", "README.md", "LICENSE"),
    }
    assert manifest["server"]["entry_point"] in packed
    assert not any(name.endswith((".jsonl.tmp", ".env")) for name in packed)


@pytest.mark.clients
def test_the_makers_own_validator_accepts_the_bundle(tmp_path: Path) -> None:
    """It checks more than its schema, and packs as Claude Desktop unpacks. It needs: npm install @anthropic-ai/mcpb."""
    program = shutil.which(MCPB)
    assert program, "install it, or say where it is with MCPB"
    bundle = tmp_path / "nanodistill.mcpb"
    made = [sys.executable, str(ROOT / "examples" / "mcpb" / "build.py"), str(bundle)]
    subprocess.run(made, check=True, timeout=60)
    for command in (
        ["unpack", str(bundle), str(tmp_path / "out")],
        ["validate", str(tmp_path / "out")],
        ["info", str(bundle)],
    ):
        ended = subprocess.run([program, *command], capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
