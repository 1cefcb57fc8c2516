"""What is checked before a run exists, and what the run is told it will take."""

from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.checking import from_seeds
from nanodistill_mcp.pipeline.plan import (
    Request,
    check_student,
    input_warnings,
    target_of,
    unsent_options,
)
from nanodistill_mcp.pipeline.response_schemas import check_schema, schema_check
from nanodistill_mcp.runs.options import Options, set_options
from nanodistill_mcp.runs.records import Seed
from nanodistill_mcp.settings import TeacherEndpoint, load_settings
from nanodistill_mcp.teacher.preflight import host_facts
from tests.runs.made import manifest

SCHEMA = {
    "type": "object",
    "properties": {"queue": {"type": "string"}},
    "required": ["queue"],
    "additionalProperties": False,
}


def _seed(output: str) -> Seed:
    return Seed(id="s1", input="message", output=output, split="train", labelled=bool(output))


def _request(seeds: list[Seed], inputs: int = 0, **options: Any) -> Request:
    chosen = Options(**options)
    spec = manifest(augment_factor=5, options=set_options(chosen)).spec
    endpoint = TeacherEndpoint(name="local", model="openai/desk")
    return Request("r", spec, chosen, seeds, endpoint, "/student", [f"input {i}" for i in range(inputs)], {})


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


def test_an_unanswered_seed_is_not_held_to_the_schema() -> None:
    """The teacher's answer is, once it is there."""
    check_schema(SCHEMA, [_seed(""), _seed('{"queue": "billing"}')])


def test_the_checker_is_inferred_from_what_was_answered() -> None:
    """An empty output says nothing of the form of answers, and no output at all says least."""
    assert from_seeds("Add.", [_seed("1"), _seed(""), _seed("2")], {}).checker == "numeric"
    assert from_seeds("Add.", [_seed(""), _seed("")], {}).checker == "normalized"


def test_raw_inputs_count_towards_the_target_and_alone_they_are_the_target() -> None:
    """500 tickets need no synthetic text."""
    seeds = [_seed("a")] * 10
    assert target_of(_request(seeds, inputs=500)) == 50
    assert target_of(_request(seeds, inputs=500, inputs_path="/in.txt", inputs_only=True)) == 510


def test_the_user_is_told_what_the_teacher_will_answer_and_what_cannot_be_proved() -> None:
    """Before anything is paid: a student held only against its teacher is no proof."""
    held_out = Seed(id="h", input="i", output="o", split="held_out")
    assert input_warnings(_request([_seed("a"), held_out])) == []
    (mixed,) = input_warnings(_request([_seed("a"), _seed(""), held_out]))
    assert mixed.startswith("1 of 3 examples have no output: the teacher answers each twice")
    raw = input_warnings(_request([_seed("")] * 3))
    assert len(raw) == 2
    assert "the student can only be held against the teacher's own answers" in raw[1]
    assert "options.test_path" in raw[1]
    (beyond,) = input_warnings(_request([_seed("a"), held_out], inputs=10))
    assert beyond.startswith("6 of 10 inputs are beyond the target of 5 examples: raise augment_factor")


def test_an_option_the_teacher_does_not_take_is_named_before_anything_is_paid() -> None:
    """It is left out of every request, and who asked for it should not wonder at the answers."""
    facts = host_facts().model_copy(update={"model": "m", "not_taken": ["temperature", "top_p"]})

    assert unsent_options(_request([_seed("a")], temperature=0.7), facts) == [
        "temperature: not sent, because 'm' takes none."
    ]
    assert unsent_options(_request([_seed("a")]), facts) == []
    assert unsent_options(_request([_seed("a")], temperature=0.7), host_facts()) == []


def test_only_the_students_that_are_allowed_may_be_fetched_once_some_are_named(tmp_path: Path) -> None:
    """Whoever answers for a machine decides whose models it loads."""
    named = load_settings(tmp_path, env={"NANODISTILL_ALLOWED_STUDENTS": "mlx-community:Qwen/Qwen3-0.6B"})
    for student in ("mlx-community/anything", "Qwen/Qwen3-0.6B"):
        assert check_student(student, named) == student
    for student in ("Qwen/Qwen3-4B", "evil/mlx-community", "mlx-community-evil/x", "qwen"):
        with pytest.raises(UserInputError, match="not among those this server may use") as refused:
            check_student(student, named)
        assert "mlx-community, Qwen/Qwen3-0.6B" in refused.value.next_step
    assert check_student("evil/x", load_settings(tmp_path, env={})) == "evil/x"
