"""What is checked before a run exists, and what the run is told it will take."""

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.plan import check_schema, schema_check
from nanodistill_mcp.runs.records import Seed

SCHEMA = {
    "type": "object",
    "properties": {"queue": {"type": "string"}},
    "required": ["queue"],
    "additionalProperties": False,
}


def _seed(output: str) -> Seed:
    return Seed(id="s1", input="message", output=output, split="train")


def test_a_seed_that_does_not_keep_the_schema_is_named() -> None:
    """The student would be taught what the schema forbids."""
    with pytest.raises(UserInputError, match="The output of example 2 does not keep response_schema"):
        check_schema(SCHEMA, [_seed('{"queue": "billing"}'), _seed('{"queue": 1}')])


@pytest.mark.parametrize(
    ("output", "kept"), [('{"queue": "billing"}', True), ('{"queue": "billing", "x": 1}', False), ("billing", False)]
)
def test_a_generated_output_is_held_to_the_same_schema(output: str, *, kept: bool) -> None:
    """What the teacher generates is no better checked than the schema is applied."""
    assert schema_check(SCHEMA)(output) is kept
    assert schema_check({})(output)


def test_a_schema_that_is_none_is_refused() -> None:
    """Every output would keep it, or none."""
    with pytest.raises(UserInputError, match="is not a JSON Schema"):
        schema_check({"type": "objekt"})
