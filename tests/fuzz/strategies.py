"""Arguments drawn from a tool's own schema: mostly of the shape it asks for, with texts that mean harm, and often of no shape at all."""

from dataclasses import dataclass
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel

from nanodistill_mcp.pipeline.recipe import PRESETS
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import TaskPolicy

ATTACKS = (
    *("", " ", "\0", "a\0b", "\x1b[31m", "\u202egnp", "\u2066x\u2069", "\U000e0041", "\ufeff", "\u2028"),
    *(
        "..",
        "../..",
        "../../etc/passwd",
        "/etc/passwd",
        "~root/.ssh/id_rsa",
        "file:///etc/passwd",
        "//x",
        "C:\\x",
        "/dev/zero",
    ),
    *("%2e%2e%2f", "made/../made", "made\n", "MADE", "con", "x" * 65, "-rf", "--help", "$(id)", "`id`", "; id", "|id"),
    *(
        "{{7*7}}",
        "{% for a in range(9**9) %}",
        "${7*7}",
        "%s%n",
        "{0.__class__}",
        "__proto__",
        "' OR 1=1 --",
        "<script>",
    ),
    *(
        "lineage/",
        "lineage/../x",
        "lineage/g0000-1",
        "compare/",
        "compare/made",
        "policies/compare/1..",
        "policies/compare/0..9999999999",
    ),
    *("NaN", "1e999", "null", "true", "[]", "{}", '{"a": 1}', "0x10", "१२"),
    *(
        "made",
        "seeds.jsonl",
        "run.json",
        "board.json",
        "examples.jsonl",
        "loss.png",
        "local",
        "host",
        "base",
        "student",
        "s0001",
        "g0000-1",
    ),
    *("9" * 400, "ß" * 300, "[" * 2000, "^(a+)+$"),
)
"""Texts that mean harm, or that a careless program takes for something else."""


@dataclass(frozen=True)
class Long:
    """A text of nearly a megabyte, which a failure shows in a line."""

    unit: str

    def made(self) -> str:
        """The text."""
        return self.unit * 400_000


@dataclass(frozen=True)
class Deep:
    """A value nested so deep."""

    depth: int

    def made(self) -> Any:
        """The value."""
        value: Any = "end"
        for _ in range(self.depth):
            value = {"a": [value]}
        return value


_LONG = st.sampled_from(["a", "\U0001f600", "{", "\\", '"', "\u0301", "a\n"]).map(Long)
_TEXT = st.one_of(
    st.sampled_from(ATTACKS),
    st.sampled_from(ATTACKS),
    st.text(max_size=20),
    st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Co"]), max_size=8),
)
_EDGES = (2**31, 2**63, -(2**63), 2**64, 10**30, 1e308, -1e308, 5e-324, 0.5, -0.0, float("nan"), float("inf"))
_NUMBER = st.one_of(st.integers(-3, 60), st.sampled_from(_EDGES))
_LEAF = st.one_of(_TEXT, _NUMBER, st.none(), st.booleans())


def _inner(children: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.lists(children, max_size=3) | st.dictionaries(_TEXT, children, max_size=3)


ANYTHING: SearchStrategy[Any] = st.one_of(
    _LEAF, st.recursive(_LEAF, _inner, max_leaves=6), st.sampled_from([10, 60, 100]).map(Deep), _LONG
)
"""A value of any shape JSON has, and some it has not."""


def valid(schema: dict[str, Any]) -> SearchStrategy[Any]:
    """Values that a schema takes, as far as it is of the kinds our tools use."""
    if "anyOf" in schema:
        return st.one_of([valid(each) for each in schema["anyOf"] if each.get("type") != "null"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "string":
            return _TEXT.map(lambda text: text[: schema.get("maxLength", 10**7)])
        case "integer":
            low, high = schema.get("minimum", -5), schema.get("maximum", 10**6)
            return st.one_of(st.integers(low, high), st.sampled_from([low, high]))
        case "number":
            low = schema.get("minimum", schema.get("exclusiveMinimum", -5))
            return st.floats(low, schema.get("maximum", max(low, 1e9)))
        case "boolean":
            return st.booleans()
        case "array":
            items = valid(schema.get("items", {}))
            return st.lists(items, min_size=schema.get("minItems", 0), max_size=min(schema.get("maxItems", 4), 4))
        case "object":
            return st.dictionaries(_TEXT, ANYTHING, max_size=3)
        case _:
            return ANYTHING


_SCHEMAS = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"enum": ["a", 1]},
            {"$ref": "#"},
            {"pattern": "^(a+)+$"},
            {"pattern": "("},
            {"minLength": 1e308},
        ]
    ),
    lambda inner: st.one_of(
        inner.map(lambda each: {"type": "object", "properties": {"a": each}}),
        st.lists(inner, max_size=2).map(lambda each: {"anyOf": each}),
        inner.map(lambda each: {"$defs": {"d": each}, "$ref": "#/$defs/d"}),
    ),
    max_leaves=3,
)


def _some_of(model: type[BaseModel]) -> SearchStrategy[dict[str, Any]]:
    """Some fields of a model, each of its own shape; now and then one that it does not know."""
    fields = model.model_json_schema()["properties"]
    right = st.fixed_dictionaries({}, optional={name: valid(each) for name, each in fields.items()})
    few = right.map(lambda given: dict(list(given.items())[:3]))
    return st.one_of(few, few, few, st.dictionaries(st.sampled_from(list(fields)) | _TEXT, ANYTHING, max_size=3))


def _mostly(right: SearchStrategy[Any], other: SearchStrategy[Any] = _TEXT) -> SearchStrategy[Any]:
    """The right thing nine times in ten."""
    return st.integers(0, 9).flatmap(lambda number: other if number == 9 else right)


_ROWS = st.lists(
    st.fixed_dictionaries({"input": st.text(min_size=1, max_size=9), "output": _TEXT}), min_size=3, max_size=6
)
_OPTIONS = _some_of(Options)
_IDS = st.sampled_from(["s0001", "s0002", "g0000-0", "g0000-1", "g0000-4", "nope"])
_EDITS = st.fixed_dictionaries({"id": _IDS}, optional={"input": _TEXT, "output": _TEXT, "thinking": _TEXT})
_ARTIFACTS = (
    *(
        "seeds.jsonl",
        "run.json",
        "calls.jsonl",
        "traces_cot.jsonl",
        "policy.json",
        "traces_amplified.jsonl",
        "rejected.jsonl",
    ),
    *(
        "board.json",
        "examples.jsonl",
        "lineage/s0001",
        "lineage/g0000-1",
        "compare/made",
        "policies/compare/1..1",
        "loss.png",
    ),
)

KNOWN: dict[str, SearchStrategy[Any]] = {
    "run_id": _mostly(st.just("made"), st.just("nope")),
    "name": _mostly(st.sampled_from(["new", "new", "new", "made", "Made"])),
    "confirm_name": st.sampled_from(["made", "", "nope"]),
    "artifact": _mostly(st.sampled_from(_ARTIFACTS)),
    "instruction": _mostly(st.just("Sort.")),
    "seed": _mostly(_ROWS, st.lists(st.dictionaries(st.sampled_from(["input", "output", "x"]), _LEAF), max_size=4)),
    "seed_path": _mostly(st.just("")),
    "teacher": _mostly(st.sampled_from(["", "local", "host", "gpt-4o"])),
    "student": _mostly(st.sampled_from(["", "someone/x", "/nowhere"])),
    "preset": st.sampled_from([*PRESETS, "nope"]),
    "options": _OPTIONS,
    "changes": st.fixed_dictionaries(
        {},
        optional={
            "options": _OPTIONS,
            "budget_usd": _mostly(st.floats(0, 20), _NUMBER),
            "instruction": _TEXT,
            "augment_factor": _mostly(st.integers(1, 50), _NUMBER),
            "teacher": _mostly(st.just("gpt-4o")),
        },
    ),
    "policy": _some_of(TaskPolicy),
    "caps": st.dictionaries(st.sampled_from(["max_calls", "max_total_tokens"]), st.integers(-1, 10**6), max_size=2),
    "response_schema": _mostly(st.just(dict[str, Any]()), _SCHEMAS),
    "drop": st.lists(_IDS, max_size=3),
    "approve": st.lists(_IDS, max_size=3),
    "edit": st.lists(_EDITS, max_size=3),
    "prompts": st.lists(_TEXT, min_size=1, max_size=3),
    "models": st.lists(st.sampled_from(["base", "student", "gguf", "teacher"]), min_size=1, max_size=3),
    "answers": st.lists(
        st.fixed_dictionaries({"task_id": _TEXT}, optional={"answer": _LEAF, "decline": _TEXT}), min_size=1, max_size=4
    ),
    "wait_s": st.just(0),
}
"""What gets further than the schema alone would: the names and rows that the code behind it looks for."""


def arguments_of(schema: dict[str, Any]) -> SearchStrategy[dict[str, Any]]:
    """Arguments for a tool: mostly of the right shape, often with one that is not, sometimes of no shape at all."""
    needed = set(schema.get("required", []))
    right = {name: KNOWN.get(name, valid(each)) for name, each in schema["properties"].items()}
    shaped = st.fixed_dictionaries(
        {name: each for name, each in right.items() if name in needed},
        optional={name: each for name, each in right.items() if name not in needed},
    )
    other = st.tuples(st.sampled_from(list(right)) | _TEXT, ANYTHING)
    one_wrong = st.tuples(shaped, other).map(lambda both: {**both[0], both[1][0]: both[1][1]})
    none_right = st.dictionaries(st.sampled_from(list(right)) | _TEXT, ANYTHING, max_size=4)
    return st.one_of(shaped, shaped, shaped, shaped, one_wrong, one_wrong, none_right)


def whole(drawn: Any) -> Any:
    """What was drawn, with the long and the deep in their places."""
    match drawn:
        case Long() | Deep():
            return drawn.made()
        case dict():
            return {name: whole(each) for name, each in cast("dict[str, Any]", drawn).items()}
        case list():
            return [whole(each) for each in cast("list[Any]", drawn)]
        case _:
            return drawn
