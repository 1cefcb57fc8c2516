"""The providers' batch APIs: hand a batch in, look how far it is, fetch its results, find it again.

Azure, Mistral and xAI are reached through LiteLLM. Anthropic's batches it can only read, and of OpenAI's it keeps every
connection open; so the few requests to these two are made here, to the address and with the key of a single question.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.teacher.batch_wire import Rehearsal, WireForm
from nanodistill_mcp.teacher.libraries import litellm
from nanodistill_mcp.teacher.models import ModelFacts

if TYPE_CHECKING:
    import httpx

HALF_PRICE = ("anthropic", "azure", "mistral", "openai", "xai")
"""Providers with batches at half price that take the questions in the request itself. Bedrock and Vertex want a bucket."""

_MARK = "nanodistill"
_TIMEOUT_S = 300.0
_ENDPOINT = "/v1/chat/completions"
_HEADERS_KEPT = (
    "anthropic-version",
    "authorization",
    "openai-organization",
    "openai-project",
    "user-agent",
    "x-api-key",
)
_CLOCKS_DIFFER = timedelta(minutes=5)
_PAGE = 100
_PAGES = 10
_STATUS_OF_ERROR = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

Stage = Literal["waiting", "ended", "refused"]


@dataclass(frozen=True)
class Seen:
    """How far a batch is at its provider."""

    stage: Stage
    """refused: the provider took the batch in and then found that it cannot run it."""
    finished: int
    reasons: tuple[str, ...] = ()
    """The provider's own codes for a refusal; to search in, never to show."""
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """One question's result: an ordinary response. Status 0: the provider never got to it."""

    status: int
    body: dict[str, Any]


class BatchProvider(Protocol):
    """A provider that takes batches."""

    async def submit(self, forms: Mapping[str, WireForm], nonce: str) -> str:
        """Hand the questions in, by custom id. Returns the provider's id of the batch."""
        ...

    async def look(self, batch_id: str) -> Seen:
        """See how far it is."""
        ...

    async def results(self, batch_id: str, seen: Seen) -> dict[str, Result]:
        """Fetch what an ended batch brought, by custom id."""
        ...

    async def find(self, nonce: str, count: int, since: str) -> str | None:
        """The id of a batch whose submission was not answered; "" when there is none, None when that cannot be told."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """Ask the provider to stop; what it has answered by then is answered, and paid."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def batch_provider(facts: ModelFacts, credentials: dict[str, str], rehearsal: Rehearsal) -> BatchProvider:
    """The batch API of a teacher's provider."""
    match facts.provider:
        case "anthropic":
            return _Anthropic(rehearsal)
        case "openai":
            return _OpenAI(rehearsal)
        case _:
            return _ThroughLiteLLM(facts, credentials)


def check_batches(facts: ModelFacts) -> None:
    """Refuse a provider without batches, before anything is asked.

    Raises:
        ConfigurationError: Names the providers that have them.
    """
    if facts.provider not in HALF_PRICE:
        raise ConfigurationError(
            f"The provider of the teacher '{facts.model}' has no batches at half price that can be used from here.",
            next_step=f"Call amplify(mode='live'), or create a run with a teacher at one of: {', '.join(HALF_PRICE)}.",
        )


class _ThroughLiteLLM:
    """OpenAI's form of batches as LiteLLM carries it to other providers: a file of lines goes in, another comes out."""

    def __init__(self, facts: ModelFacts, credentials: dict[str, str]) -> None:
        self._provider = facts.provider
        self._ways: dict[str, Any] = {
            "custom_llm_provider": facts.provider,
            "timeout": _TIMEOUT_S,
            "max_retries": 0,
            **credentials,
        }
        # Mistral runs one model a batch, and LiteLLM finds the way there by the model.
        self._model = {"model": facts.model} if facts.provider == "mistral" else {}

    async def submit(self, forms: Mapping[str, WireForm], nonce: str) -> str:
        path = "/chat/completions" if self._provider == "azure" else _ENDPOINT
        file = ("questions.jsonl", _questions(forms, path))
        uploaded = await litellm().acreate_file(file=file, purpose="batch", **self._ways)
        batch = await litellm().acreate_batch(
            completion_window="24h",
            endpoint=_ENDPOINT,
            input_file_id=uploaded.id,
            metadata={_MARK: nonce, "name": f"{_MARK}-{nonce}"},
            **self._ways,
            **self._model,
        )
        return str(batch.id)

    async def look(self, batch_id: str) -> Seen:
        batch = await litellm().aretrieve_batch(batch_id=batch_id, **self._ways, **self._model)
        return _seen(batch.model_dump())

    async def results(self, batch_id: str, seen: Seen) -> dict[str, Result]:
        del batch_id
        found: dict[str, Result] = {}
        for file in seen.files:
            found |= _results((await litellm().afile_content(file_id=file, **self._ways)).content)
        return found

    async def find(self, nonce: str, count: int, since: str) -> str | None:
        del nonce, count, since  # neither lists its batches with our mark
        return None

    async def cancel(self, batch_id: str) -> None:
        await litellm().acancel_batch(batch_id=batch_id, **self._ways, **self._model)

    async def aclose(self) -> None:
        pass


class _OpenAI:
    """OpenAI's own batches. LiteLLM would open a client for every look at them, and close none."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._http = _Http(rehearsal, "/chat/completions")

    async def submit(self, forms: Mapping[str, WireForm], nonce: str) -> str:
        file = {"file": ("questions.jsonl", _questions(forms, _ENDPOINT), "application/jsonl")}
        uploaded = await self._http.request("POST", "/files", data={"purpose": "batch"}, files=file)
        asked = {"input_file_id": uploaded.json()["id"], "endpoint": _ENDPOINT, "completion_window": "24h"}
        batch = await self._http.request("POST", "/batches", json={**asked, "metadata": {_MARK: nonce}})
        return str(batch.json()["id"])

    async def look(self, batch_id: str) -> Seen:
        return _seen((await self._http.request("GET", f"/batches/{batch_id}")).json())

    async def results(self, batch_id: str, seen: Seen) -> dict[str, Result]:
        del batch_id
        found: dict[str, Result] = {}
        for file in seen.files:
            found |= _results((await self._http.request("GET", f"/files/{file}/content")).content)
        return found

    async def find(self, nonce: str, count: int, since: str) -> str | None:
        del count
        earliest = (datetime.fromisoformat(since) - _CLOCKS_DIFFER).timestamp()
        after = ""
        for _ in range(_PAGES):
            page = (await self._http.request("GET", f"/batches?limit={_PAGE}{after}")).json()
            for batch in page["data"]:
                marks: dict[str, str] = batch.get("metadata") or {}
                if marks.get(_MARK) == nonce:
                    return str(batch["id"])
            if not page.get("has_more") or not page["data"] or page["data"][-1]["created_at"] < earliest:
                return ""
            after = f"&after={page['data'][-1]['id']}"
        return None

    async def cancel(self, batch_id: str) -> None:
        await self._http.request("POST", f"/batches/{batch_id}/cancel")

    async def aclose(self) -> None:
        await self._http.aclose()


class _HTTPError(Exception):
    """An HTTP error, with what ``failure_of`` reads of LiteLLM's."""

    def __init__(self, response: "httpx.Response") -> None:
        super().__init__(response.text)
        self.status_code = response.status_code
        self.response = response
        self.litellm_response_headers = response.headers


class _Http:
    """Requests to the address, and with the key, that a single question would go to.

    Args:
        rehearsal: Knows both.
        ending: What the address of a question ends in, and that of a batch does not.
    """

    def __init__(self, rehearsal: Rehearsal, ending: str) -> None:
        import httpx

        self._rehearsal = rehearsal
        self._ending = ending
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def request(self, method: str, path: str, *, betas: Iterable[str] = (), **content: Any) -> "httpx.Response":
        form = await self._rehearsal.form()
        headers = {name: value for name, value in form.headers.items() if name in _HEADERS_KEPT}
        if named := {*_betas(form), *betas}:
            headers["anthropic-beta"] = ",".join(sorted(named))
        url = form.url.removesuffix(self._ending) + path
        response = await self._client.request(method, url, headers=headers, **content)
        if response.is_error:
            raise _HTTPError(response)
        return response


class _Anthropic:
    """Message batches: the questions go in as one body, the results come out as lines."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._http = _Http(rehearsal, "")

    async def submit(self, forms: Mapping[str, WireForm], nonce: str) -> str:
        del nonce  # it is part of every custom id
        asked = [{"custom_id": name, "params": form.body} for name, form in forms.items()]
        betas = sorted({beta for form in forms.values() for beta in _betas(form)})
        batch = await self._http.request("POST", "/batches", json={"requests": asked}, betas=betas)
        return str(batch.json()["id"])

    async def look(self, batch_id: str) -> Seen:
        batch = (await self._http.request("GET", f"/batches/{batch_id}")).json()
        counts = batch["request_counts"]
        finished = sum(number for name, number in counts.items() if name != "processing")
        return Seen("ended" if batch["processing_status"] == "ended" else "waiting", finished)

    async def results(self, batch_id: str, seen: Seen) -> dict[str, Result]:
        del seen
        found: dict[str, Result] = {}
        for line in _json_lines((await self._http.request("GET", f"/batches/{batch_id}/results")).content):
            result = line["result"]
            match result["type"]:
                case "succeeded":
                    found[line["custom_id"]] = Result(200, result["message"])
                case "errored":
                    error: dict[str, Any] = result.get("error") or {}
                    kind = (error.get("error") or error).get("type", "")
                    found[line["custom_id"]] = Result(_STATUS_OF_ERROR.get(kind, 500), error)
                case _:  # canceled, expired
                    found[line["custom_id"]] = Result(0, {})
        return found

    async def find(self, nonce: str, count: int, since: str) -> str | None:
        """Batches carry no mark, only their results do. So one of our size and time that still runs is taken for ours."""
        about = datetime.fromisoformat(since)
        near: list[tuple[timedelta, str]] = []
        after = ""
        for _ in range(_PAGES):
            page = (await self._http.request("GET", f"/batches?limit={_PAGE}{after}")).json()
            for batch in page["data"]:
                distance = abs(datetime.fromisoformat(batch["created_at"]) - about)
                if distance < _CLOCKS_DIFFER and sum(batch["request_counts"].values()) == count:
                    if batch["processing_status"] != "ended":
                        near.append((distance, batch["id"]))
                    elif any(name.endswith(nonce) for name in await self.results(batch["id"], Seen("ended", 0))):
                        return str(batch["id"])
            if not page.get("has_more") or not page["data"]:
                break
            if datetime.fromisoformat(page["data"][-1]["created_at"]) < about - _CLOCKS_DIFFER:
                break
            after = f"&after_id={page['data'][-1]['id']}"
        return min(near)[1] if near else ""

    async def cancel(self, batch_id: str) -> None:
        await self._http.request("POST", f"/batches/{batch_id}/cancel")

    async def aclose(self) -> None:
        await self._http.aclose()


def _betas(form: WireForm) -> list[str]:
    return [beta.strip() for beta in form.headers.get("anthropic-beta", "").split(",") if beta.strip()]


def _json_lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.split(b"\n") if line.strip()]


def _questions(forms: Mapping[str, WireForm], path: str) -> bytes:
    lines = ({"custom_id": name, "method": "POST", "url": path, "body": form.body} for name, form in forms.items())
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _seen(batch: dict[str, Any]) -> Seen:
    """How far a batch of OpenAI's form is."""
    counts: dict[str, int] = batch.get("request_counts") or {}
    finished = (counts.get("completed") or 0) + (counts.get("failed") or 0)
    files = tuple(file for file in (batch.get("output_file_id"), batch.get("error_file_id")) if file)
    match batch["status"]:
        case "failed" if not files:
            errors: dict[str, list[dict[str, Any]]] = batch.get("errors") or {}
            return Seen("refused", 0, tuple(str(error.get("code")) for error in errors.get("data") or ()))
        case "completed" | "expired" | "cancelled" | "failed":
            return Seen("ended", finished, files=files)
        case _:
            return Seen("waiting", finished)


def _results(data: bytes) -> dict[str, Result]:
    """The results in a file of OpenAI's form."""
    found: dict[str, Result] = {}
    for line in _json_lines(data):
        response: dict[str, Any] = line.get("response") or {}
        found[line["custom_id"]] = Result(int(response.get("status_code") or 0), response.get("body") or {})
    return found
