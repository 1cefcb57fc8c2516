"""No key in a log: neither one this process holds, nor anything that looks like one."""

import io

import pytest

from nanodistill_mcp.runs import secrets
from nanodistill_mcp.runs.secrets import HIDDEN, RedactedStream, redacted, remember, without_keys

MINE = "held-by-this-process-0123"


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_remembered", set[str]())


@pytest.mark.parametrize(
    "key",
    [
        MINE,
        "sk-ant-api03-" + "a1B2" * 10,
        "AKIA" + "Q" * 16,
        "ghp_" + "a" * 36,
        "hf_" + "b" * 34,
        "AIza" + "c" * 35,
        "xoxb-123456789012",
        "https://me:hunter22@proxy.example",
    ],
)
def test_a_key_in_a_log_is_hidden_whatever_piece_it_is_written_in(key: str) -> None:
    """A traceback is written in pieces, and a piece of a key would not be known as one."""
    remember(MINE)
    for size in (1, 7, 1000):
        log = io.StringIO()
        stream = RedactedStream(log)
        line = f"AuthenticationError: wrong key {key}, try another\n"
        for start in range(0, len(line), size):
            stream.write(line[start : start + size])
        stream.flush()
        assert log.getvalue().startswith("AuthenticationError: wrong key ")
        assert HIDDEN in log.getvalue()
        assert key not in log.getvalue()
        assert key.removeprefix("https://") not in log.getvalue()


def test_a_line_that_has_no_end_yet_is_written_when_it_is_asked_for() -> None:
    """The last words before a death are the ones that are needed."""
    log = io.StringIO()
    stream = RedactedStream(log)
    stream.write("about to")
    assert log.getvalue() == ""
    stream.flush()
    assert log.getvalue() == "about to"


def test_data_keep_what_only_looks_like_a_key() -> None:
    """A student may be taught to find keys; only this machine's own are taken out of its examples."""
    remember(MINE)
    example = "Is AKIAQQQQQQQQQQQQQQQQ a key?"
    assert without_keys(example) == example
    assert redacted(example) == f"Is {HIDDEN} a key?"
    assert without_keys(f"{MINE}{MINE}") == HIDDEN * 2


def test_the_longer_of_two_keys_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key may begin as another does."""
    monkeypatch.setenv("A_TOKEN", "twelve-chars")
    monkeypatch.setenv("B_TOKEN", "twelve-chars-and-more")
    assert without_keys("twelve-chars-and-more") == HIDDEN
