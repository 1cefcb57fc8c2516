"""Run folders of every released schema: read as they were written, and one of a newer schema is read and never changed."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import PIPELINE, SCHEMA_VERSION
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.server.app import App, stage_reply, status_reply
from nanodistill_mcp.server.artifacts import FILES, read_page
from nanodistill_mcp.server.listing import runs_reply
from nanodistill_mcp.settings import load_settings
from tests.conftest import Bench

GOLDEN = sorted((Path(__file__).parents[1] / "data" / "runs").iterdir())
"""A run folder a schema, without the files of its model: copied from a finished run of the version that wrote it."""


def _adopted(home: Path, golden: Path) -> tuple[App, Run]:
    folder = home / "runs" / "golden"
    shutil.copytree(golden, folder)
    manifest: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    write_json(folder / "run.json", {**manifest, "run_id": "golden"})
    return App(load_settings(home, env={}), RunStore(home)), Run(RunPaths(folder))


def _content(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_there_is_a_golden_run_of_each_schema() -> None:
    """Whoever raises the schema adds the folder that the last release of the old one wrote, and keeps the older ones."""
    assert [golden.name for golden in GOLDEN] == [f"schema-{number}" for number in range(1, SCHEMA_VERSION + 1)]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_a_run_of_a_released_schema_is_read_as_it_was_written(home: Path, golden: Path) -> None:
    """Every stage done, its numbers, its spend, each artifact; and looking changes no byte."""
    app, run = _adopted(home, golden)
    before = _content(run.paths.root)
    [line] = runs_reply(app).runs
    evaluation: dict[str, Any] = json.loads((golden / "evaluation.json").read_bytes())
    assert (line.damaged, line.rows) == ("", evaluation["held_out"]["student"]["rows"])
    assert line.accuracy["student"] == evaluation["held_out"]["student"]["accuracy"]
    status = status_reply(run, detail=True)
    assert [stage.state for stage in status.stages] == ["done"] * len(PIPELINE)
    assert status.spend is not None
    assert (status.spend.calls, status.spend.in_doubt_calls) == (16, 0)
    for stage in PIPELINE:
        assert stage_reply(run, stage).state == "done"
    listed = [artifact.name for artifact in status.artifacts]
    assert set(listed) >= {name for name in FILES if (golden / name).exists()}
    for name in listed:
        assert read_page(run, name, 0, 0).total >= 0
    assert _content(run.paths.root) == before


@pytest.mark.parametrize("golden", GOLDEN[-1:], ids=lambda golden: golden.name)
async def test_a_run_of_a_newer_schema_is_read_and_never_changed(bench: Bench, golden: Path) -> None:
    """Somebody went back to an older version: it shows what it understands, and leaves the rest as it is."""
    _, run = _adopted(bench.home, golden)
    manifest: dict[str, Any] = json.loads(run.paths.manifest.read_bytes())
    newer = {**manifest, "schema_version": SCHEMA_VERSION + 1, "a_field_of_tomorrow": {"a": 1}}
    write_json(run.paths.manifest, newer)
    before = _content(run.paths.root)
    rows = bench.home.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps({"input": f"Where is it, {n}?", "output": "delivery"}) + "\n" for n in range(4)))
    async with bench.connect() as agent:
        status = await agent.call("get_status", run_id="golden", detail=True)
        assert [line["state"] for line in status["stages"]] == ["done"] * len(PIPELINE)
        page = await agent.call("read_artifact", run_id="golden", artifact="run.json")
        assert "a_field_of_tomorrow" in page["text"]
        changes: list[tuple[str, dict[str, Any]]] = [
            *((stage, {"restart": True}) for stage in PIPELINE),
            ("amplify", {"budget_usd": 9}),
            ("extract_policy", {"policy": {"difficulty_level": "hard"}}),
            ("evaluate", {"test_path": str(rows)}),
            ("compare_models", {"prompts": ["Where is it?"]}),
            ("revise_examples", {"drop": ["g0000-0"]}),
            ("control_job", {"action": "tag", "tags": ["new"]}),
        ]
        for tool, arguments in changes:
            told = await agent.refused(tool, run_id="golden", **arguments)
            assert "was made by a newer version" in told, (tool, arguments, told)
            assert "Update nanodistill-mcp" in told
    assert _content(run.paths.root) == before
