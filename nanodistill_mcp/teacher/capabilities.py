"""How a teacher takes its questions: decided from what is known of the model, corrected by what it refuses.

Models change what they accept faster than libraries can say. So a refusal that names a parameter is believed: the parameter
is dropped for that endpoint, and that is remembered with its date, and tried again a month later.
"""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.runs.files import read_json, write_json
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher.models import ModelFacts

Mode = Literal["json_schema", "tools", "md_json", "text"]
"""The provider's own JSON schemas; a tool call; JSON asked for in words; plain text under headings."""

THINKING_TOKENS = 4096
"""Room beside the answer for a model that thinks unasked; its thinking counts against max_tokens."""

_BELIEVED_FOR = timedelta(days=30)
_SPOKEN_OF: dict[str, tuple[str, ...]] = {
    "response_format": ("response_format", "output_format", "output_config.format", "json_schema", "structured output"),
    "tool_choice": ("tool_choice", "forced tool"),
    "tools": ("tools", "tool use", "function calling"),
    "reasoning_effort": ("reasoning_effort", "output_config.effort", "effort", "thinking"),
}
_NEVER_LEFT_OUT = ("messages", "max_completion_tokens")
_JSON_IN_WORDS = "json"
_RENAMED = {"max_tokens": "max_completion_tokens"}


class Capabilities:
    """What endpoints were found to refuse, kept in a small file. One for all runs; the last writer wins.

    Args:
        path: The file; None keeps what is learnt in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._learnt: dict[str, dict[str, str]] = {}
        for endpoint, refusals in _stored(path).items():
            self._learnt[endpoint] = {name: day for name, day in refusals.items() if _is_believed(day)}

    def mode(self, endpoint: TeacherEndpoint, facts: ModelFacts) -> Mode:
        """The form in which this endpoint is asked for a structured answer."""
        refused = self._refused(endpoint)
        if facts.answers_by_schema and "response_format" not in refused:
            return "json_schema"
        if facts.calls_tools and "tools" not in refused:
            return "tools"
        return "text" if _JSON_IN_WORDS in refused else "md_json"

    def request(self, endpoint: TeacherEndpoint, facts: ModelFacts, wanted: dict[str, Any]) -> dict[str, Any]:
        """Fit the wanted parameters to what the endpoint takes: refused ones left out, renamed ones under their new name."""
        request = dict(wanted)
        if facts.thinks_unasked:
            request["max_tokens"] += THINKING_TOKENS
            request.setdefault(
                "reasoning_effort", "low"
            )  # the worked solution is the work; more would be paid for twice
        if facts.max_output_tokens:
            request["max_tokens"] = min(request["max_tokens"], facts.max_output_tokens)
        for name in (self._refused(endpoint) | facts.not_taken) & request.keys():
            value = request.pop(name)
            if name in _RENAMED:
                request[_RENAMED[name]] = value
        return request

    def output_limit(self, endpoint: TeacherEndpoint, facts: ModelFacts, max_tokens: int) -> int:
        """How many output tokens are allowed when so many are wanted for an answer."""
        fitted = self.request(endpoint, facts, {"max_tokens": max_tokens})
        return fitted.get("max_tokens") or fitted["max_completion_tokens"]

    def learn(self, endpoint: TeacherEndpoint, sent: dict[str, Any], refusal: str) -> str:
        """Find which sent parameter a refusal names, and remember it.

        Returns:
            The parameter's name; empty when the refusal names none that can be left out.
        """
        text = refusal.lower()
        for name in (*_SPOKEN_OF, *sorted(sent.keys() - _SPOKEN_OF.keys())):
            if name in sent and name not in _NEVER_LEFT_OUT and _is_named(name, text):
                self.remember(endpoint, name)
                return name
        return ""

    def remember(self, endpoint: TeacherEndpoint, name: str) -> None:
        """Note that an endpoint does not take a parameter."""
        self._learnt.setdefault(_key(endpoint), {})[name] = _today().isoformat()
        if self._path:
            write_json(self._path, self._learnt, durable=False)

    def give_up_mode(self, endpoint: TeacherEndpoint, mode: Mode) -> None:
        """Note that an endpoint takes a form of asking and does not keep to it."""
        self.remember(endpoint, {"json_schema": "response_format", "tools": "tools"}.get(mode, _JSON_IN_WORDS))

    def _refused(self, endpoint: TeacherEndpoint) -> set[str]:
        return set(self._learnt.get(_key(endpoint), {}))


def _stored(path: Path | None) -> dict[str, dict[str, str]]:
    try:
        return (read_json(path) or {}) if path else {}
    except DamagedRunError:  # it can be learnt again
        return {}


def _key(endpoint: TeacherEndpoint) -> str:
    return f"{endpoint.model} at {endpoint.api_base}" if endpoint.api_base else endpoint.model


def _is_named(name: str, text: str) -> bool:
    if name in _RENAMED:  # a text that names it otherwise speaks of its value
        return _RENAMED[name] in text
    if name in _SPOKEN_OF:
        return any(words in text for words in _SPOKEN_OF[name])
    if name in ("stop", "seed", "user"):  # words of their own; only as a quoted name
        return re.search(rf"[`'\"]{name}[`'\"]", text) is not None
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def _is_believed(day: str) -> bool:
    try:
        return _today() - date.fromisoformat(day) < _BELIEVED_FOR
    except ValueError:
        return False


def _today() -> date:
    return datetime.now(UTC).date()
