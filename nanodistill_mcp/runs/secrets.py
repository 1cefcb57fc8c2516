"""Keys and passwords: which ones this process holds, what any of them looks like, and text without them.

A provider may repeat a key in its refusal, and a library may write it into a log. So what goes to a log, a journal or an
agent passes through here, at one place each.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import TextIO

PATTERN = (
    r"\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\bhf_[A-Za-z0-9]{30,}|\bAIza[0-9A-Za-z_-]{35}"
    r"|\bxox[abprs]-[0-9A-Za-z-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@\"\\]{1,100}:[^/\s@\"\\]{1,100}@"
)
"""What keys and passwords look like, wherever they are from."""

HIDDEN = "[key]"

_LOOKS_SECRET = re.compile(PATTERN)
_NAMES_A_KEY = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_|$)")
_SHORTEST = 8
_LONGEST_LINE = 1_000_000
_SHORTEST_UNNAMED = 12
"""A variable that only sounds as if it held a key may hold an ordinary word, which must stay readable in texts."""


_remembered: set[str] = set()


def remember(value: str) -> None:
    """Count a value as a key from here on, whatever its variable is called."""
    if len(value) >= _SHORTEST:
        _remembered.add(value)


def held(env: Mapping[str, str] | None = None) -> list[str]:
    """The keys this process knows: those it was told to remember, and those of variables that are named like one."""
    found = set(_remembered)
    for name, value in (os.environ if env is None else env).items():
        if _NAMES_A_KEY.search(name.upper()) and len(value) >= _SHORTEST_UNNAMED and not value.startswith(("/", "~")):
            found.add(value)
    return sorted(found, key=len, reverse=True)  # one may be the beginning of another


def without_keys(text: str, keys: Sequence[str] | None = None) -> str:
    """A text in which no key of this process stands. Who asks for many texts looks the keys up once."""
    for value in held() if keys is None else keys:
        if value in text:
            text = text.replace(value, HIDDEN)
    return text


def redacted(text: str, keys: Sequence[str] | None = None) -> str:
    """A text without those and without anything else that looks like a key: for logs and errors, not for data."""
    return _LOOKS_SECRET.sub(HIDDEN, without_keys(text, keys))


def line_with_key(text: str) -> int:
    """The number of the first line that holds what looks like a key, or one of this process; 0 when none does."""
    places = [text.find(value) for value in held() if value in text]
    if found := _LOOKS_SECRET.search(text):
        places.append(found.start())
    return 1 + text.count("\n", 0, min(places)) if places else 0


class RedactedStream:
    """A text stream that lets no key through. What is written is held back to the end of its line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""

    def write(self, text: str) -> int:
        """Write whole lines on."""
        whole, newline, self._line = (self._line + text).rpartition("\n")
        if newline:
            self._stream.write(redacted(whole) + newline)
        if len(self._line) > _LONGEST_LINE:
            self._write_rest()
        return len(text)

    def flush(self) -> None:
        """Write the rest on, so that a message without a line's end is seen before a death."""
        self._write_rest()
        self._stream.flush()

    def _write_rest(self) -> None:
        self._stream.write(redacted(self._line))
        self._line = ""

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
