"""What form answers have, seen from the given ones."""

import json
from typing import Any

import jsonschema
import pytest

from nanodistill_mcp.pipeline.answers import is_pattern, matches, tidy
from nanodistill_mcp.pipeline.inference import infer_checker, infer_pattern, infer_schema


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        (["AB-1234", "XY-0001", "QQ-9999"], r"[A-Z]{2}\-\d{4}"),
        (["2024-05-01", "1999-12-31", "2000-01-01"], r"\d{4}\-\d{2}\-\d{2}"),
        (["v1.2.3", "v10.0.12", "v2.13.0"], r"[a-z]\d{1,2}\.\d{1,2}\.\d{1,2}"),
        (["Ä1", "ö2", "é3"], r"\p{L}\d"),
        (["AB-1234", "XY-0001"], ""),
        (["AB-1234", "XY 0001", "QQ-9999"], ""),
        (["AB-1234", "1234-AB", "QQ-9999"], ""),
        (["red", "green", "blue"], ""),
    ],
)
def test_codes_share_a_pattern_and_words_do_not(outputs: list[str], pattern: str) -> None:
    """An order number that has another shape is no order number."""
    assert infer_pattern(outputs) == pattern
    assert all(matches(pattern, output) for output in outputs)


def test_a_pattern_holds_for_the_whole_answer() -> None:
    """A sentence around the code is not the code."""
    assert matches(r"[A-Z]{2}\-\d{4}", " AB-1234\n")
    assert not matches(r"[A-Z]{2}\-\d{4}", "It is AB-1234.")
    assert not matches(r"[A-Z]{2}\-\d{4}", "AB-12345")


def test_a_pattern_that_takes_forever_is_no_match_and_one_that_is_none_is_told() -> None:
    """A user may edit the pattern; a stage must not hang on it."""
    assert not matches(r"(a|aa)+(b|bb)+(c|cc)+\1\2\3!", "a" * 40 + "b" * 40 + "c" * 40)
    assert is_pattern(r"\d+")
    assert not is_pattern("(")


@pytest.mark.parametrize(
    ("outputs", "checker"),
    [
        (["AB-1234", "XY-0001", "QQ-9999"], "regex"),
        (["A short one", "Another one"], "normalized"),
        (["The parcel was sent on Monday and came on Friday, a day late.", "Yes"], "judge"),
        (['{"a": 1}', '{"a": 2}'], "json"),
    ],
)
def test_long_free_text_is_judged_and_short_text_compared(outputs: list[str], checker: str) -> None:
    """Two good summaries never agree word for word; asking the teacher about two labels would be money for nothing."""
    assert infer_checker(outputs)[0] == checker


def test_a_schema_is_what_the_given_objects_share() -> None:
    """A generated answer with another key is not of the task."""
    schema = infer_schema(['{"name": "a", "age": 3}', '{"name": "b", "age": 4.5, "tags": []}'])

    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    def keeps(value: Any) -> bool:
        return validator.is_valid(value)  # pyright: ignore[reportUnknownMemberType]

    assert keeps({"name": "c", "age": 1, "tags": ["x"]})
    assert not keeps({"name": "c"})
    assert not keeps({"name": "c", "age": "old"})
    assert not keeps({"name": "c", "age": 1, "mood": "good"})
    assert infer_schema(["[1]", "[2]"]) == {}


def test_empty_fields_go_unless_the_schema_wants_them() -> None:
    """A teacher fills every field it is shown; a student should not learn to write empty ones."""
    schema: dict[str, Any] = {"properties": {"name": {}, "note": {}}, "required": ["name"]}
    answer = json.dumps({"name": "", "note": "", "list": [{"x": None, "y": 0}], "done": False})

    assert json.loads(tidy(answer, schema)) == {"name": "", "list": [{"y": 0}], "done": False}
    assert tidy(" not json ", schema) == "not json"
