"""The hash of every word an agent's model is given before it asked anything: ``python tests/threats/surface.py`` writes them anew.

A change of one shows in a review as a change of this list, whatever else the change was about.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
from mcp import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a script, only this folder would be looked at

from nanodistill_mcp.server.build import build_server
from nanodistill_mcp.settings import load_settings

HASHES = Path(__file__).with_name("surface.json")


async def words_of(home: Path) -> dict[str, Any]:
    """Everything a client is told by a server over this data directory, by what it is about."""
    async with Client(build_server(load_settings(home, env={}))) as client:
        tools = (await client.list_tools()).tools
        prompts = (await client.list_prompts()).prompts
        templates = (await client.list_resource_templates()).resource_templates
        told: dict[str, Any] = {f"tool {tool.name}": tool.model_dump(mode="json", by_alias=True) for tool in tools}
        told |= {f"prompt {prompt.name}": prompt.model_dump(mode="json", by_alias=True) for prompt in prompts}
        told |= {f"template {each.name}": each.model_dump(mode="json", by_alias=True) for each in templates}
        return {"instructions": client.instructions, **told}


def hashes_of(words: dict[str, Any]) -> dict[str, str]:
    """Their hashes."""
    return {
        name: hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16] for name, told in words.items()
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = hashes_of(anyio.run(words_of, Path(folder)))
    HASHES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
