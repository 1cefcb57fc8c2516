"""One entry of a client's configuration file: put in, taken out, and everything else left as it stands, byte for byte.

The files are edited as text, since a parser that writes them anew would lose comments, order and spacing. Each edit is
parsed again and must hold what was there and the entry, or it is not made.
"""

import json
from collections.abc import Callable
from typing import Any, cast

from nanodistill_mcp.cli.block_text import drop_toml, drop_yaml, put_toml, put_yaml, toml_entry
from nanodistill_mcp.cli.json_text import drop_item, drop_json, insert, node_at, put_json, root_of
from nanodistill_mcp.cli.notations import Entry, Notation, NotEditableError, parse


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
    editors: dict[Notation, Callable[[str, str, str, Entry], str]] = {"toml": put_toml, "yaml": put_yaml}
    return _checked(notation, editors.get(notation, put_json)(text, group, name, entry), wanted)


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
            edited = drop_toml(text, group, name)
            if not wanted[group]:
                del wanted[group]
        case "yaml":
            edited = drop_yaml(text, group, name)
            if not wanted[group]:
                wanted[group] = None
        case _:
            edited = drop_json(text, group, name)
    return _checked(notation, edited, wanted)


def put_input(text: str, item: Entry) -> str:
    """VS Code's text with one more question that it asks the user, where it does not ask it yet."""
    wanted = parse("jsonc", text)
    asked = wanted.setdefault("inputs", [])
    if any(each.get("id") == item["id"] for each in asked):
        return text
    asked.append(item)
    root = root_of(text)
    node = node_at(text, root, "inputs")
    edited = insert(text, root, "inputs", [item]) if node is None else insert(text, node, "", item)
    return _checked("jsonc", edited, wanted)


def drop_input(text: str, item_id: str) -> str:
    """VS Code's text without a question."""
    wanted = parse("jsonc", text)
    ids = [each.get("id") for each in wanted.get("inputs", [])]
    if item_id not in ids:
        return text
    wanted["inputs"].pop(ids.index(item_id))
    node = node_at(text, root_of(text), "inputs")
    assert node is not None  # noqa: S101 - it was found in it
    return _checked("jsonc", drop_item(text, node, ids.index(item_id)), wanted)


def render(notation: Notation, group: str, name: str, entry: Entry, **further: Any) -> str:
    """The entry alone, as a person would paste it."""
    match notation:
        case "toml":
            return toml_entry(group, name, entry)
        case "yaml":
            return put_yaml("", group, name, entry)
        case _:
            return json.dumps({group: {name: entry}, **further}, indent=2, ensure_ascii=False) + "\n"


def _checked(notation: Notation, edited: str, wanted: Entry) -> str:
    try:
        if parse(notation, edited) == wanted:
            return edited
    except NotEditableError:
        pass
    raise NotEditableError("it is written in a way that this program cannot edit safely")
