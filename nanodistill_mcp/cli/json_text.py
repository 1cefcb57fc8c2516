"""JSON as text, with or without comments: an item put in or taken out, and every other character left as it stands."""

import json
import re
from dataclasses import dataclass, field

from nanodistill_mcp.cli.notations import GAP, Entry, NotEditableError, newline

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_PLAIN = re.compile(r"[^\s,:\[\]{}\"/]+")


@dataclass(frozen=True)
class _Item:
    key: str
    start: int
    value: int
    end: int


@dataclass
class Node:
    """An object or an array in the text; ``end`` is where its closing bracket stands."""

    start: int
    end: int = 0
    items: list[_Item] = field(default_factory=list[_Item])


def root_of(text: str) -> Node:
    """The object or array that is the whole text."""
    return _read_node(text, _skip(text, 0))


def node_at(text: str, node: Node, key: str) -> Node | None:
    """The object or array under a key of an object; None when there is none."""
    return next((_read_node(text, item.value) for item in node.items if item.key == key), None)


def _skip(text: str, at: int) -> int:
    found = GAP.match(text, at)
    return found.end() if found else at


def _read_node(text: str, at: int) -> Node:
    """Read the object or array that begins here."""
    if text[at : at + 1] not in ("{", "["):
        raise NotEditableError("it is not a mapping of names to values")
    node = Node(at)
    is_object = text[at] == "{"
    at = _skip(text, at + 1)
    while text[at : at + 1] not in ("}", "]", ""):
        start, key = at, ""
        if is_object:
            end = _value_end(text, at)
            key = json.loads(text[at:end])
            at = _skip(text, _skip(text, end) + 1)
        end = _value_end(text, at)
        node.items.append(_Item(key, start, at, end))
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    node.end = at
    return node


def _value_end(text: str, at: int) -> int:
    if text[at : at + 1] in ("{", "["):
        return _read_node(text, at).end + 1
    if not (found := (_STRING if text[at : at + 1] == '"' else _PLAIN).match(text, at)):
        raise NotEditableError("it is not JSON")
    return found.end()


def put_json(text: str, group: str, name: str, entry: Entry) -> str:
    """The text with the entry, in the place of the one it had or last in its group."""
    if GAP.fullmatch(text):
        return text + json.dumps({group: {name: entry}}, indent=2, ensure_ascii=False) + "\n"
    root = root_of(text)
    node = node_at(text, root, group)
    if node is None:
        return insert(text, root, group, {name: entry})
    if (before := next((item for item in node.items if item.key == name), None)) is None:
        return insert(text, node, name, entry)
    if _has_comment(text[before.value : before.end]):
        raise NotEditableError("there are comments within its entry")
    return text[: before.value] + _dumped(text, entry, _indent(text, before.start)) + text[before.end :]


def insert(text: str, node: Node, key: str, value: object) -> str:
    """Put an item behind the last one of an object or array, and behind the comments that follow it."""
    inside = text[node.start + 1 : node.end]
    last = node.start + 1 + len(inside.rstrip())
    label = f"{json.dumps(key, ensure_ascii=False)}: " if text[node.start] == "{" else ""
    if node.items and "\n" not in inside:
        tail = node.items[-1].end
        written = f"{label}{json.dumps(value, ensure_ascii=False)}"
        return f"{text[:tail]}, {written}{text[tail:]}"
    indent = _indent(text, node.items[-1].start) if node.items else _indent(text, node.start) + _unit(text)
    line = newline(text)
    item = f"{line}{indent}{label}{_dumped(text, value, indent)}"
    if not node.items:
        closing = "" if "\n" in inside[len(inside.rstrip()) :] else line + _indent(text, node.start)
        return text[:last] + item + closing + text[last:]
    tail = node.items[-1].end
    if text[_skip(text, tail)] == ",":
        return f"{text[:last]}{item},{text[last:]}"  # as the last one ends, so does this
    return f"{text[:tail]},{text[tail:last]}{item}{text[last:]}"


def drop_json(text: str, group: str, name: str) -> str:
    """The text without an entry that it has."""
    node = node_at(text, root_of(text), group)
    assert node is not None  # noqa: S101 - whoever asks found the entry in it
    return drop_item(text, node, next(i for i, item in enumerate(node.items) if item.key == name))


def drop_item(text: str, node: Node, index: int) -> str:
    """The text without one item of an object or array, and without the comma that it does not need then."""
    item = node.items[index]
    after = _skip(text, item.end)
    if index + 1 < len(node.items):
        start, end = item.start, node.items[index + 1].start
    elif index:
        tail = node.items[index - 1].end
        comma = text.index(",", _skip(text, tail))
        kept = text[comma + 1 : item.start].rstrip()
        if _has_comment(text[item.start : item.end]):
            raise NotEditableError("there are comments within its entry")
        if text[after] == ",":
            return text[: comma + 1] + kept + text[after + 1 :]
        return text[:comma] + kept + text[item.end :]
    else:
        start = node.start + 1 + len(text[node.start + 1 : item.start].rstrip())
        end = after + 1 if text[after] == "," else item.end
    if _has_comment(text[start:end]):
        raise NotEditableError("there are comments within or behind its entry")
    return text[:start] + text[end:]


def _has_comment(text: str) -> bool:
    return any(not found[0].startswith('"') for found in re.finditer(r'"(?:[^"\\]|\\.)*"|//|/\*', text))


def _dumped(text: str, value: object, indent: str) -> str:
    lines = json.dumps(value, ensure_ascii=False, indent=_unit(text)).split("\n")
    return f"{newline(text)}{indent}".join(lines)


def _indent(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


def _unit(text: str) -> str:
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return found[1] if found else "  "
