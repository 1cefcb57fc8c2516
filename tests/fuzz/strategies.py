"""Arguments drawn from a tool's own schema: mostly of the shape it asks for, with texts that mean harm, and often of no shape at all."""

from dataclasses import dataclass
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nanodistill_mcp.pipeline.clone import CHANGEABLE
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

_ROW = st.dictionaries(st.sampled_from(["input", "output", "id", "thinking", "x"]), _LEAF, max_size=4)
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
_OPTIONS = st.dictionaries(st.sampled_from([*Options.model_fields, "mlx_lm", "r", "lr"]) | _TEXT, ANYTHING, max_size=4)

KNOWN: dict[str, SearchStrategy[Any]] = {
    "run_id": st.sampled_from(["made", "made", "made", "nope"]) | _TEXT,
    "name": st.sampled_from(["made", "new", "Made"]) | _TEXT,
    "confirm_name": st.sampled_from(["made", "", "nope"]) | _TEXT,
    "seed": st.lists(st.fixed_dictionaries({"input": _TEXT, "output": _TEXT}) | _ROW | ANYTHING, max_size=6),
    "options": _OPTIONS,
    "changes": st.dictionaries(st.sampled_from(CHANGEABLE) | _TEXT, _OPTIONS | ANYTHING, max_size=3),
    "policy": st.dictionaries(st.sampled_from([*TaskPolicy.model_fields]) | _TEXT, ANYTHING, max_size=3),
    "caps": st.dictionaries(st.sampled_from(["max_calls", "max_total_tokens"]) | _TEXT, _NUMBER, max_size=3),
    "response_schema": _SCHEMAS | st.dictionaries(_TEXT, ANYTHING, max_size=3),
    "edit": st.lists(
        st.fixed_dictionaries({"id": _TEXT}, optional={"input": _TEXT, "output": _TEXT}) | _ROW | ANYTHING, max_size=3
    ),
    "answers": st.lists(
        st.fixed_dictionaries({"task_id": _TEXT}, optional={"answer": ANYTHING, "decline": _TEXT}) | ANYTHING,
        max_size=4,
    ),
}
"""What gets further than the schema alone would: the names and rows that the code behind it looks for."""


def valid(schema: dict[str, Any]) -> SearchStrategy[Any]:
    """Values that a schema takes, as far as it is of the kinds our tools use."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "string":
            return _TEXT.map(lambda text: text[: schema.get("maxLength", 10**7)])
        case "integer":
            low, high = schema.get("minimum", -5), schema.get("maximum", 10**6)
            return st.one_of(st.integers(low, high), st.sampled_from([low, high]))
        case "number":
            return st.floats(schema.get("minimum", -5), schema.get("maximum", 1e9))
        case "boolean":
            return st.booleans()
        case "array":
            items = schema.get("items", {})
            return st.lists(
                valid(items), min_size=schema.get("minItems", 0), max_size=min(schema.get("maxItems", 4), 4)
            )
        case "object":
            return st.dictionaries(_TEXT, ANYTHING, max_size=3)
        case _:
            return ANYTHING


def arguments_of(schema: dict[str, Any]) -> SearchStrategy[dict[str, Any]]:
    """Arguments for a tool: what it needs nearly always, of the right shape mostly, and now and then a name it does not know."""
    needed = set(schema.get("required", []))
    mostly: dict[str, Any] = {}
    sometimes: dict[str, Any] = {}
    for name, each in schema["properties"].items():
        right = KNOWN.get(name, valid(each))
        value = st.one_of(right, right, right, ANYTHING)
        (mostly if name in needed else sometimes)[name] = value
    full = st.fixed_dictionaries(mostly, optional=sometimes)
    less = st.fixed_dictionaries({}, optional={**mostly, **sometimes})
    more = st.tuples(full, st.dictionaries(_TEXT, ANYTHING, max_size=2)).map(lambda both: {**both[1], **both[0]})
    return st.one_of(full, full, full, less, more)


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
