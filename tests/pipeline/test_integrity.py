"""A file that can still be read but is not what was written: told before anything is built on it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nanodistill_mcp.pipeline.restart import archive_from
from nanodistill_mcp.runs.records import Stage
from tests.conftest import ScriptedTeacher
from tests.pipeline.paid_run import PaidRun

pytestmark = pytest.mark.anyio

_ORDER: tuple[Stage, ...] = ("synthesize_cot", "extract_policy", "amplify")


def _letter_flipped(data: bytes) -> bytes:
    """One bit in the middle of a word, which leaves it a word."""
    at = data.index(b"the ") + 1
    return data[:at] + b"i" + data[at + 1 :]


def _last_line_gone(data: bytes) -> bytes:
    """Cut exactly at the end of a line, which no reader of lines can see."""
    return b"".join(data.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("name", "damage", "wrote", "further"),
    [
        ("traces_cot.jsonl", _letter_flipped, "synthesize_cot", "extract_policy"),
        ("policy.json", _letter_flipped, "extract_policy", "amplify"),
        ("traces_amplified.jsonl", _last_line_gone, "amplify", "plan_training"),
    ],
)
async def test_a_readable_damage_stops_the_next_stage_and_redoing_it_costs_nothing(
    name: str, damage: Callable[[bytes], bytes], wrote: Stage, further: Stage, home: Path, script: ScriptedTeacher
) -> None:
    """A flipped bit in a text breaks no rule of JSON; a student would learn it, and a teacher would be paid for it."""
    paid = PaidRun(home, script)
    for stage in _ORDER[: _ORDER.index(wrote) + 1] if further == "plan_training" else _ORDER[: _ORDER.index(further)]:
        await paid.summary(stage, target_size=10)
    path, asked = paid.run.paths.root / name, len(script.asked)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))

    ended = await paid.stage(further, target_size=10)

    assert (ended.outcome, ended.error_kind) == ("failed", "damaged")
    assert ended.what == f"{name} is not what {wrote} wrote: it was damaged, or changed by hand."
    assert f"call {wrote} with restart=true" in ended.next_step
    archive_from(paid.run, wrote)
    await paid.summary(wrote, target_size=10)
    assert (path.read_bytes(), len(script.asked)) == (whole, asked)


async def test_an_example_that_changed_under_the_run_stops_it_before_anything_is_asked(
    home: Path, script: ScriptedTeacher
) -> None:
    """The run is known by its examples; with others it would be another run."""
    paid = PaidRun(home, script)
    path = paid.run.paths.seeds
    whole = path.read_bytes()
    path.write_bytes(_last_line_gone(whole))
    ended = await paid.stage("synthesize_cot")
    assert (ended.error_kind, script.asked) == ("damaged", [])
    assert ended.what.startswith("The examples in seeds.jsonl or inputs.jsonl are not those the run was created with")
    path.write_bytes(whole)
    await paid.summary("synthesize_cot")


async def test_what_a_job_wrote_that_did_not_end_is_not_held_against_an_older_hash(
    home: Path, script: ScriptedTeacher
) -> None:
    """A worker killed after its last file and before its last word leaves a file that is right and a hash that is old."""
    paid = PaidRun(home, script)
    await paid.summary("synthesize_cot")
    archive_from(paid.run, "synthesize_cot")
    await paid.summary("synthesize_cot", samples=2)
    paid.run.paths.job_list()[-1].exit.unlink()
    await paid.summary("extract_policy")
