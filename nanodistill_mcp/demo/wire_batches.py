"""The batch APIs of the two wire formats: files and batches as OpenAI documents them, message batches as Anthropic does.

A batch is worked off by being looked at: the first looks find it waiting, then it ends in the way the test or demo set.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Literal

from nanodistill_mcp.demo.wire_formats import (
    Breaks,
    Fails,
    Refuses,
    Says,
    Wire,
    WireReply,
    WireRequest,
    completion,
    failure,
    read_request,
)

Ending = Literal["completed", "failed", "expired", "cancelled"]


@dataclass
class WireBatch:
    """One batch as the server keeps it."""

    id: str
    wire: Wire
    lines: list[dict[str, Any]]
    """OpenAI's form: custom_id and body; Anthropic's are put into it."""
    headers: dict[str, str]
    metadata: dict[str, str]
    created_at: datetime
    looks: int = 0
    ended: Ending | None = None
    cancelled: bool = False
    files: dict[str, str] = field(default_factory=dict[str, str])
    results: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass
class Played:
    """A reply to one HTTP request."""

    status: int
    body: bytes
    kind: str = "application/json"
    mute: bool = False
    """Do as asked and never reply, as when the line breaks."""


class WireBatches:
    """The batches of one server. Its fields are how a test plays with it.

    Args:
        answer: Answers each question of a batch when the batch ends.
    """

    def __init__(self, answer: Callable[[WireRequest], WireReply]) -> None:
        self._answer = answer
        self._files: dict[str, bytes] = {}
        self.all: dict[str, WireBatch] = {}
        self.requests: list[WireRequest] = []
        """Every question that a batch answered, in order."""
        self.looks_needed = 2
        """How often a batch is found waiting before it ends."""
        self.hold = False
        """Let no batch end."""
        self.ending: Ending = "completed"
        self.refusal = "invalid_request"
        """The provider's code, when the ending is "failed"."""
        self.serves_before_expiry = 0
        """How many questions of a batch are answered before it expires or is cancelled."""
        self.mute_submissions = 0
        """How many submissions are taken without a reply."""
        self.submissions_fail: Fails | None = None
        self.looks_fail: list[Fails] = []
        """Used up, one a look."""
        self.offered = True
        """Whether this server knows batches at all."""

    def respond(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Played | None:
        """Answer a request to a batch API; None when it is not one."""
        if not self.offered:
            return None
        _, found, after = path.partition("/v1/messages/batches")
        if found:
            return self._anthropic(method, after.strip("/"), headers, body)
        for root in ("/files", "/batches"):
            before, found, rest = path.partition(root)
            if found and before in ("/v1", ""):
                handle = self._openai_files if root == "/files" else self._openai_batches
                return handle(method, rest.strip("/"), headers, body)
        return None

    def _openai_files(self, method: str, rest: str, headers: dict[str, str], body: bytes) -> Played:
        file_id, _, what = rest.partition("/")
        if method == "POST" and not rest:
            file_id = f"file-{len(self._files) + 1}"
            self._files[file_id] = _uploaded(headers, body)
        if file_id not in self._files:
            return _failed("openai", Fails("no_model"))
        if what == "content":
            return Played(200, self._files[file_id], "application/octet-stream")
        size = len(self._files[file_id])
        about = {"object": "file", "bytes": size, "created_at": 0, "filename": "questions.jsonl", "purpose": "batch"}
        return _json({"id": file_id, **about, "status": "processed"})

    def _openai_batches(self, method: str, rest: str, headers: dict[str, str], body: bytes) -> Played:
        batch_id, _, what = rest.partition("/")
        if method == "POST" and not rest:
            if self.submissions_fail is not None:
                return _failed("openai", self.submissions_fail)
            asked = json.loads(body)
            lines = [json.loads(line) for line in self._files[asked["input_file_id"]].splitlines() if line]
            batch = self._new("openai", lines, headers, asked.get("metadata") or {})
            return self._taken(_openai_batch(batch, self.refusal))
        if not rest:
            newest = [
                _openai_batch(batch, self.refusal) for batch in reversed(self.all.values()) if batch.wire == "openai"
            ]
            return _json({"object": "list", "data": newest, "has_more": False})
        if (problem := self._look("openai", batch_id, cancel=what == "cancel")) is not None:
            return problem
        return _json(_openai_batch(self.all[batch_id], self.refusal))

    def _anthropic(self, method: str, rest: str, headers: dict[str, str], body: bytes) -> Played:
        batch_id, _, what = rest.partition("/")
        if method == "POST" and not rest:
            if self.submissions_fail is not None:
                return _failed("anthropic", self.submissions_fail)
            asked = json.loads(body)["requests"]
            lines = [{"custom_id": each["custom_id"], "body": each["params"]} for each in asked]
            return self._taken(_anthropic_batch(self._new("anthropic", lines, headers, {})))
        if not rest:
            newest = [_anthropic_batch(batch) for batch in reversed(self.all.values()) if batch.wire == "anthropic"]
            return _json({"data": newest, "has_more": False, "first_id": None, "last_id": None})
        if what == "results" and batch_id in self.all:
            return Played(200, _lines(self.all[batch_id].results), "application/x-jsonl")
        if (problem := self._look("anthropic", batch_id, cancel=what == "cancel")) is not None:
            return problem
        return _json(_anthropic_batch(self.all[batch_id]))

    def _new(
        self, wire: Wire, lines: list[dict[str, Any]], headers: dict[str, str], metadata: dict[str, str]
    ) -> WireBatch:
        name = f"{'batch' if wire == 'openai' else 'msgbatch'}_{len(self.all) + 1}"
        self.all[name] = WireBatch(name, wire, lines, headers, metadata, datetime.now(UTC))
        return self.all[name]

    def _taken(self, batch: dict[str, Any]) -> Played:
        played = _json(batch)
        if self.mute_submissions:
            self.mute_submissions -= 1
            played.mute = True
        return played

    def _look(self, wire: Wire, batch_id: str, *, cancel: bool) -> Played | None:
        """Move a batch on, because it was looked at. A reply only when it cannot be seen."""
        if self.looks_fail:
            return _failed(wire, self.looks_fail.pop(0))
        batch = self.all.get(batch_id)
        if batch is None:
            return _failed(wire, Fails("no_model"))
        batch.cancelled = batch.cancelled or cancel
        batch.looks += 1
        if batch.ended is None and (batch.cancelled or (batch.looks > self.looks_needed and not self.hold)):
            self._end(batch, "cancelled" if batch.cancelled else self.ending)
        return None

    def _end(self, batch: WireBatch, ending: Ending) -> None:
        """Answer what a batch asks, and put the results where they are fetched."""
        batch.ended = ending
        if ending == "failed":
            return
        served = len(batch.lines) if ending == "completed" else self.serves_before_expiry
        read = _openai_result if batch.wire == "openai" else _anthropic_result
        for number, line in enumerate(batch.lines):
            reply: WireReply | None = None
            request = read_request(batch.wire, line["body"], batch.headers)
            if number < served:
                self.requests.append(request)
                reply = self._answer(request)
            batch.results.append({"custom_id": line["custom_id"], **read(request, reply, number)})
        batch.results.reverse()  # neither provider keeps the order
        if batch.wire == "openai":
            fine = [each for each in batch.results if each["response"] and each["response"]["status_code"] == 200]  # noqa: PLR2004
            for name, part in (("output", fine), ("error", [each for each in batch.results if each not in fine])):
                if part:
                    batch.files[name] = f"file-{len(self._files) + 1}"
                    self._files[batch.files[name]] = _lines(part)


def _openai_result(request: WireRequest, reply: WireReply | None, number: int) -> dict[str, Any]:
    match reply:
        case None | Breaks():
            told = {"code": "batch_expired", "message": "This request could not be executed before the batch expired."}
            return {"id": f"batch_req_{number}", "response": None, "error": told}
        case Fails():
            status, body = failure("openai", reply)
        case Says() | Refuses():
            status, body = 200, completion(request, reply, number)
    response = {"status_code": status, "request_id": f"req_{number}", "body": body}
    return {"id": f"batch_req_{number}", "response": response, "error": None}


def _anthropic_result(request: WireRequest, reply: WireReply | None, number: int) -> dict[str, Any]:
    match reply:
        case None | Breaks():
            return {"result": {"type": "expired"}}
        case Fails():
            return {"result": {"type": "errored", "error": failure("anthropic", reply)[1]}}
        case Says() | Refuses():
            message = completion(request, reply, number)
            message["usage"]["service_tier"] = "batch"
            return {"result": {"type": "succeeded", "message": message}}


def _openai_batch(batch: WireBatch, refusal: str) -> dict[str, Any]:
    total, at = len(batch.lines), int(batch.created_at.timestamp())
    fine = sum(bool(each["response"] and each["response"]["status_code"] == 200) for each in batch.results)  # noqa: PLR2004
    counts = {"total": total, "completed": fine, "failed": len(batch.results) - fine}
    errors = {"object": "list", "data": [{"code": refusal, "message": "No.", "line": None, "param": None}]}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "errors": errors if batch.ended == "failed" else None,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": batch.ended or ("validating" if batch.looks < 2 else "in_progress"),  # noqa: PLR2004
        "output_file_id": batch.files.get("output"),
        "error_file_id": batch.files.get("error"),
        "created_at": at,
        "request_counts": counts,
        "metadata": batch.metadata,
    }


def _anthropic_batch(batch: WireBatch) -> dict[str, Any]:
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    counts["processing"] = 0 if batch.ended else len(batch.lines)
    for each in batch.results:
        counts[each["result"]["type"]] += 1
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if batch.ended else "in_progress",
        "request_counts": counts,
        "created_at": batch.created_at.isoformat().replace("+00:00", "Z"),
        "expires_at": None,
        "ended_at": None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": None,
    }


def _uploaded(headers: dict[str, str], body: bytes) -> bytes:
    """The file of a multipart upload."""
    head = f"content-type: {headers['content-type']}\r\n\r\n".encode()
    parts = BytesParser(policy=HTTP).parsebytes(head + body)
    for part in parts.iter_parts():
        if part.get_param("name", header="content-disposition") == "file":
            content: bytes = part.get_payload(decode=True)  # pyright: ignore[reportAssignmentType] - of a leaf: bytes
            return content
    raise ValueError("The upload has no file.")


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _json(value: dict[str, Any]) -> Played:
    return Played(200, json.dumps(value).encode())


def _failed(wire: Wire, fails: Fails) -> Played:
    status, value = failure(wire, fails)
    return Played(status, json.dumps(value).encode())
