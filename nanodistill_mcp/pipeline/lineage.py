"""Where a row comes from: the prompts, the policy, the paid calls, what it passed, what stands beside it, who changed it."""

import re
from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.checking import checking_of
from nanodistill_mcp.pipeline.policy_versions import read_version, versions_of
from nanodistill_mcp.pipeline.quality import NearDuplicates
from nanodistill_mcp.pipeline.revisions import Revisions, key_of, revisions_of
from nanodistill_mcp.runs.journal import Record, read_journal
from nanodistill_mcp.runs.records import Example, Rejected, Trace
from nanodistill_mcp.runs.store import Run, read_records

NEIGHBOURS = 5
_CHARS_SHOWN = 200
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")

Row = dict[str, Any]


def lineage(run: Run, row_id: str) -> dict[str, Any]:
    """Everything the run's files say of one row: a seed, an accepted example, a dropped or a rejected one.

    Raises:
        UserInputError: There is no row of that id; says where rows are listed.
    """
    files = _Files(run)
    state, key, row = files.find(row_id)
    trace = files.traces.get(row_id)
    call_ids: list[str] = list(dict.fromkeys(row.get("call_ids") or (trace.call_ids if trace else [])))
    calls = files.calls_of(call_ids)
    found: dict[str, Any] = {"run_id": run.run_id, "id": row_id, "state": state, "row": row}
    if (written := files.written.get(key)) and _texts(written) != _texts(row):
        found["as_written"] = written
    if trace:
        found["solved"] = trace.model_dump(exclude={"id", "input", "output", "split", "call_ids"})
    parents: list[str] = row.get("parents") or []
    return {
        **found,
        "parents": [files.seed(parent) for parent in parents if parent != row_id],
        "policy": files.policy_of(row, calls),
        "prompts": _prompts(calls),
        "calls": calls,
        "cost_usd": round(sum(call["share_usd"] for call in calls), 6),
        "checks": _checks(files, state, row),
        "nearest": files.nearest(row_id, row["input"]),
        "revisions": [
            {"number": revision.number, "at": revision.at, "action": change.action, "fields": change.fields}
            for revision in files.revisions.all
            for change in revision.changes
            if change.key == key
        ],
    }


class _Files:
    """A run's rows and calls, read once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.seeds = {seed.id: seed for seed in run.seeds()}
        self.traces = {trace.id: trace for trace in read_records(run.paths.traces_cot, Trace)}
        self.revisions: Revisions = revisions_of(run)
        examples = list(read_records(run.paths.traces_amplified, Example))
        self.written = {key_of(example.input): example.model_dump() for example in examples}
        self.effective = self.revisions.keyed(examples)
        self.checker = checking_of(run).checker
        self.rejected = {row.id: row.model_dump() for row in read_records(run.paths.rejected, Rejected)}

    def find(self, row_id: str) -> tuple[str, str, Row]:
        """A row's state, key and fields."""
        for key, example in self.effective:
            if example.id == row_id:
                return "accepted", key, example.model_dump()
        for key, state in self.revisions.states.items():
            if state.dropped and state.row.id == row_id:
                return "dropped", key, state.row.model_dump()
        if row := self.rejected.get(row_id):
            return "rejected", key_of(row["input"]), row
        if seed := self.seeds.get(row_id):
            state = "held_out" if seed.split == "held_out" else "seed"
            return state, key_of(seed.input), seed.model_dump()
        named = f"'{row_id}'" if _ID.match(row_id) else "of that id"
        raise UserInputError(
            f"There is no row {named} in this run.",
            next_step=f"Rows are listed by read_artifact(run_id={self._run.run_id!r}, artifact='examples.jsonl'), "
            "rejected ones by artifact='rejected.jsonl', seeds by artifact='seeds.jsonl'.",
        )

    def seed(self, seed_id: str) -> Row:
        """A seed in short."""
        seed = self.seeds.get(seed_id)
        return {"id": seed_id, "input": _short(seed.input), "output": _short(seed.output)} if seed else {"id": seed_id}

    def calls_of(self, wanted: list[str]) -> list[Row]:
        """The paid calls behind a row. A call that several rows came of counts a share for each."""
        rows_of: Counter[str] = Counter()
        ids = [row["call_ids"] for row in (*self.written.values(), *self.rejected.values())]
        for call_ids in ids or [trace.call_ids for trace in self.traces.values()]:
            rows_of.update(set(call_ids))
        records: dict[str, list[Record]] = defaultdict(list)
        for record in read_journal(self._run.paths.calls).records:
            if record.get("call_id") in wanted:
                records[record["call_id"]].append(record)
        return [_call(call_id, records[call_id], max(1, rows_of[call_id])) for call_id in wanted]

    def policy_of(self, row: Row, calls: list[Row]) -> Row | None:
        """The version of the policy a synthetic row was made under: as it was recorded, else the newest of that time."""
        if row.get("origin") == "seed" or row["id"] in self.seeds:
            return None
        there_are = versions_of(self._run)
        version = row.get("policy_version") or 0
        if not version:
            asked = min((call["asked_at"] for call in calls if call["asked_at"]), default="")
            moment = datetime.fromisoformat(asked).timestamp() if asked else 0.0
            paths = {number: self._run.paths.policies / f"policy.v{number}.json" for number in there_are}
            version = max((number for number, path in paths.items() if path.stat().st_mtime <= moment), default=0)
        if version not in there_are:
            return {"version": version} if version else None
        return {"version": version, "source": read_version(self._run, version).source}

    def nearest(self, row_id: str, text: str) -> list[Row]:
        """The most similar accepted examples and seeds."""
        others: dict[str, Row] = {}
        for seed in self.seeds.values():
            others[seed.id] = {"id": seed.id, "of": f"seed ({seed.split})", "input": seed.input, "output": seed.output}
        for _, example in self.effective:
            others[example.id] = {"id": example.id, "of": "example", "input": example.input, "output": example.output}
        others.pop(row_id, None)
        rows, index = list(others.values()), NearDuplicates()
        for row in rows:
            index.add(row["input"], row["output"])
        near = set(index.near(text))
        return [
            {
                **rows[place],
                "input": _short(rows[place]["input"]),
                "output": _short(rows[place]["output"]),
                "similarity": similarity,
                "near_copy": place in near,
            }
            for place, similarity in index.nearest(text, NEIGHBOURS)
        ]


def _call(call_id: str, records: list[Record], rows: int) -> Row:
    """One call, with all its attempts."""
    intents = [record for record in records if record["kind"] == "intent"]
    answers = [record for record in records if record["kind"] == "answer"]
    verdicts = [record["verdict"] for record in records if record["kind"] == "verdict"]
    errors = [record["error"] for record in records if record["kind"] == "error"]
    asked: Record = intents[-1] if intents else {}
    cost = sum(record.get("cost_usd", 0.0) for record in records)
    found: Row = {
        "call_id": call_id,
        "stage": asked.get("stage", ""),
        "template": asked.get("template", ""),
        "prompt_sha": asked.get("prompt_sha", ""),
        "model": asked.get("model", ""),
        "asked_at": intents[0]["at"] if intents else "",
        "attempts": max(len(intents), len(answers)),
        "input_tokens": sum(record["input_tokens"] for record in answers),
        "output_tokens": sum(record["output_tokens"] for record in answers),
        "verdict": verdicts[-1] if verdicts else "",
        "errors": errors,
        "cost_usd": round(cost, 6),
        "rows": rows,
        "share_usd": round(cost / rows, 6),
    }
    if lender := next((record["borrowed_from"] for record in records if "borrowed_from" in record), ""):
        found["borrowed_from"] = lender
    return found


def _prompts(calls: list[Row]) -> list[Row]:
    """Each wording that asked for this row, once."""
    pairs = dict.fromkeys((call["template"], call["prompt_sha"]) for call in calls if call["template"])
    return [{"template": template, "prompt_sha": sha} for template, sha in pairs]


def _checks(files: _Files, state: str, row: Row) -> Row:
    """What the row passed, or why it is not in."""
    checks: Row = dict(row.get("checks") or {})
    if state == "rejected":
        checks["rejected_because"] = row["reason"]
    if "confidence" in row:
        checks["confidence"] = row["confidence"]
    if row.get("edited"):
        checks["edited_by_user"] = True
    if row.get("approved"):
        checks["approved_by_user"] = True
    if state == "dropped":
        checks["dropped_by_user"] = True
    checks.setdefault("checker", files.checker)
    return checks


def _texts(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("input", "thinking", "output"))


def _short(text: str) -> str:
    return text if len(text) <= _CHARS_SHOWN else f"{text[:_CHARS_SHOWN]}..."
