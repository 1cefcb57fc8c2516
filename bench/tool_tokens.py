"""What the server costs every conversation: the tokens of its tools, prompts and instructions, as a client lists them.

    python bench/tool_tokens.py [--page docs/tokens.md]

A token is counted as four bytes of the JSON that a client hands to its model: name, description and input schema. What the
protocol carries besides, output schemas and annotations, is shown apart, because most clients keep it from the model. Exit code
1 when a tool or all together cost more than the bars.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a script, only this folder would be looked at

from mcp import Client

from nanodistill_mcp.server.build import INSTRUCTIONS, build_server
from nanodistill_mcp.settings import load_settings

BYTES_A_TOKEN = 4
MOST_A_TOOL = 1_000
MOST_IN_ALL = 7_000


@dataclass(frozen=True)
class Cost:
    """A tool's share, in tokens."""

    name: str
    description: int
    arguments: int
    besides: int

    @property
    def shown(self) -> int:
        """What a model reads of it."""
        return tokens(self.name) + self.description + self.arguments


def tokens(value: Any) -> int:
    """Four bytes each, of the text or of compact JSON."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return -(-len(text.encode()) // BYTES_A_TOKEN)


async def measure() -> tuple[list[Cost], int]:
    """Every tool, and the prompts together."""
    with tempfile.TemporaryDirectory() as folder:
        async with Client(build_server(load_settings(Path(folder), env={}))) as client:
            tools = (await client.list_tools()).tools
            prompts = (await client.list_prompts()).prompts
    costs: list[Cost] = []
    for tool in tools:
        wire = tool.model_dump(by_alias=True, mode="json", exclude_none=True)
        besides = {key: value for key, value in wire.items() if key not in ("name", "description", "inputSchema")}
        costs.append(Cost(tool.name, tokens(wire["description"]), tokens(wire["inputSchema"]), tokens(besides)))
    listed = [prompt.model_dump(by_alias=True, mode="json", exclude_none=True) for prompt in prompts]
    return costs, tokens(listed)


def page(costs: list[Cost], prompts: int) -> str:
    """The numbers as a page."""
    rows = [
        f"| `{cost.name}` | {cost.description} | {cost.arguments} | **{cost.shown}** | {cost.besides} |"
        for cost in costs
    ]
    total = [sum(getattr(cost, name) for cost in costs) for name in ("description", "arguments", "shown", "besides")]
    return "\n".join(
        [
            "# What the server costs a conversation",
            "",
            "Tokens, four bytes each, made by `python bench/tool_tokens.py --page docs/tokens.md`. A client that shows its model all tools at",
            "once spends the column *shown* in each conversation; Claude Code shows only names until a tool is looked for. Output schemas",
            "and annotations go over the wire, and most clients keep them from the model.",
            "",
            "| tool | description | arguments | shown | besides |",
            "|---|---|---|---|---|",
            *rows,
            f"| all {len(costs)} | {total[0]} | {total[1]} | **{total[2]}** | {total[3]} |",
            "",
            f"The server's instructions: {tokens(INSTRUCTIONS)}. The menu of prompts, for the user: {prompts}.",
            "",
        ]
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", default="", help="write the table to this file")
    arguments = parser.parse_args()
    costs, prompts = asyncio.run(measure())
    found = page(costs, prompts)
    if arguments.page:
        Path(arguments.page).write_text(found, encoding="utf-8")
    print(found)
    return int(max(cost.shown for cost in costs) > MOST_A_TOOL or sum(cost.shown for cost in costs) > MOST_IN_ALL)


if __name__ == "__main__":
    sys.exit(main())
