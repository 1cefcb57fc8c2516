"""A value that was read somehow, made to fit the shape of an answer: by field names, item by item, as far as it goes.

A paid answer is not thrown away for a number where a text belongs, a wrapper around it, or one bad item among ten. What
cannot be made to fit without inventing something does not fit.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from nanodistill_mcp.teacher.loose_json import PartialList, PartialObject, values_in

_A = TypeVar("_A", bound=BaseModel)

SYNONYMS: dict[str, tuple[str, ...]] = {
    "solution": ("workedsolution", "reasoning", "thinking", "explanation", "steps", "rationale", "stepbystep"),
    "answer": ("finalanswer", "output", "response", "result"),
    "input": ("question", "prompt", "problem"),
    "output": ("answer", "response", "expectedoutput", "result"),
}
"""Other words for a field, taken where its own name is missing and no other field goes by them."""

AS_JSON = ("answer", "output")
"""Fields whose text may itself be JSON: a list given there stays one."""

_WRAPPERS_DEEP = 3
_MISSING: Any = object()
_ITEM = re.compile(r"[ \t]*(?:[-*\u2022+]|\(?\d{1,3}[.)])[ \t]+")


def fit(answer_type: type[_A], found: Iterable[Any]) -> _A | None:
    """The answer among values: for a list, the good items of all of them; else the last value that fits."""
    values = list(found)
    if (only := list_field(answer_type)) is not None:
        name, item = only
        items = [each for value in values for each in _items(name, item, value, 0)]
        return _validated(answer_type, {name: items}) if items else None
    fitting = (_fitted(answer_type, value, 0) for value in reversed(values))
    return next((value for value in fitting if value is not None), None)


@cache
def list_field(answer_type: type[BaseModel]) -> tuple[str, Any] | None:
    """The name and the item type of a shape that is nothing but one list."""
    if len(answer_type.model_fields) != 1:
        return None
    ((name, field),) = answer_type.model_fields.items()
    return (name, get_args(field.annotation)[0]) if get_origin(field.annotation) is list else None


@cache
def labels_of(answer_type: type[BaseModel], *, synonyms: bool) -> Mapping[str, str]:
    """What a field may be called, to its name."""
    labels = {plain(name): name for name in answer_type.model_fields}
    if synonyms:
        for name in answer_type.model_fields:
            for other in SYNONYMS.get(name, ()):
                labels.setdefault(other, name)
    return labels


def plain(name: str) -> str:
    """A name without case, spaces and marks."""
    return re.sub(r"[\W_]+", "", name.casefold())


def is_shape(annotation: Any) -> bool:
    """Whether a type is a shape of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fitted(answer_type: type[_A], value: Any, depth: int) -> _A | None:
    """The answer in a mapping, or in what a mapping wraps: a shape's name, a tool call's arguments."""
    if not isinstance(value, dict):
        return None
    mapping = cast("dict[str, Any]", value)
    given = _named(answer_type, mapping)
    if given and (answer := _validated(answer_type, given)) is not None:
        return answer
    if depth == _WRAPPERS_DEEP:
        return None
    inside = (_fitted(answer_type, part, depth + 1) for value in mapping.values() for part in _opened(value))
    return next((answer for answer in inside if answer is not None), None)


def _named(answer_type: type[BaseModel], mapping: dict[str, Any]) -> dict[str, Any]:
    """The mapping's values under the names of the fields they belong to."""
    own, others = labels_of(answer_type, synonyms=False), labels_of(answer_type, synonyms=True)
    given: dict[str, Any] = {}
    for labels in (own, others):
        for key, value in mapping.items():
            name = labels.get(plain(key))
            if name and name not in given:
                coerced = coerce(answer_type.model_fields[name].annotation, value, name)
                if coerced is not _MISSING:
                    given[name] = coerced
    return given


def _validated(answer_type: type[_A], given: dict[str, Any]) -> _A | None:
    try:
        return answer_type.model_validate(given)
    except ValidationError:
        return None


def _items(name: str, item: Any, value: Any, depth: int) -> list[Any]:
    """The good items of a list, of what holds one, or of what is one."""
    if isinstance(value, list):
        return [each for part in cast("list[Any]", value) for each in _items(name, item, part, depth + 1)]
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        for key, part in mapping.items():
            if plain(key) == plain(name):
                items = _coerced_list(item, part)
                return [] if items is _MISSING else items
        if is_shape(item) and (one := _validated(item, _named(item, mapping))) is not None:
            return [one]
        if not is_shape(item) and len(mapping) == 1 and isinstance(next(iter(mapping.values())), str):
            return _items(name, item, next(iter(mapping.values())), depth)
        if depth == _WRAPPERS_DEEP:
            return []
        return [
            each
            for value in mapping.values()
            for part in _opened(value)
            for each in _items(name, item, part, depth + 1)
        ]
    return [value] if item is str and isinstance(value, str) and value.strip() else []


def _opened(value: Any) -> list[Any]:
    """A wrapped value, also where it was written into a text."""
    if isinstance(value, str):
        return values_in(value) if value.lstrip()[:1] in ("{", "[") else []
    return [value] if isinstance(value, dict | list) else []


def coerce(annotation: Any, value: Any, name: str) -> Any:
    """A value as a field of this type wants it; a marker when nothing of it would fit."""
    origin = get_origin(annotation)
    if isinstance(value, PartialList | PartialObject) and not is_shape(annotation):
        return _MISSING  # half a value is another value
    if origin is Literal:
        options = {plain(str(option)): option for option in get_args(annotation)}
        return options.get(plain(str(value)), _MISSING)
    if origin is list:
        return _coerced_list(get_args(annotation)[0], value)
    if is_shape(annotation):
        fitting = _fitted(annotation, value, 0)
        return _MISSING if fitting is None else fitting
    if annotation is str:
        return _text(value, name)
    return value


def _coerced_list(item: Any, value: Any) -> Any:
    if isinstance(value, str):
        if value.lstrip()[:1] == "[" and (found := values_in(value)) and isinstance(found[0], list):
            parts: list[Any] = cast("list[Any]", found[0])
        elif item is int:
            parts = re.findall(r"\d{1,9}", value)
        elif item is str:
            parts = split_items(value)
        else:
            parts = values_in(value)
    elif isinstance(value, list):
        parts = cast("list[Any]", value)
    else:
        return _MISSING
    coerced = [coerce(item, part, "") for part in parts]
    kept = [part for part in coerced if part is not _MISSING and part != ""]
    return kept if kept or not parts else _MISSING


def split_items(text: str) -> list[str]:
    """The entries of a list written in lines; continued lines belong to the entry before them."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not any(_ITEM.match(line) for line in lines):
        return [line.strip() for line in lines]
    entries: list[str] = []
    for line in lines:
        if mark := _ITEM.match(line):
            entries.append(line[mark.end() :].strip())
        elif entries:
            entries[-1] += "\n" + line.strip()
    return entries


def _text(value: Any, name: str) -> Any:
    match value:
        case None:
            return _MISSING
        case str():
            return value
        case list() if name not in AS_JSON and all(isinstance(part, str) for part in cast("list[Any]", value)):
            return "\n".join(cast("list[str]", value))
        case _:
            return json.dumps(value, ensure_ascii=False)
