"""Failures are classed by what to do about them, whatever LiteLLM calls them."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher.failures import Failure, failure_of, stop_error


class AnsweredError(Exception):
    """What LiteLLM raises for an HTTP error that a provider sent."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__("Too many requests: {key} {0}")
        self.status_code = status
        self.response = object()
        self.litellm_response_headers = {"server": "x", **(headers or {})}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "rejected"),
        (401, "auth"),
        (402, "no_credit"),
        (403, "forbidden"),
        (404, "no_model"),
        (409, "server"),
        (413, "context"),
        (422, "rejected"),
        (429, "rate_limit"),
        (500, "server"),
        (502, "server"),
        (529, "server"),
    ],
)
def test_an_answered_error_is_classed_by_its_status_and_costs_nothing(status: int, kind: str) -> None:
    """Providers do not bill what they answer with an error."""
    assert failure_of(AnsweredError(status)) == Failure(kind, status, may_be_billed=False)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("seconds", [0, 30])
def test_a_wait_is_read_as_seconds_or_as_a_date(seconds: int) -> None:
    """Both forms of Retry-After are in use."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)

    by_number = failure_of(AnsweredError(429, {"retry-after": str(seconds)})).retry_after_s
    by_date = failure_of(AnsweredError(429, {"retry-after": date})).retry_after_s

    assert by_number == seconds
    assert by_date == pytest.approx(seconds, abs=2)
    assert failure_of(AnsweredError(429, {"retry-after": "soon"})).retry_after_s is None


def test_a_connection_that_never_stood_costs_nothing_and_one_that_broke_may() -> None:
    """LiteLLM calls both an internal server error of the provider."""
    refused = RuntimeError("InternalServerError: Connection error.")
    refused.__context__ = ConnectionRefusedError()
    broken = RuntimeError("InternalServerError: Server disconnected.")
    broken.__context__ = ConnectionResetError()

    assert failure_of(refused) == Failure("unreachable", 0, may_be_billed=False)
    assert failure_of(broken) == Failure("broken", 0, may_be_billed=True)


def test_an_error_for_people_names_the_variable_and_none_of_the_provider_s_words() -> None:
    """What a provider says may be anything."""
    endpoint = TeacherEndpoint.model_validate({"model": "m", "api_key_env": "MY_KEY"})

    error = stop_error(failure_of(AnsweredError(401)), endpoint, "api.example.org", "MY_KEY")

    assert error.what == "api.example.org refused the teacher's key."
    assert error.next_step.startswith("Set MY_KEY under `env`")
    assert "Too many" not in str(error)
