"""Answers in plain text, for models that keep to no JSON: how they are asked for, and how what they write is read.

Read are headings, bold labels, ``Label:`` lines, tags, ``Input:`` and ``Output:`` pairs and lists, by the names of the answer's
fields and so for any shape. Every pass looks at each line once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel

from nanodistill_mcp.teacher.fitting import SYNONYMS, fit, is_shape, labels_of, list_field, plain

_A = TypeVar("_A", bound=BaseModel)

_BULLET = re.compile(r"[ \t>]*(?:(?:[-*\u2022+]|\(?\d{1,3}[.)])[ \t]+)?")
_MARK = re.compile(r"\*\*|__|\*|_|`")
_NAME = re.compile(r"([A-Za-z][A-Za-z_\- ]{0,40})(?:#?\d{1,4})?[ \t]*")
_MARKER = re.compile(
    r"[ \t>]*(?P<mark>[#*_]{1,6}[ \t]*)?(?:example|item|pair|case|entry)[ \t]*#?\d{1,4}\b(?P<bare>[ \t]*[:.)*_#]*[ \t]*\Z)?",
    re.IGNORECASE,
)
_RULE = re.compile(r"[ \t]*(?:-{3,}|\*{3,}|={3,}|_{3,})[ \t]*\Z")
_FENCED = re.compile(r"```[\w-]*[ \t]*\n(.*)\n[ \t]*```\Z", re.DOTALL)
_SEPARATOR = re.compile(r"[ \t]*[:\uff1a][ \t]*|[ \t]+[-\u2013\u2014][ \t]+")
_ENTRY = re.compile(r"([ \t]{0,8})([-*\u2022+]|\(?\d{1,4}[.)])[ \t]+(.*)")
_CHATTER = re.compile(
    r"\n[ \t]*\n(?:let me know|i hope|hope this|feel free|is there anything|anything else|would you like|please let)\b",
    re.IGNORECASE,
)
_LONGEST_LABEL = 120
_END = "\x1e"


def form_of(answer_type: type[BaseModel]) -> str:
    """The form an answer is asked for in, with what belongs in each place in brackets."""
    if (only := list_field(answer_type)) is not None:
        name, item = only
        if not is_shape(item):
            return f"1. (the first of the {name})\n2. (the second)\nand so on"
        lines = "\n".join(f"{_title(each)}: (the {each})" for each in item.model_fields)
        return f"## Example 1\n{lines}\n\n## Example 2\n{lines}\n\nand so on"
    return "\n\n".join(
        f"## {_title(name)}\n({_expected(field.annotation, field.description or name)})"
        for name, field in answer_type.model_fields.items()
    )


def read_text(answer_type: type[_A], text: str, *, cut: bool = False) -> _A | None:
    """Read an answer from a text under labels or in a list; of a text that was cut off, without its last item."""
    if (only := list_field(answer_type)) is None:
        return None if cut else _read_fields(answer_type, text)
    name, item = only
    for items in _readings(name, item, text):
        kept = items[:-1] if cut else items
        if kept and (answer := fit(answer_type, [{name: kept}])) is not None:
            return answer
    return None


def begins_with_label(answer_type: type[BaseModel], text: str) -> bool:
    """Whether a label stands before any JSON: what looks like JSON is then part of an answer, not the whole."""
    only = list_field(answer_type)
    shape = only[1] if only and is_shape(only[1]) else answer_type
    before = text[: found.start()] if (found := re.search(r"[{\[]", text)) else text
    labels = labels_of(shape, synonyms=False)
    return any(_label(line, labels) is not None for line in _tags_as_headings(before, labels).split("\n"))


def without_thinking(text: str) -> str:
    """A reply without the thinking that some local models write before it."""
    if "</think>" in text:
        return text.rpartition("</think>")[2]
    return text.partition("<think>")[0]


@dataclass
class _Part:
    """What stands under one label."""

    name: str
    inline: bool
    lines: list[str] = field(default_factory=list[str])

    @property
    def text(self) -> str:
        return _cleaned("\n".join(self.lines))


def _read_fields(answer_type: type[_A], text: str) -> _A | None:
    """Try the strictest reading first: headings, the fields' own names, other words for them, and all that with a prelude."""
    for with_prelude, (synonyms, headings) in product((False, True), ((False, True), (False, False), (True, False))):
        labels = labels_of(answer_type, synonyms=synonyms)
        prelude, parts = _parts(text, labels, headings_only=headings)
        found = {part.name: part.text for part in parts if part.text}
        if not found:
            continue
        if with_prelude:
            first = next((name for name in answer_type.model_fields if name not in found), "")
            if not first or answer_type.model_fields[first].annotation is not str:
                continue
            found[first] = _cleaned(prelude)
        if (answer := fit(answer_type, [found])) is not None:
            return answer
    return None


def _parts(text: str, labels: Mapping[str, str], *, headings_only: bool) -> tuple[str, list[_Part]]:
    """Split a text at its labels: what stands before the first, and each label's part."""
    prelude: list[str] = []
    parts: list[_Part] = []
    for line in _tags_as_headings(text, labels).split("\n"):
        if line == _END:
            parts.append(_Part("", inline=False))
        elif (label := _label(line, labels, headings_only=headings_only)) is not None:
            name, rest = label
            parts.append(_Part(name, bool(rest), [rest] if rest else []))
        else:
            (parts[-1].lines if parts else prelude).append(line)
    return "\n".join(prelude), [part for part in parts if part.name]


def _label(line: str, labels: Mapping[str, str], *, headings_only: bool = False) -> tuple[str, str] | None:
    """The field a line begins, and what stands behind the label on the same line."""
    if not line or line.isspace():
        return None
    start = _BULLET.match(line)
    head = line[start.end() if start else 0 :]
    bare = head.lstrip("#")
    hashes = len(head) - len(bare)
    numbered = _BULLET.match(bare)
    bare = bare[numbered.end() :] if hashes and numbered else bare
    mark = opened.group() if (opened := _MARK.match(bare)) else ""
    bare = bare[len(mark) :]
    name = _NAME.match(bare[:_LONGEST_LABEL])
    if not name or plain(name[1]) not in labels:
        return None
    rest = bare[name.end() :]
    rest, closed = _without(rest, mark)
    separator = _SEPARATOR.match(rest)
    rest = rest[separator.end() :] if separator else rest
    if not closed:
        rest, closed = _without(rest, mark)
    is_heading = (bool(hashes) or bool(mark and closed)) and not rest.strip()
    if is_heading or (separator and not headings_only):
        return labels[plain(name[1])], rest.strip()
    return None


def _without(rest: str, mark: str) -> tuple[str, bool]:
    closes = bool(mark) and rest.startswith(mark)
    return (rest[len(mark) :] if closes else rest), closes


def _tags_as_headings(text: str, labels: Mapping[str, str]) -> str:
    """A text with ``<answer>`` and ``</answer>`` as headings and ends, for the names that are labels here."""
    if "</" not in text:
        return text
    tags = re.compile(rf"<(/?)({'|'.join(map(re.escape, sorted(labels)))})>", re.IGNORECASE)
    return tags.sub(lambda tag: f"\n{_END}\n" if tag[1] else f"\n## {tag[2]}\n", text)


def _readings(name: str, item: Any, text: str) -> Iterator[list[Any]]:
    """The items of a list, in the order of how sure the reading is."""
    if is_shape(item):
        for synonyms in (False, True):
            yield _pairs(labels_of(item, synonyms=synonyms), text)
        return
    singular = name.removesuffix("s")
    labels = {plain(word): singular for word in (singular, *SYNONYMS.get(singular, ()))}
    yield [part.text for part in _parts(text, labels, headings_only=False)[1] if part.text]
    yield _entries(text)


def _pairs(labels: Mapping[str, str], text: str) -> list[dict[str, str]]:
    """Items whose fields stand under labels. An item ends where a field comes again, at a numbered marker and at a rule."""
    parts: list[_Part] = []
    for line in text.split("\n"):
        if _ends_item(line):
            parts.append(_Part("", inline=False))
        elif (label := _label(line, labels)) is not None:
            parts.append(_Part(label[0], bool(label[1]), [label[1]] if label[1] else []))
        elif parts:
            parts[-1].lines.append(line)
    items: list[dict[str, str]] = [{}]
    for part in parts:
        if not part.name or part.name in items[-1]:
            items.append({})
        if part.name:
            items[-1][part.name] = part.text
    return [each for each in items if each and all(each.values())]


def _ends_item(line: str) -> bool:
    if _RULE.match(line):
        return True
    marker = _MARKER.match(line)
    return marker is not None and (marker["mark"] is not None or marker["bare"] is not None)


def _entries(text: str) -> list[str]:
    """The entries of a list. Lines that are indented or follow at once continue one; a paragraph of its own is not part of it."""
    entries: list[str] = []
    kind, closed = "", True
    for line in text.split("\n"):
        entry = _ENTRY.match(line)
        this = ("1" if entry[2].strip("(.)").isdigit() else "-") if entry else ""
        if entry and this == (kind or this):
            kind, closed = this, False
            entries.append(entry[3])
        elif not line.strip():
            closed = True
        elif entries and (not closed or line[0] in " \t"):
            entries[-1] += "\n" + line.strip()
    return [cleaned for entry in entries if (cleaned := _cleaned(entry))]


def _cleaned(value: str) -> str:
    """A value without what was put around it: blank lines, a fence, quotes, bold marks, a closing remark."""
    value = value.strip()
    if chatter := _CHATTER.search(value):
        value = value[: chatter.start()].rstrip()
    if fenced := _FENCED.match(value):
        value = fenced[1].strip()
    for mark in ("**", '"', "`"):
        inner = value[len(mark) : -len(mark)]
        if value.startswith(mark) and value.endswith(mark) and inner and mark not in inner:
            value = inner.strip()
    return value


def _title(name: str) -> str:
    return name.replace("_", " ").title()


def _expected(annotation: Any, description: str) -> str:
    if get_origin(annotation) is Literal:
        return f"{description.rstrip('.')}; one of: {', '.join(map(str, get_args(annotation)))}"
    if get_origin(annotation) is list:
        return f"{description.rstrip('.')}; one entry a line, each after a hyphen"
    return description.rstrip(".")
