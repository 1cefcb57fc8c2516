"""Every run with what matters of it: a page at a time, found by its tags, and none of them spoils the list."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.journal import Journal, paid_by_now
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Exit
from nanodistill_mcp.runs.store import Run, RunStore, now
from nanodistill_mcp.runs.tags import MOST_TAGS, check_tags, write_tags
from nanodistill_mcp.server.app import App
from nanodistill_mcp.server.listing import runs_in_text, runs_reply
from nanodistill_mcp.settings import load_settings
from tests.conftest import Bench, said
from tests.runs.made import SEEDS, make_run, manifest

SCORE = {"rows": 60, "correct": 58, "accuracy": 0.9667, "interval_95": [0.8864, 0.9908]}


def _app(home: Path) -> App:
    return App(load_settings(home, env={}), RunStore(home))


def _journal(run: Run, calls: int) -> None:
    with Journal.open(run.paths.calls) as journal:
        for number in range(calls):
            key: dict[str, Any] = {"call_id": f"c{number}", "attempt": 1, "at": now()}
            journal.note({"kind": "intent", **key, "stage": "amplify", "max_usd": 1.0})
            said_: dict[str, Any] = {"text": "{}", "input_tokens": 100, "output_tokens": 20, "cost_usd": 0.01}
            journal.note({"kind": "answer", **key, **said_})


def _end(run: Run, name: str, elapsed_s: float) -> None:
    job = JobPaths(run.paths.jobs / name)
    job.root.mkdir(mode=0o700)
    ended = Exit(outcome="done", ended_at=now(), elapsed_s=elapsed_s, paid=paid_by_now(run.paths.calls))
    write_json(job.exit, ended.model_dump())


def _finished(run: Run) -> None:
    """Put into a run what its stages leave."""
    _journal(run, 3)
    for path in (run.paths.traces_cot, run.paths.traces_amplified):
        path.write_bytes(b"")
    for path in (run.paths.policy, run.paths.training):
        write_json(path, {})
    base = {**SCORE, "accuracy": 0.1, "interval_95": [0.05, 0.2]}
    part = {"base": base, "student": SCORE, "teacher": {**SCORE, "accuracy": 1.0}}
    write_json(run.paths.evaluation, {"held_out": part, "decision": "ship", "verdict": "Good."})
    write_json(run.paths.export, {"accuracy": {"set": "held_out", **SCORE, "accuracy": 0.95}})
    run.paths.gguf.write_bytes(b"g" * 1500)
    _end(run, "001-amplify", 40.0)
    _end(run, "002-train", 2.5)


def test_a_line_holds_what_the_choice_between_runs_hangs_on(tmp_path: Path) -> None:
    """Scores with their interval and how many rows stand behind them, the price, where it comes from and what it made."""
    made = manifest("better", student="/models/qwen/").model_copy(update={"cloned_from": "tickets"})
    run, _ = RunStore(tmp_path).create(made, SEEDS)
    _finished(run)
    write_tags(run.paths, ["baseline", "v2"])
    (line,) = runs_reply(_app(tmp_path)).runs
    assert line.model_dump(exclude={"created_at"}) == {
        "run_id": "better", "stage": "export_gguf", "state": "done",
        "accuracy": {"base": 0.1, "student": 0.9667, "teacher": 1.0, "gguf": 0.95},
        "interval_95": [0.8864, 0.9908], "rows": 60, "asked": "held_out", "decision": "ship",
        "cost_usd": 0.03, "tokens": 360, "elapsed_s": 42.5, "parent": "tickets", "tags": ["baseline", "v2"],
        "student": "qwen", "teacher": "local", "gguf_bytes": 1500, "damaged": "",
    }  # fmt: skip
    assert line.created_at == made.created_at


def test_the_text_of_the_list_is_a_table_that_says_what_the_data_says(tmp_path: Path) -> None:
    """Some clients show an agent only the text, and a table of twenty runs is read at a glance."""
    _finished(make_run(tmp_path, "done"))
    other = make_run(tmp_path, "other")
    other.paths.manifest.write_text("{", encoding="utf-8")
    reply = runs_reply(_app(tmp_path))
    header, _, first, second = (line for line in runs_in_text(reply).splitlines() if line.startswith("|"))
    names = [cell.strip() for cell in header.strip("|").split("|")]
    told = {cells[0].strip(): cells for cells in (line.strip("|").split("|") for line in (first, second))}
    assert [cell.strip() for cell in told["other"]][:2] == [
        "other",
        "damaged: run.json of this run is not readable JSON.",
    ]
    done = dict(zip(names, (cell.strip() for cell in told["done"]), strict=True))
    assert done["student 95%"] == "96.7% (88.6%-99.1%, 60 held_out)"
    assert (done["base"], done["teacher"], done["gguf"], done["decision"]) == ("10.0%", "100.0%", "95.0%", "ship")
    assert (done["stage"], done["cost"], done["tokens"], done["took"]) == ("export_gguf done", "$0.03", "360", "42 s")
    assert runs_in_text(reply).endswith("See this run in full.")


def test_a_text_from_a_file_cannot_break_the_table(tmp_path: Path) -> None:
    """A run.json that somebody wrote by hand may hold a line break, a bar or a control character."""
    run, _ = RunStore(tmp_path).create(manifest("odd", teacher="a|b\n| forged | row |\x1b[2J"), SEEDS)
    rows = [line for line in runs_in_text(runs_reply(_app(tmp_path))).splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert rows[2].count("|") == rows[0].count("|")
    assert "\x1b" not in rows[2]
    assert run.run_id in rows[2]


def test_a_thousand_runs_are_listed_by_pages_without_reading_their_journals(tmp_path: Path) -> None:
    """An agent that asks what there is waits for the answer; what was paid is in the last job's exit record."""
    store = RunStore(tmp_path)
    first = make_run(tmp_path, "r0000")
    _finished(first)
    first.paths.calls.chmod(0o000)  # root reads it all the same: the length is what is looked at
    for number in range(1, 1000):
        folder = store.runs_dir / f"r{number:04d}"
        folder.mkdir()
        for name in ("run.json", "evaluation.json"):
            (folder / name).hardlink_to(first.paths.root / name)
    began = time.perf_counter()
    page = runs_reply(_app(tmp_path))
    elapsed_s = time.perf_counter() - began
    assert (len(page.runs), page.runs_in_all, page.next_offset) == (20, 1000, 20)
    assert page.next_step.arguments == {"offset": 20}
    assert elapsed_s < 2.5, "on a loaded machine; 0.04 s on a quiet one"
    seen = {
        line.run_id
        for start in range(0, 1000, 500)
        for line in runs_reply(_app(tmp_path), offset=start, limit=500).runs
    }
    assert len(seen) == 1000
    last = runs_reply(_app(tmp_path), offset=980)
    assert (len(last.runs), last.next_offset) == (20, -1)


def test_what_was_paid_is_read_from_the_journal_once_it_has_grown(tmp_path: Path) -> None:
    """A worker that was killed wrote no exit record; what it paid must not be missing from the list."""
    run = make_run(tmp_path)
    _journal(run, 2)
    _end(run, "001-amplify", 1.0)
    recorded = Exit.model_validate_json((run.paths.jobs / "001-amplify" / "exit.json").read_text("utf-8"))
    assert recorded.paid is not None
    assert states.spend(run) == recorded.paid.spend
    _journal(run, 5)
    assert states.spend(run).calls == 7


def test_tags_are_checked_and_kept_once_in_the_order_given() -> None:
    """They stand in a table and in a filter: no spaces, bars or control characters."""
    assert check_tags([" baseline ", "Verträge", "BASELINE", "v2.1:rc-1"]) == ["baseline", "Verträge", "v2.1:rc-1"]
    for wrong in (["two words"], [""], ["a|b"], ["x" * 33], ["-dash"], ["a\n"[:1] + "\u202e"], ["t"] * (MOST_TAGS + 1)):
        with pytest.raises(UserInputError, match="tags are not accepted"):
            check_tags(wrong)


async def test_a_tag_is_given_at_creation_changed_later_and_is_no_part_of_what_the_run_is(bench: Bench) -> None:
    """A call that is repeated with other tags is still the same run, and must not undo what the user changed since."""
    async with bench.connect() as agent:
        assert (await agent.create(options={"tags": ["first"], "seed": 1}))["created"]
        assert not (await agent.create(options={"tags": ["other"], "seed": 1}))["created"]
        assert (await agent.call("get_status", tag="FIRST"))["runs"][0]["tags"] == ["first"]
        told = await agent.call("control_job", run_id="tickets", action="tag", tags=["prod", "v2"])
        assert told["message"] == "The run's tags are prod, v2."
        assert told["next_step"]["tool"] == "synthesize_cot"
        assert not (await agent.create(options={"seed": 1}))["created"]
        result = await agent.client.call_tool("get_status", {"tag": "prod"})
        assert "| prod v2 |" in said(result)
        assert (await agent.call("get_status", tag="first"))["runs"] == []
        await agent.call("clone_run", run_id="tickets", name="b", changes={"options": {"tags": ["clone"]}})
        lines = (await agent.call("get_status"))["runs"]
        assert [(line["run_id"], line["parent"], line["tags"]) for line in lines] == [
            ("b", "tickets", ["clone"]),
            ("tickets", "", ["prod", "v2"]),
        ]
        assert "tags are not accepted" in await agent.refused(
            "control_job", run_id="b", action="tag", tags=["two words"]
        )
        assert "tags go with action='tag'" in await agent.refused(
            "control_job", run_id="b", action="cancel", tags=["x"]
        )
        await agent.call("control_job", run_id="b", action="tag")
        assert (await agent.call("get_status", tag="clone"))["runs"] == []
    spec = json.loads((bench.run_folder("b") / "run.json").read_text(encoding="utf-8"))["spec"]
    assert spec["options"] == {"seed": 1}
