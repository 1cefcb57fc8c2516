"""The numbers a user decides on, held against ones worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.pipeline import estimate
from nanodistill_mcp.pipeline.estimate import CPU, MAC, make_plan
from nanodistill_mcp.pipeline.plan import Request, check_request
from nanodistill_mcp.runs.records import Plan
from nanodistill_mcp.settings import Settings
from nanodistill_mcp.student.requests import StudentFacts
from nanodistill_mcp.teacher.preflight import TeacherFacts

COUNTS = {"solve": [1000], "input": [40], "output": [8], "policy": [2000], "generate": [1500]}


def _request(rows: int = 10, **further: Any) -> Request:
    seeds = [{"input": f"Message number {number} of a customer", "output": "billing"} for number in range(rows)]
    given: dict[str, Any] = {
        "name": "tickets",
        "instruction": "Sort.",
        "seed": seeds,
        "seed_path": "",
        "teacher": "claude-sonnet-5-5",
        "student": "org/student",
        "augment_factor": 11,
        "reasoning": "cot",
        "response_schema": {},
        "preset": "recommended",
        "options": {"held_out_split": 0},
        "budget_usd": 5.0,
    }
    return check_request(Settings.model_validate({"home": Path("/nowhere")}), **{**given, **further})


def _teacher(**further: Any) -> TeacherFacts:
    known: dict[str, Any] = {
        "model": "m",
        "provider": "p",
        "supports_schema": True,
        "key_variables": [],
        "missing_keys": [],
        "key_check": "advice",
        "usd_per_mtok_in": 2.0,
        "usd_per_mtok_out": 10.0,
        "price_known": True,
        "local": False,
        "max_output_tokens": 0,
        "retires_on": "",
        "host": "h",
        "warnings": [],
        "token_counts": COUNTS,
        "tokens_within": 0.0,
    }
    return TeacherFacts.model_validate({**known, **further})


STUDENT = StudentFacts(
    student="org/student",
    student_path=None,
    model_type="qwen3",
    parameters=4 * 10**9,
    bytes_on_disk=0,
    bytes_to_download=2 * 10**9,
    layers=36,
    max_position_embeddings=4096,
    has_chat_template=True,
    thinks_natively=False,
)


def _plan(request: Request | None = None, **teacher: Any) -> Plan:
    return make_plan(request or _request(), _teacher(**teacher), STUDENT, MAC)


def test_the_low_end_is_what_a_task_that_goes_well_comes_to() -> None:
    """Ten seeds to 110: 100 new ones, all accepted; written out by hand."""
    stages = _plan().by_stage

    assert stages["synthesize_cot"].calls.low == 10
    assert stages["synthesize_cot"].input_tokens.low == 10 * 1000
    assert stages["synthesize_cot"].output_tokens.low == 10 * (30 + 12 + 6)
    assert stages["extract_policy"].calls.low == 1
    solves, batches = 2 * 100, 13  # eight in a call
    shown = 3 * (40 + 30 + 8 + 20)  # solved seeds, beside every second solution
    amplify_in = solves * 1300 + 100 * shown + batches * 1800
    assert stages["amplify"].calls.low == solves + batches
    assert stages["amplify"].input_tokens.low == int(amplify_in)
    cost = stages["amplify"].cost_usd
    assert cost is not None
    tokens_out = solves * 48 + batches * 8 * 0.75 * 50
    assert cost.low == pytest.approx((2 * amplify_in + 10 * tokens_out) / 1e6, abs=1e-3)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        pytest.param({}, {"rows": 20}, id="more seeds"),
        pytest.param({}, {"augment_factor": 22}, id="more examples"),
        pytest.param({}, {"options": {"held_out_split": 0, "solutions_per_example": 3}}, id="more solutions"),
    ],
)
def test_more_work_costs_more(smaller: dict[str, Any], larger: dict[str, Any]) -> None:
    """Whoever compares two plans must be able to trust which is dearer."""
    less, more = _plan(_request(**smaller)), _plan(_request(**larger))
    assert less.cost_usd is not None
    assert more.cost_usd is not None
    for name in ("teacher_calls", "teacher_tokens", "cost_usd"):
        assert getattr(less, name).low < getattr(more, name).low, name
        assert getattr(less, name).high < getattr(more, name).high, name


def test_a_count_that_may_be_off_widens_both_ends() -> None:
    """LiteLLM counts Claude's tokens with another tokenizer than Anthropic bills by."""
    sure, unsure = _plan(), _plan(tokens_within=0.3)
    assert unsure.teacher_tokens.low == pytest.approx(0.7 * sure.teacher_tokens.low, rel=1e-3)
    assert unsure.teacher_tokens.high == pytest.approx(1.3 * sure.teacher_tokens.high, rel=1e-3)
    assert "right within 30%" in unsure.assumptions[0]


def test_a_teacher_that_thinks_unasked_is_dearer_and_says_so() -> None:
    """Its thinking is billed as output."""
    plain, thinking = _plan(), _plan(thinks_unasked=True)
    calls = plain.teacher_calls.low
    assert thinking.teacher_tokens.low == pytest.approx(plain.teacher_tokens.low + 100 * calls, rel=1e-3)
    assert any("thinks unasked" in told for told in thinking.assumptions)


def test_without_a_count_characters_stand_in_and_the_range_is_wider() -> None:
    """The calling agent as the teacher has no tokenizer that could be asked."""
    plan = _plan(token_counts={})
    assert "at four characters a token, right within 40%" in plan.assumptions[0]
    assert 0 < plan.teacher_tokens.low < plan.teacher_tokens.high


def test_an_unknown_price_leaves_the_tokens() -> None:
    """A dollar sum that nobody can know is not made up."""
    plan = _plan(usd_per_mtok_in=None, usd_per_mtok_out=None, price_known=False)
    assert plan.cost_usd is None
    assert all(stage.cost_usd is None for stage in plan.by_stage.values())
    assert plan.teacher_tokens.low > 0


def test_training_minutes_are_of_the_right_order_on_each_machine() -> None:
    """A 4B student on a Mac takes minutes to hours; on a CPU, days: better known before."""
    mac, cpu = (make_plan(_request(), _teacher(), STUDENT, machine).training_minutes for machine in (MAC, CPU))
    assert mac is not None
    assert cpu is not None
    assert 0.5 < mac.low < 15 < mac.high < 600
    assert cpu.low > 60
    assert _plan().disk_gb == pytest.approx(2 + 8 + 2.4 + 0.05)


def test_no_more_than_a_sample_of_many_seeds_is_counted() -> None:
    """Counting ten thousand inputs takes seconds of a user's time and changes nothing."""
    texts = estimate.texts_to_count(_request(rows=900))
    assert 100 <= len(texts["solve"]) <= estimate.SAMPLED_SEEDS
    assert all(text.count("Message number") == 1 for text in texts["solve"])


def test_a_teacher_that_is_the_student_is_warned_of() -> None:
    """A run of hours would end with a model that knows what it knew before; the commit a hub's model is pinned to makes no other one."""
    same = _request(teacher="mlx/org/student", student=f"org/student@{'a' * 40}")
    other = _request(teacher="mlx/org/larger")
    told = [any("same model" in line for line in _plan(request).warnings) for request in (same, other)]
    assert told == [True, False]
