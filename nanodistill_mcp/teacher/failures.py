"""What went wrong with a call, classed by what to do: try again, give up on the row, or stop the stage.

LiteLLM maps failures unevenly: a refused connection is an "internal server error 500", a broken body too, a missing key may
be either. So the class is taken from the chain of causes and from whether a provider really answered with an error.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from nanodistill_mcp.errors import ConfigurationError, NanodistillError, TeacherError
from nanodistill_mcp.settings import TeacherEndpoint

Kind = Literal[
    "auth",
    "broken",
    "context",
    "filtered",
    "forbidden",
    "no_credit",
    "no_key",
    "no_model",
    "rate_limit",
    "rejected",
    "server",
    "timeout",
    "unreachable",
]

TRANSIENT: dict[Kind, int] = {"broken": 6, "server": 6, "timeout": 3, "unreachable": 4}
"""How often a call is attempted in all. Timeouts the least: each may be billed. A rate limit is waited out by the clock."""

OF_THE_ROW: tuple[Kind, ...] = ("context", "filtered")

_TEXT_LIMIT = 4000
_NO_CREDIT = (
    "insufficient_quota",
    "exceeded your current quota",
    "credit balance is too low",
    "billing",
    "payment required",
)
_NO_KEY = ("missing credentials", "missing anthropic api key", "api_key client option must be set", "no api key")
_NO_CONNECTION = ("ConnectError", "ConnectTimeout", "ConnectionTimeoutError")

_AGAIN = "then call the same stage again: it goes on where it ended."
_SET_KEY = (
    "Set {key} under `env` of this server's entry in the client's configuration "
    f"(clients do not pass the shell's environment), restart the client, {_AGAIN}"
)
_SLOWER = f"Wait, or set the option teacher_concurrency lower, {_AGAIN}"
_RECOVER = f"Wait for the provider to recover, {_AGAIN}"
_OTHER_TEACHER = "Create a run with another teacher, or leave out options that this model does not take."
_STOPS: dict[Kind, tuple[str, str]] = {
    "auth": ("{host} refused the teacher's key.", _SET_KEY),
    "broken": ("{host} keeps sending what is not an answer.", _RECOVER),
    "context": ("{host} finds the request too long.", _OTHER_TEACHER),
    "filtered": ("{host} filters the request.", _OTHER_TEACHER),
    "forbidden": ("The key in {key} may not use the model '{model}'.", f"Allow it in the provider's console, {_AGAIN}"),
    "no_credit": ("The account at {host} has no credit or quota left.", f"Add credit there, {_AGAIN}"),
    "no_key": ("There is no key for the teacher at {host}.", _SET_KEY),
    "no_model": (
        "{host} does not know the model '{model}'.",
        (
            "Create a run with a teacher id the provider lists, or correct the endpoint in the server's configuration "
            "(an address that speaks OpenAI's format mostly ends in /v1)."
        ),
    ),
    "rate_limit": ("{host} keeps answering that it is asked too often.", _SLOWER),
    "rejected": ("{host} rejects the form of the request (HTTP {status}).", _OTHER_TEACHER),
    "server": ("{host} keeps failing (HTTP {status}).", _RECOVER),
    "timeout": ("{host} does not answer in time.", _SLOWER),
    "unreachable": (
        "There is no connection to the teacher at {host}.",
        (
            f"See that the address is right and the server and the network are up, {_AGAIN} "
            "Some desktop clients do not let their servers reach other machines of the local network."
        ),
    ),
}
_FOR_THE_OPERATOR: tuple[Kind, ...] = ("auth", "forbidden", "no_key", "no_model")


@dataclass(frozen=True)
class Failure:
    """One failed attempt."""

    kind: Kind
    status: int
    may_be_billed: bool
    """No whole answer arrived, and yet the provider may have written one."""
    retry_after_s: float | None = None


def failure_of(error: Exception) -> Failure:
    """Class a failed attempt."""
    chain = list(_chain(error))
    names = {type(link).__name__ for link in chain}
    if _never_connected(chain):
        return Failure("unreachable", 0, may_be_billed=False)
    if isinstance(error, TimeoutError) or "Timeout" in names:
        return Failure("timeout", 0, may_be_billed=True)
    text = str(error)[:_TEXT_LIMIT].lower()
    if any(words in text for words in _NO_KEY):
        return Failure("no_key", 0, may_be_billed=False)
    status = int(getattr(error, "status_code", 0) or 0)
    if not (_was_answered(error) or 400 <= status < 500):  # noqa: PLR2004 - LiteLLM itself refuses with these
        return Failure("broken", 0, may_be_billed=True)
    return Failure(
        _kind_of_answer(names, status, text), status, may_be_billed=False, retry_after_s=_retry_after_s(error)
    )


def refusal_text(error: Exception) -> str:
    """A provider's words on why it refused a request; to search for names in, never to show."""
    return str(error)[:_TEXT_LIMIT]


def stop_error(failure: Failure, endpoint: TeacherEndpoint, host: str, key_variable: str) -> NanodistillError:
    """Why the stage ends, in our words."""
    what, step = _STOPS[failure.kind]
    facts = {
        "host": host,
        "model": endpoint.model,
        "key": key_variable or "the provider's key",
        "status": failure.status,
    }
    kind = ConfigurationError if failure.kind in _FOR_THE_OPERATOR else TeacherError
    return kind(what.format(**facts), next_step=step.format(**facts))


def _kind_of_answer(names: set[str], status: int, text: str) -> Kind:
    """Class an HTTP error that a provider did send."""
    if "ContextWindowExceededError" in names or status == 413:  # noqa: PLR2004
        return "context"
    if "ContentPolicyViolationError" in names:
        return "filtered"
    if status == 402 or any(words in text for words in _NO_CREDIT):  # noqa: PLR2004
        return "no_credit"
    by_status: dict[int, Kind] = {
        401: "auth",
        403: "forbidden",
        404: "no_model",
        409: "server",
        425: "server",
        429: "rate_limit",
    }
    if status in by_status:
        return by_status[status]
    return "server" if status >= 500 or status < 400 else "rejected"  # noqa: PLR2004


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _never_connected(chain: list[BaseException]) -> bool:
    return any(
        isinstance(link, ConnectionRefusedError | socket.gaierror)
        or type(link).__name__ in _NO_CONNECTION
        or type(link).__name__.startswith("ClientConnector")
        for link in chain
    )


def _was_answered(error: Exception) -> bool:
    """Whether an HTTP error came from the other side: what LiteLLM makes up lacks either the headers or the response."""
    return bool(getattr(error, "litellm_response_headers", None)) and getattr(error, "response", None) is not None


def _retry_after_s(error: Exception) -> float | None:
    headers: Any = getattr(error, "litellm_response_headers", None) or {}
    value = headers.get("retry-after") or headers.get("llm_provider-retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
