"""Writes the table of options in docs/options.md from the model that checks them: ``python docs/make_options.py``."""

from pathlib import Path
from typing import Any

from nanodistill_mcp.pipeline.recipe import PRESETS, preset_options
from nanodistill_mcp.runs.options import Options

PAGE = Path(__file__).with_name("options.md")

HEAD = """\
# Options

`create_run(options={...})` takes these by name, `train(options={...})` those of the student. An option left out is resolved from the
preset, the data and the machine; `train(dry_run=true)` shows every resolved value with its reason. Made by
`python docs/make_options.py`.

"""


def page() -> str:
    """The whole page."""
    names = ("recommended", "nanodistill")
    resolved = {name: preset_options(name, Options()).model_dump() for name in names}
    lines = ["| option | accepted | recommended | nanodistill | meaning |", "|---|---|---|---|---|"]
    for name, schema in Options.model_json_schema()["properties"].items():
        shown = [_value(resolved[preset][name]) for preset in names]
        lines.append(f"| `{name}` | {_accepted(schema)} | {shown[0]} | {shown[1]} | {schema['description']} |")
    presets = [f"| `{name}` | {_changes(values)} |" for name, values in PRESETS.items()]
    return "\n".join(
        [
            HEAD + "\n".join(lines),
            "",
            "## Presets",
            "",
            "| preset | differs from recommended in |",
            "|---|---|",
            *presets,
            "",
        ]
    )


def _accepted(schema: dict[str, Any]) -> str:
    kind = next(part for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = " ".join(f"{sign} {kind[key]:g}" for key, sign in bounds.items() if key in kind)
    return f"{kind['type']} {limits}".strip()


def _changes(values: dict[str, Any]) -> str:
    return ", ".join(f"`{name}` {_value(value)}" for name, value in values.items()) or "nothing: it is the default"


def _value(value: object) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
