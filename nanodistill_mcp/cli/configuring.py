"""``nanodistill-mcp config show``: every value of the configuration, and where it is from. Secrets are told apart, never shown."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from rich.console import Console
from rich.table import Table

from nanodistill_mcp.runs.secrets import redacted
from nanodistill_mcp.runs.texts import clean
from nanodistill_mcp.serving.listening import TOKEN_VARIABLE
from nanodistill_mcp.settings import Settings, load_settings

HIDDEN = "********"


class Value(NamedTuple):
    """One value under its dotted name."""

    name: str
    value: Any
    origin: str


def show_configuration(home: Path, *, form: str = "", home_is_given: bool = False) -> int:
    """Print the configuration: for a person, as ``json``, or as a ``yaml`` that is a configuration file again."""
    settings = load_settings(home)
    home_from = "command line" if home_is_given else "environment" if os.environ.get("NANODISTILL_HOME") else "default"
    found = [Value("home", str(home), home_from), *values(settings)]
    match form:
        case "json":
            print(json.dumps([value._asdict() for value in found], indent=2, ensure_ascii=False))
        case "yaml":
            print(snapshot(settings), end="")
        case _:
            _tell(found)
    return 0


def values(settings: Settings) -> list[Value]:
    """Every value by its dotted name; of a secret, that it is set."""
    found = [Value(name, value, settings.origin(name)) for name, value in _leaves(_dumped(settings))]
    for name, endpoint in settings.teachers.items():
        if variable := endpoint.api_key_env:
            state, where = (HIDDEN, "environment") if os.environ.get(variable) else ("not set", "default")
            found.append(Value(f"teachers.{name}: the key in {variable}", state, where))
    if os.environ.get(TOKEN_VARIABLE):
        found.append(Value(TOKEN_VARIABLE, HIDDEN, "environment"))
    elif (settings.home / "http_token").exists():
        found.append(Value("http_token", HIDDEN, "file"))
    return found


def snapshot(settings: Settings) -> str:
    """What was given, as a configuration file that gives it again; keys are in none, only the names of their variables."""
    import yaml

    given = settings.model_dump(mode="json", exclude={"home", "origins"}, exclude_unset=True, exclude_defaults=True)
    text: str = yaml.safe_dump(given, sort_keys=False, allow_unicode=True) if given else ""
    return "# `nanodistill-mcp config show --yaml`; what is not here has its default\n" + redacted(text)


def _dumped(settings: Settings) -> dict[str, Any]:
    of_teachers = {name: {"name", "overrides"} for name in settings.teachers}
    plain = settings.model_dump(mode="json", exclude={"home": True, "origins": True, "teachers": of_teachers})
    for name, endpoint in settings.teachers.items():
        if overrides := endpoint.overrides.model_dump(mode="json", exclude_unset=True):
            plain["teachers"][name]["overrides"] = overrides
    plain["models"] = {
        name: known.model_dump(mode="json", exclude_unset=True) for name, known in settings.models.items()
    }
    return plain


def _leaves(mapping: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from _leaves(cast("dict[str, Any]", value), f"{above}{name}.")
        else:
            yield f"{above}{name}", redacted(value) if isinstance(value, str) else value


def _tell(found: list[Value]) -> None:
    rows = [(clean(name), clean(_in_words(value)), origin) for name, value, origin in found]
    if sys.stdout.isatty():
        table = Table("Name", "Value", "From")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    for name, value, origin in rows:
        print(f"{name} = {value}  ({origin})")


def _in_words(value: Any) -> str:
    match value:
        case None | "" | [] | {}:
            return "-"
        case list():
            return ", ".join(str(part) for part in cast("list[object]", value))
        case _:
            return redacted(str(value))
