"""One entry of a client's configuration file: put in, taken out, and everything else left as it stands, byte for byte.

The files are edited as text, since a parser that writes them anew would lose comments, order and spacing. Each edit is
parsed again and must hold what was there and the entry, or it is not made.
"""

import copy
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Notation = Literal["json", "jsonc", "toml", "yaml"]
Entry = dict[str, Any]

_GAP = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_PLAIN = re.compile(r"[^\s,:\[\]{}\"/]+")
_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")


class NotEditableError(Exception):
    """The text cannot be changed without touching something else. Its words are ours and name nothing of the file."""


def parse(notation: Notation, text: str) -> Entry:
    """What a client reads from the text; an empty one is an empty configuration.

    Raises:
        NotEditableError: It is not in this notation, or not a mapping.
    """
    value: Any = {}
    try:
        match notation:
            case "json":
                value = json.loads(text) if text.strip() else {}
            case "jsonc":
                value = json.loads(_without_comments(text)) if _GAP.fullmatch(text) is None else {}
            case "toml":
                value = tomllib.loads(text)
            case "yaml":
                import yaml

                try:
                    value = yaml.safe_load(text) or {}
                except yaml.YAMLError as error:
                    raise ValueError from error
    except (ValueError, RecursionError):
        named = {"json": "plain JSON", "jsonc": "JSON with comments", "toml": "TOML", "yaml": "YAML"}[notation]
        raise NotEditableError(f"it is not {named}") from None
    if not isinstance(value, dict):
        raise NotEditableError("it is not a mapping of names to values")
    return cast("Entry", value)


def entry_of(notation: Notation, text: str, group: str, name: str) -> Entry | None:
    """The entry as it stands; None when there is none."""
    entries = parse(notation, text).get(group)
    entry = cast("Entry", entries).get(name) if isinstance(entries, dict) else None
    return cast("Entry", entry) if isinstance(entry, dict) else None


def put(notation: Notation, text: str, group: str, name: str, entry: Entry) -> str:
    """The text with the entry, in place of one of the same name.

    Raises:
        NotEditableError: Something else would change, or a comment would be lost.
    """
    wanted = parse(notation, text)
    entries = wanted.setdefault(group, {})
    if not isinstance(entries, dict):
        raise NotEditableError(f"its {group} is not a mapping")
    if cast("Entry", entries).get(name) == entry:
        return text
    cast("Entry", entries)[name] = entry
    editors: dict[Notation, Callable[[str, str, str, Entry], str]] = {"toml": _put_toml, "yaml": _put_yaml}
    return _checked(notation, editors.get(notation, _put_json)(text, group, name, entry), wanted)


def drop(notation: Notation, text: str, group: str, name: str) -> str:
    """The text without the entry.

    Raises:
        NotEditableError: Something else would change, or a comment would be lost.
    """
    wanted = parse(notation, text)
    if entry_of(notation, text, group, name) is None:
        return text
    del wanted[group][name]
    match notation:
        case "toml":
            edited = _drop_block(text, _toml_block(text, group, name))
            if not wanted[group]:
                del wanted[group]
        case "yaml":
            edited = _drop_block(text, _yaml_block(text, group, name))
            if not wanted[group]:
                wanted[group] = None
        case _:
            node = _node_at(text, _node(text, _skip(text, 0)), group)
            assert node is not None  # noqa: S101 - the entry was found in it
            edited = _drop_item(text, node, next(i for i, item in enumerate(node.items) if item.key == name))
    return _checked(notation, edited, wanted)


def put_input(text: str, item: Entry) -> str:
    """VS Code's text with one more question that it asks the user, where it does not ask it yet."""
    wanted = parse("jsonc", text)
    asked = wanted.setdefault("inputs", [])
    if any(each.get("id") == item["id"] for each in asked):
        return text
    asked.append(item)
    root = _node(text, _skip(text, 0))
    node = _node_at(text, root, "inputs")
    edited = _insert(text, root, "inputs", [item]) if node is None else _insert(text, node, "", item)
    return _checked("jsonc", edited, wanted)


def drop_input(text: str, item_id: str) -> str:
    """VS Code's text without a question."""
    wanted = parse("jsonc", text)
    ids = [each.get("id") for each in wanted.get("inputs", [])]
    if item_id not in ids:
        return text
    wanted["inputs"].pop(ids.index(item_id))
    node = _node_at(text, _node(text, _skip(text, 0)), "inputs")
    assert node is not None  # noqa: S101 - it was found in it
    return _checked("jsonc", _drop_item(text, node, ids.index(item_id)), wanted)


def render(notation: Notation, group: str, name: str, entry: Entry, **further: Any) -> str:
    """The entry alone, as a person would paste it."""
    match notation:
        case "toml":
            return _toml(group, name, entry)
        case "yaml":
            return _put_yaml("", group, name, entry)
        case _:
            return json.dumps({group: {name: entry}, **further}, indent=2, ensure_ascii=False) + "\n"


def _checked(notation: Notation, edited: str, wanted: Entry) -> str:
    try:
        if parse(notation, edited) == wanted:
            return edited
    except NotEditableError:
        pass
    raise NotEditableError("it is written in a way that this program cannot edit safely")


# --- JSON, with or without comments ---


@dataclass(frozen=True)
class _Item:
    key: str
    start: int
    value: int
    end: int


@dataclass
class _Node:
    """An object or an array in the text; ``end`` is where its closing bracket stands."""

    start: int
    end: int = 0
    items: list[_Item] = field(default_factory=list[_Item])


def _skip(text: str, at: int) -> int:
    found = _GAP.match(text, at)
    return found.end() if found else at


def _node(text: str, at: int) -> _Node:
    """Read the object or array that begins here."""
    if text[at : at + 1] not in ("{", "["):
        raise NotEditableError("it is not a mapping of names to values")
    node = _Node(at)
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
        return _node(text, at).end + 1
    if not (found := (_STRING if text[at : at + 1] == '"' else _PLAIN).match(text, at)):
        raise NotEditableError("it is not JSON")
    return found.end()


def _node_at(text: str, node: _Node, key: str) -> _Node | None:
    return next((_node(text, item.value) for item in node.items if item.key == key), None)


def _without_comments(text: str) -> str:
    tokens = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
    bare = tokens.sub(lambda found: found[1] or " ", text)
    return re.sub(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', lambda found: found[1] or "", bare)


def _put_json(text: str, group: str, name: str, entry: Entry) -> str:
    if _GAP.fullmatch(text):
        return text + render("json", group, name, entry)
    root = _node(text, _skip(text, 0))
    node = _node_at(text, root, group)
    if node is None:
        return _insert(text, root, group, {name: entry})
    if (before := next((item for item in node.items if item.key == name), None)) is None:
        return _insert(text, node, name, entry)
    if _has_comment(text[before.value : before.end]):
        raise NotEditableError("there are comments within its entry")
    return text[: before.value] + _dumped(text, entry, _indent(text, before.start)) + text[before.end :]


def _insert(text: str, node: _Node, key: str, value: object) -> str:
    """Put an item behind the last one of an object or array, and behind the comments that follow it."""
    inside = text[node.start + 1 : node.end]
    last = node.start + 1 + len(inside.rstrip())
    label = f"{json.dumps(key, ensure_ascii=False)}: " if text[node.start] == "{" else ""
    if node.items and "\n" not in inside:
        tail = node.items[-1].end
        written = f"{label}{json.dumps(value, ensure_ascii=False)}"
        return f"{text[:tail]}, {written}{text[tail:]}"
    indent = _indent(text, node.items[-1].start) if node.items else _indent(text, node.start) + _unit(text)
    line = _newline(text)
    item = f"{line}{indent}{label}{_dumped(text, value, indent)}"
    if not node.items:
        closing = "" if "\n" in inside[len(inside.rstrip()) :] else line + _indent(text, node.start)
        return text[:last] + item + closing + text[last:]
    tail = node.items[-1].end
    if text[_skip(text, tail)] == ",":
        return f"{text[:last]}{item},{text[last:]}"  # as the last one ends, so does this
    return f"{text[:tail]},{text[tail:last]}{item}{text[last:]}"


def _drop_item(text: str, node: _Node, index: int) -> str:
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
    return f"{_newline(text)}{indent}".join(lines)


def _indent(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


def _unit(text: str) -> str:
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return found[1] if found else "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


# --- TOML and YAML: an entry is a block of lines ---


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _drop_block(text: str, block: tuple[int, int] | None) -> str:
    if block is None:
        raise NotEditableError("its entry is not written as a block")
    lines = _lines(text)
    start, end = block
    if any(line.lstrip().startswith("#") for line in lines[start:end]):
        raise NotEditableError("there are comments within its entry")
    if end == len(lines) and start and not lines[start - 1].strip():
        start -= 1
    return "".join(lines[:start] + lines[end:])


def _replace_block(text: str, block: tuple[int, int], written: str) -> str:
    lines = _lines(text)
    start, end = block
    if any(line.lstrip().startswith("#") for line in lines[start:end]):
        raise NotEditableError("there are comments within its entry")
    return "".join(lines[:start]) + written.replace("\n", _newline(text)) + "".join(lines[end:])


def _toml_block(text: str, group: str, name: str) -> tuple[int, int] | None:
    own = re.compile(rf'\s*\[\s*"?{re.escape(group)}"?\s*\.\s*"?{re.escape(name)}"?\s*[.\]]')
    lines = _lines(text)
    headers = [number for number, line in enumerate(lines) if re.match(r"\s*\[", line)]
    mine = [number for number in headers if own.match(lines[number])]
    if not mine:
        return None
    end = next((number for number in headers if number > mine[-1]), len(lines))
    while end > mine[-1] + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1  # what stands before the next header belongs to it
    return mine[0], end


def _put_toml(text: str, group: str, name: str, entry: Entry) -> str:
    written = _toml(group, name, entry)
    if block := _toml_block(text, group, name):
        return _replace_block(text, block, written)
    line = _newline(text)
    gap = "" if not text else line if text.endswith("\n") else line * 2
    return text + gap + written.replace("\n", line)


def _toml(group: str, name: str, entry: Entry) -> str:
    tables = {key: cast("Entry", value) for key, value in entry.items() if isinstance(value, dict)}
    lines = [f"[{group}.{_toml_key(name)}]"]
    lines += [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in entry.items() if key not in tables]
    for key, table in tables.items():
        lines += ["", f"[{group}.{_toml_key(name)}.{_toml_key(key)}]"]
        lines += [f"{_toml_key(inner)} = {_toml_value(value)}" for inner, value in table.items()]
    return "\n".join(lines) + "\n"


def _toml_key(key: str) -> str:
    return key if _NAME.match(key) else json.dumps(key)


def _toml_value(value: object) -> str:
    match value:
        case bool() | int() | float() | str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{', '.join(_toml_value(each) for each in cast('list[object]', value))}]"
        case _:
            raise NotEditableError("its entry holds what this program does not write")


def _yaml_block(text: str, group: str, name: str) -> tuple[int, int] | None:
    lines = _lines(text)
    inside = False
    for number, line in enumerate(lines):
        if re.match(r"\S", line) and not line.startswith("#"):
            inside = re.match(rf"{re.escape(group)}:\s*(#.*)?$", line) is not None
        elif inside and (found := re.match(rf"([ ]+){re.escape(name)}:\s*$", line)):
            depth = len(found[1])
            end = number + 1
            while end < len(lines) and (not lines[end].strip() or re.match(rf" {{{depth + 1},}}", lines[end])):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
            return number, end
    return None


def _put_yaml(text: str, group: str, name: str, entry: Entry) -> str:
    import yaml

    lines = _lines(text)
    header = next((n for n, line in enumerate(lines) if re.match(rf"{re.escape(group)}:\s*(#.*)?$", line)), None)
    follows = next((line for line in lines[header + 1 :] if line.strip()), "") if header is not None else ""
    indent = found[0] if (found := re.match(r" +", follows)) else "  "
    body: str = yaml.safe_dump(copy.deepcopy({name: entry}), sort_keys=False, allow_unicode=True, width=1000)
    written = "".join(f"{indent}{line}\n" for line in body.splitlines())
    if block := _yaml_block(text, group, name):
        return _replace_block(text, block, written)
    line = _newline(text)
    if header is None:
        empty = next((n for n, each in enumerate(lines) if re.match(rf"{re.escape(group)}:\s*\{{\}}\s*$", each)), None)
        written = f"{group}:\n{written}".replace("\n", line)
        if empty is not None:
            return "".join(lines[:empty]) + written + "".join(lines[empty + 1 :])
        return text + ("" if not text or text.endswith("\n") else line) + written
    return "".join(lines[: header + 1]) + written.replace("\n", line) + "".join(lines[header + 1 :])
