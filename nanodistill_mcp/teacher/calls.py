"""The teacher's calls as the journal knows them: what was asked, answered, judged and paid, by call id.

A call id is made of everything that shapes an answer, so asking the same thing again finds the answer that was paid for.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

from pydantic import BaseModel

from nanodistill_mcp.runs.journal import Journal, Record
from nanodistill_mcp.teacher.failures import OF_THE_ROW
from nanodistill_mcp.teacher.prompts import Prompt
from nanodistill_mcp.teacher.reading import Fault, Verdict

Reason = Literal["refused", "truncated", "filtered", "empty", "wrong_language", "invalid", "context"]

REASKS = 1
"""How often a question without a usable answer is asked again, in other words or with what was wrong."""


class RowDeclined(Exception):  # noqa: N818 - not an error: the row is left out and the stage goes on
    """The teacher gave no usable answer to this one question, and asking again would not help."""

    def __init__(self, reason: Reason, call_id: str, cost_usd: float) -> None:
        super().__init__(reason, call_id, cost_usd)
        self.reason: Reason = reason
        self.call_id = call_id
        self.cost_usd = cost_usd


@dataclass
class KnownCall:
    """What the journal holds of one call."""

    model: str = ""
    attempts: int = 0
    answers: dict[int, Record] = field(default_factory=dict[int, Record])
    verdicts: dict[int, Verdict] = field(default_factory=dict[int, Verdict])
    forms: dict[int, str] = field(default_factory=dict[int, str])
    """In which form each attempt asked; attempts of older versions have none."""
    ended: str = ""
    cost_usd: float = 0.0

    def failed(self) -> list[Fault]:
        """What was wrong with the answers so far, in the form that was asked last: another form is another chance."""
        form = self.forms.get(self.attempts)
        judged = sorted(self.verdicts.items())
        return [fault for at, fault in judged if fault != "valid" and self.forms.get(at) == form]

    def declined(self) -> Reason | None:
        """Why asking again would not help, if so."""
        failed = self.failed()
        found = self.ended or (failed[-1] if len(failed) > REASKS else "")
        return next((reason for reason in get_args(Reason) if reason == found), None)


class CallLog:
    """A journal, read as calls. Follows what is appended while it is in use."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._read = 0
        self._calls: dict[str, KnownCall] = {}
        self._forms_kept_to: set[tuple[str, str]] = set()

    def known(self, call_id: str) -> KnownCall:
        """What is known of a call; an empty record when it was never made."""
        new = self._journal.records[self._read :]
        self._read += len(new)
        for record in new:
            self._take(record)
        return self._calls.get(call_id) or KnownCall()

    def kept_to(self, model: str, form: str) -> bool:
        """Whether a model ever gave a valid answer in a form of asking."""
        return (model, form) in self._forms_kept_to

    def _take(self, record: Record) -> None:
        if "call_id" not in record:
            return
        call = self._calls.setdefault(record["call_id"], KnownCall())
        attempt = record["attempt"]
        call.attempts = max(call.attempts, attempt)
        match record["kind"]:
            case "intent":
                call.model, call.forms[attempt] = record.get("model", ""), record.get("form", "")
            case "answer":
                call.answers[attempt] = record
                call.cost_usd += record["cost_usd"]
            case "verdict":
                call.verdicts[attempt] = record["verdict"]
                if record["verdict"] == "valid":
                    self._forms_kept_to.add((call.model, call.forms.get(attempt, "")))
            case "error":
                call.cost_usd += record["cost_usd"]
                call.ended = record["error"] if record["error"] in OF_THE_ROW else call.ended
            case _:
                pass


def call_id_of(
    model: str, prompt: Prompt, answer_type: type[BaseModel], parameters: dict[str, Any], sample: int
) -> str:
    """The content address of a question: equal for equal questions, whenever and however they are sent."""
    before, after = (
        json.dumps([model, prompt.system, prompt.user])[1:-1],
        json.dumps([parameters, sample], sort_keys=True),
    )
    return hashlib.sha256(f"[{before}, {_schema(answer_type)}, {after[1:]}".encode()).hexdigest()[:20]


@cache
def _schema(answer_type: type[BaseModel]) -> str:
    return json.dumps(answer_type.model_json_schema(), sort_keys=True)
