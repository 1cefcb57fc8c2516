"""The run board: one page that shows a run while it is made, for clients that show MCP Apps and for ``show --web``.

The page itself is ``board.html``. It has no library and reaches no network: what it shows, it asks for with the tools an
agent has, and what it is told becomes text and never markup.
"""

import base64
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from mcp.server.extension import Extension

from nanodistill_mcp.pipeline.status import pipeline_status
from nanodistill_mcp.runs.files import json_bytes, read_object, tail_lines
from nanodistill_mcp.runs.records import State
from nanodistill_mcp.runs.store import Run

BOARD = "ui://nanodistill/run"
MIME = "text/html;profile=mcp-app"
META: dict[str, Any] = {"ui": {"csp": {"connectDomains": [], "resourceDomains": []}, "prefersBorder": True}}
SHOWN_BY: dict[str, Any] = {"ui": {"resourceUri": BOARD}}
"""What a tool says of itself whose answers this page shows. Clients that do not know it leave it alone."""

DATA = "board.json"
_POINTS = 300
_ARRIVED = 8
_CALLS_LOOKED_AT = 600
_CHARS = 600


class RunBoard(Extension):
    """Says that this server has a page to show."""

    identifier = "io.modelcontextprotocol/ui"


def page() -> str:
    """The page, with a policy that lets this very script and style run and nothing else."""
    text = Path(__file__).with_name("board.html").read_text(encoding="utf-8")
    return text.replace("{{policy}}", policy(text))


def policy(text: str) -> str:
    """The Content-Security-Policy of a page: its own script and style by their hashes, and questions to where it came from."""
    script, style = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {_hashes(script)}; style-src {_hashes(style)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashes(parts: list[str]) -> str:
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(p.encode()).digest()).decode()}'" for p in parts)


def board_data(run: Run) -> bytes:
    """What the page shows and no reply holds: the curve of the training, the scores, and what the teacher wrote last."""
    told = {"run_id": run.run_id, "instruction": _cut(run.manifest.spec.instruction), **_models(run)}
    return json_bytes({**told, "said": _said(run), "scores": _scores(run), **_curve(run), "arrived": _arrived(run)})


def _models(run: Run) -> dict[str, str]:
    spec = run.manifest.spec
    return {"teacher": _cut(run.manifest.teacher_model), "student": _cut(Path(spec.student).name or spec.student)}


def _said(run: Run) -> dict[str, str]:
    """What each finished stage found, in a sentence."""
    from nanodistill_mcp.server.app import message_of, result_of  # noqa: PLC0415 - it is made of what asks for this

    stages = pipeline_status(run)
    return {found.stage: message_of(found, result_of(run, found)) for found in stages if found.state is State.DONE}


def _scores(run: Run) -> list[dict[str, Any]]:
    evaluation: dict[str, Any] = read_object(run.paths.evaluation) or {}
    return [
        {"set": name, "model": model, **{key: score[key] for key in ("rows", "correct", "accuracy", "interval_95")}}
        for name in ("held_out", "synthetic")
        for model in ("base", "student", "teacher")
        if (score := evaluation.get(name, {}).get(model))
    ]


def _curve(run: Run) -> dict[str, Any]:
    from nanodistill_mcp.pipeline.report.pictured import losses_of  # noqa: PLC0415 - a client waits for the start

    lines, resumed = losses_of(run)

    def series(event: str, name: str) -> list[tuple[float, float]]:
        found = [(line["iteration"], line[name]) for line in lines if line["event"] == event]
        return _thinned([(x, y) for x, y in found if math.isfinite(y)])

    valid = series("valid", "valid_loss")
    best = (read_object(run.paths.training) or {}).get("best_iteration")
    if best is None and valid:
        best = min(valid, key=lambda point: point[1])[0]
    return {"train": series("step", "train_loss"), "valid": valid, "best": best, "resumed": resumed}


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """As many points as a screen shows: neighbours become their mean."""
    size = math.ceil(len(points) / _POINTS) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], float(f"{sum(y for _, y in part) / len(part):.4g}")) for part in parts]


def _arrived(run: Run) -> list[str]:
    """The newest inputs the teacher wrote, newest first. They are not checked yet, and have no id."""
    found: list[str] = []
    for record in reversed(tail_lines(run.paths.calls, _CALLS_LOOKED_AT)):
        found += _inputs(record.get("text")) if record.get("kind") == "answer" else []
        if len(found) >= _ARRIVED:
            break
    return found[:_ARRIVED]


def _inputs(text: Any) -> list[str]:
    try:
        answer = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return []
    match answer:
        case {"inputs": [*inputs]}:
            return [_cut(each) for each in reversed(inputs) if isinstance(each, str)]
        case _:
            return []


def _cut(text: str) -> str:
    return text if len(text) <= _CHARS else f"{text[:_CHARS]}…"
