"""Writes docs/tools.md from the tools an agent sees: ``python docs/make_tools.py``."""

from pathlib import Path
from typing import Any

from nanodistill_mcp.server.tools import all_tools

PAGE = Path(__file__).with_name("tools.md")

HEAD = """\
# Tools

What an agent sees of each tool, in the order it meets them. Every reply says what happened and names the next call with its arguments;
every refusal says what is accepted. Made by `python docs/make_tools.py`.

"""


def page() -> str:
    """The whole page."""
    parts: list[str] = []
    for tool in all_tools():
        hints = tool.annotations.model_dump(exclude_none=True) if tool.annotations else {}
        marks = [words for name, words in _HINTS.items() if hints.get(name)]
        parts += [f"## `{tool.name}`", "", tool.description.strip()]
        parts += ["", f"*{', '.join(marks).capitalize()}.*"] if marks else []
        required = tool.parameters.get("required", [])
        rows = [
            f"| `{name}` | {_accepted(schema)} | {_default(schema, required=name in required)} | {schema['description']} |"
            for name, schema in tool.parameters["properties"].items()
        ]
        parts += ["", "| argument | accepted | left out | meaning |", "|---|---|---|---|", *rows, ""]
    return HEAD + "\n".join(parts)


_HINTS = {
    "read_only_hint": "changes nothing",
    "destructive_hint": "takes something away",
    "open_world_hint": "may ask the teacher or the hub",
}


def _accepted(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_accepted(schema['items']) if schema.get('items') else 'anything'}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "maxLength": "at most", "maxItems": "at most"}
    limits = " ".join(f"{words} {schema[key]:g}" for key, words in bounds.items() if key in schema)
    return f"{schema.get('type', 'anything')} {limits}".strip()


def _default(schema: dict[str, Any], *, required: bool) -> str:
    if required:
        return "needed"
    value = schema.get("default")
    return "–" if value in ("", [], {}, None) else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
