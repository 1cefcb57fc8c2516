"""JSON as models write it: inside prose and fences, with trailing commas, single quotes, raw newlines, or without its end.

One pass over the text, whatever is in it: a value that breaks off is kept as far as it was whole, and reading goes on behind
the place where it broke.
"""

import json
import re
from typing import Any

_DEEPEST = 40
_START = re.compile(r"[{\[]")
_GAP = r"(?:\s++|//[^\n\"']{0,80}+)*+"
_SPACE = re.compile(_GAP)
_NUMBER = re.compile(r"-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?")
_WORD = re.compile(r"\w++")
_WORDS: dict[str, Any] = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_KEY = re.compile(r"\"((?:[^\"\n\\]|\\.){0,100}+)\"|'((?:[^'\n\\]|\\.){0,100}+)'|(\w{1,100}+)")
_QUOTES = {quote: re.compile(rf"\\.|{quote}", re.DOTALL) for quote in "\"'"}
_KEY_FOLLOWS = r"(?:\"[^\"\n]{0,80}+\"\s*+:|'[^'\n]{0,80}+'\s*+:|\w{1,80}+\s*+:|\}|$)"
_VALUE_FOLLOWS = r"(?:[\"'{\[\]\-\d]|true|false|null|True|False|None|$)"
_AFTER = {
    "member": re.compile(rf"{_GAP}(?:\}}|$|,{_GAP}{_KEY_FOLLOWS})"),
    "item": re.compile(rf"{_GAP}(?:\]|$|,{_GAP}{_VALUE_FOLLOWS})"),
}
"""What stands behind a closing quote. A quote with anything else behind it belongs to the text."""
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[\"\\/bfnrt])|\\|\"")


def values_in(text: str) -> list[Any]:
    """Every object and array in a text, in order, outermost only. A float that Python writes otherwise stays a text."""
    found: list[Any] = []
    at = 0
    while start := _START.search(text, at):
        reader = _Reader(text, start.start())
        value = reader.value(0, "item")
        if value:
            found.append(value)
        at = max(reader.at, start.end())
    return found


class PartialList(list[Any]):
    """The whole items of an array that breaks off."""


class PartialObject(dict[str, Any]):
    """The whole members of an object that breaks off."""


class _BrokenOffError(Exception):
    """The text ends, or goes on as no JSON does."""


class _Reader:
    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at
        self.broken = False

    def value(self, depth: int, place: str) -> Any:
        """The value here. A container that breaks off is what was whole of it.

        Raises:
            _BrokenOffError: Here is no whole value.
        """
        self._skip()
        match self.text[self.at : self.at + 1]:
            case "{" | "[" as opening if depth < _DEEPEST:
                self.at += 1
                return self._object(depth) if opening == "{" else self._array(depth)
            case '"' | "'" as quote:
                return self._string(quote, place)
            case _:
                return self._scalar()

    def _object(self, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        try:
            while not self._closed("}"):
                key = self._key()
                members[key] = self.value(depth + 1, "member")
                if self.broken:
                    break
        except _BrokenOffError:
            self.broken = True
        return PartialObject(members) if self.broken else members

    def _array(self, depth: int) -> list[Any]:
        items: list[Any] = []
        try:
            while not self._closed("]"):
                items.append(self.value(depth + 1, "item"))
                if self.broken:
                    break
        except _BrokenOffError:
            self.broken = True
        return PartialList(items) if self.broken else items

    def _closed(self, closing: str) -> bool:
        """Whether the container ends here; commas before its end, or doubled ones, are passed over."""
        self._skip()
        while self.text[self.at : self.at + 1] == ",":
            self.at += 1
            self._skip()
        if self.text[self.at : self.at + 1] != closing:
            return False
        self.at += 1
        return True

    def _key(self) -> str:
        """The key here, with its colon."""
        key = _KEY.match(self.text, self.at)
        if not key:
            self.at += 1
            raise _BrokenOffError
        self.at = key.end()
        self._skip()
        if self.text[self.at : self.at + 1] != ":":
            raise _BrokenOffError
        self.at += 1
        return _unescaped(next(part for part in key.groups() if part is not None))

    def _string(self, quote: str, place: str) -> str:
        begin = self.at + 1
        for stop in _QUOTES[quote].finditer(self.text, begin):
            if stop.group() == quote and _AFTER[place].match(self.text, stop.end()):
                self.at = stop.end()
                return _unescaped(self.text[begin : stop.start()])
        self.at = len(self.text)
        raise _BrokenOffError

    def _scalar(self) -> Any:
        if number := _NUMBER.match(self.text, self.at):
            if number.end() == len(self.text):
                raise _BrokenOffError  # more digits may have been meant
            self.at = number.end()
            return _number(number.group())
        word = _WORD.match(self.text, self.at)
        if not word or word.group() not in _WORDS:
            raise _BrokenOffError
        self.at = word.end()
        return _WORDS[word.group()]

    def _skip(self) -> None:
        if space := _SPACE.match(self.text, self.at):
            self.at = space.end()


def _number(digits: str) -> Any:
    try:
        value = int(digits) if digits.lstrip("-").isdigit() else float(digits)
    except ValueError:  # Python converts no integer of thousands of digits
        return digits
    return value if str(value) == digits else digits


def _unescaped(text: str) -> str:
    """A string's text: known escapes read, a backslash of any other kind kept."""
    if "\\" not in text:
        return text
    whole = _ESCAPE.sub(lambda escape: escape.group() if len(escape.group()) > 1 else "\\" + escape.group(), text)
    return json.loads(f'"{whole}"', strict=False)
