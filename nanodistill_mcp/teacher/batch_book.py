"""What a journal says of batches: which are still out, what they are for, and what they saved."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nanodistill_mcp.runs.journal import Record

HALF = 0.5
"""What an answer from a batch costs, of what it costs live. The same at every provider that has batches."""

UNSENT = "unsent"
"""The error of a question whose batch was never taken: it costs nothing and can go into the next one."""


@dataclass
class OpenBatch:
    """A batch with questions that have neither an answer nor an error yet."""

    nonce: str
    """Ours; part of every custom id, so that results found anywhere can be told to be ours."""
    batch_id: str = ""
    """The provider's; empty when the worker died before it knew it."""
    host: str = ""
    submitted_at: str = ""
    questions: int = 0
    """How many it was submitted with."""
    intents: dict[str, Record] = field(default_factory=dict[str, Record])
    """The intents that wait, by custom id."""

    @property
    def age_s(self) -> float:
        """Seconds since it was submitted."""
        began = datetime.fromisoformat(self.submitted_at)
        return max(0.0, (datetime.now(began.tzinfo) - began).total_seconds())  # a clock can be put back

    @property
    def max_usd(self) -> float:
        """What the waiting questions cost at most."""
        return sum(record["max_usd"] for record in self.intents.values())

    @property
    def max_tokens(self) -> int:
        """What the waiting questions take at most."""
        return sum(record["max_tokens"] for record in self.intents.values())


def custom_id(call_id: str, attempt: int, nonce: str) -> str:
    """The id of a question within its batch: letters, digits and dashes, at most 64 as Anthropic wants it."""
    return f"{call_id}-{attempt}-{nonce}"


def open_batches(records: list[Record]) -> list[OpenBatch]:
    """The batches that are still out, oldest first."""
    found: dict[str, OpenBatch] = {}
    where: dict[tuple[str, int], str] = {}
    for record in records:
        nonce = record.get("batch", "")
        if "borrowed_from" in record:  # a clone's: the batch is the other run's
            continue
        match record["kind"]:
            case "intent" if nonce:
                batch = found.setdefault(nonce, OpenBatch(nonce, submitted_at=record["at"]))
                batch.questions += 1
                batch.intents[custom_id(record["call_id"], record["attempt"], nonce)] = record
                where[record["call_id"], record["attempt"]] = nonce
            case "batch":
                batch = found.setdefault(nonce, OpenBatch(nonce))
                batch.batch_id, batch.host, batch.submitted_at = record["id"], record["host"], record["at"]
            case "answer" | "error":
                key = record["call_id"], record["attempt"]
                if of := where.get(key):
                    found[of].intents.pop(custom_id(*key, of), None)
            case _:
                pass
    return [batch for batch in found.values() if batch.intents]


def tried_in_a_batch(records: list[Record]) -> set[str]:
    """The calls that a batch gave an answer or an error for: what they still need, they get live."""
    return {
        record["call_id"]
        for record in records
        if record["kind"] in ("answer", "error") and record.get("batch") and record.get("error") != UNSENT
    }


def batch_summary(records: list[Record]) -> dict[str, Any]:
    """What batches brought: how many, their answers, how many questions were asked live after them, and the dollars saved."""
    records = [record for record in records if "borrowed_from" not in record]
    answers = [record for record in records if record["kind"] == "answer" and record.get("batch")]
    tried = tried_in_a_batch(records)
    live = {record["call_id"] for record in records if record["kind"] == "intent" and not record.get("batch")}
    return {
        "batches": len({record["id"] for record in records if record["kind"] == "batch"}),
        "answers": len(answers),
        "topped_up": len(tried & live),
        "saved_usd": round(sum(record["saved_usd"] for record in answers), 6),
    }
