"""TOML and YAML as text: an entry is a block of lines, put in or taken out, and every other line left as it stands."""

import copy
import json
import re
from typing import cast

from nanodistill_mcp.cli.notations import Entry, NotEditableError, newline

_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")


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
    return "".join(lines[:start]) + written.replace("\n", newline(text)) + "".join(lines[end:])


def drop_toml(text: str, group: str, name: str) -> str:
    """The text without the entry's tables."""
    return _drop_block(text, _toml_block(text, group, name))


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


def put_toml(text: str, group: str, name: str, entry: Entry) -> str:
    """The text with the entry's tables, in the place of those it had or at the end."""
    written = toml_entry(group, name, entry)
    if block := _toml_block(text, group, name):
        return _replace_block(text, block, written)
    line = newline(text)
    gap = "" if not text else line if text.endswith("\n") else line * 2
    return text + gap + written.replace("\n", line)


def toml_entry(group: str, name: str, entry: Entry) -> str:
    """The entry's tables alone."""
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


def drop_yaml(text: str, group: str, name: str) -> str:
    """The text without the entry."""
    return _drop_block(text, _yaml_block(text, group, name))


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


def put_yaml(text: str, group: str, name: str, entry: Entry) -> str:
    """The text with the entry, in the place of the one it had or first in its group."""
    import yaml

    lines = _lines(text)
    header = next((n for n, line in enumerate(lines) if re.match(rf"{re.escape(group)}:\s*(#.*)?$", line)), None)
    follows = next((line for line in lines[header + 1 :] if line.strip()), "") if header is not None else ""
    indent = found[0] if (found := re.match(r" +", follows)) else "  "
    body: str = yaml.safe_dump(copy.deepcopy({name: entry}), sort_keys=False, allow_unicode=True, width=1000)
    written = "".join(f"{indent}{line}\n" for line in body.splitlines())
    if block := _yaml_block(text, group, name):
        return _replace_block(text, block, written)
    line = newline(text)
    if header is None:
        empty = next((n for n, each in enumerate(lines) if re.match(rf"{re.escape(group)}:\s*\{{\}}\s*$", each)), None)
        written = f"{group}:\n{written}".replace("\n", line)
        if empty is not None:
            return "".join(lines[:empty]) + written + "".join(lines[empty + 1 :])
        return text + ("" if not text or text.endswith("\n") else line) + written
    return "".join(lines[: header + 1]) + written.replace("\n", line) + "".join(lines[header + 1 :])
