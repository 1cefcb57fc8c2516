"""T1, T2, T11: no file is read, sent or shown because somebody named it, or put a link where a file was."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.runs.store import RunStore
from tests.conftest import said
from tests.runs.made import make_run
from tests.threats.conftest import SEEDS, Attack, Attacker
from tests.threats.secret_files import CANARY, SECRET_FILES, write

_NAMED_IN = ("seed_path", "test_path", "inputs_path")


def _naming(path: Path, argument: str) -> dict[str, Any]:
    if argument == "seed_path":
        return {"seed": [], "seed_path": str(path)}
    return {"options": {argument: str(path)}}


_READ = "The budget of $1000"
"""What a call with this budget is refused for once every file of it was read and found right."""


async def _is_not_read(attacker: Attacker, path: Path, argument: str) -> None:
    told = await attacker.refused(attacker.create(**_naming(path, argument), budget_usd=1000))
    assert not told.startswith(_READ), (path, argument)


async def test_no_secret_file_reaches_a_run_or_the_teacher_even_from_an_allowed_directory(attack: Attack) -> None:
    """Forty-three files as programs really write them, in each of the arguments that name a file."""
    async with attack() as attacker:
        for name, content in SECRET_FILES.items():
            path = write(attacker.allowed, name, content)
            for argument in _NAMED_IN:
                await _is_not_read(attacker, path, argument)
            await attacker.refused(attacker.call("evaluate", run_id="r", test_path=str(path)))
        assert attacker.teacher.asked == []
        assert RunStore(attacker.home).names() == []
        assert attacker.holds(CANARY) == []


async def test_of_rows_that_were_set_aside_nothing_is_kept_but_where_they_stood(attack: Attack) -> None:
    """They are not examples: whatever they are, no file of the run and no answer has it."""
    seed = [*SEEDS, {"input": CANARY, "secret": CANARY}, {"messages": [CANARY]}]
    async with attack() as attacker:
        reply = await attacker.create(seed=seed, options={"malformed": "set_aside"})
        assert not reply.is_error, said(reply)
        [warning] = [told for told in reply.structured_content["plan"]["warnings"] if "set aside" in told]
        assert warning.startswith(
            "2 rows were set aside (1 with other columns, 1 of messages that are not one question"
        )
        page = await attacker.call("read_artifact", run_id="r", artifact="set_aside.jsonl")
        assert r"\"row\": 8" in said(page)
        assert attacker.holds(CANARY) == []


async def test_outside_the_allowed_directories_no_file_is_read_whatever_it_holds(
    attack: Attack, tmp_path: Path
) -> None:
    """A perfect table is refused too: what may be read is the owner's to say. So are links and names that lead there."""
    rows = "".join(f'{{"input": "{CANARY} {number}", "output": "a"}}\n' for number in range(6))
    outside = write(tmp_path / "outside", "rows.jsonl", rows)
    async with attack() as attacker:
        (attacker.allowed / "link.jsonl").symlink_to(outside)
        os.link(outside, attacker.allowed / "hard.jsonl")
        (attacker.allowed / "folder").symlink_to(outside.parent)
        os.mkfifo(attacker.allowed / "fifo.jsonl")
        for path in (
            outside,
            write(tmp_path / "outside", "without-a-second-name.jsonl", rows),
            attacker.allowed / "link.jsonl",
            attacker.allowed / "hard.jsonl",
            attacker.allowed / "folder" / "rows.jsonl",
            attacker.allowed / ".." / "outside" / "rows.jsonl",
            attacker.allowed / "fifo.jsonl",
            write(attacker.allowed, ".hidden.jsonl", rows),
            write(attacker.allowed, ".config/rows.jsonl", rows),
            Path("/dev/stdin"),
            Path("/proc/self/environ"),
        ):
            for argument in _NAMED_IN:
                await _is_not_read(attacker, path, argument)
        inside = write(attacker.allowed, "rows.jsonl", rows)
        told = await attacker.refused(attacker.create(**_naming(inside, "seed_path"), budget_usd=1000))
        assert told.startswith(_READ), "the same table is read where it is allowed"
        assert attacker.teacher.asked == []


_LINKED = ("traces_cot.jsonl", "policy.json", "traces_amplified.jsonl", "report.md", "calls.jsonl")
_ASKED = (
    *_LINKED,
    *("dataset/train.jsonl", "policies/policy.v1.json", "model/policy.json", "exports/policy.json"),
    *("examples.jsonl", "lineage/s1", "board.json", "policies/compare/1..1", "compare/tickets", "status"),
    *("../secret/report.md", "%2e%2e/secret/report.md", "/etc/passwd"),
)


def _put_links(root: Path, secret: Path, kind: str) -> None:
    for name in _LINKED:
        (root / name).unlink(missing_ok=True)
        if kind == "symbolic link":
            (root / name).symlink_to(secret / name)
        elif kind == "hard link":
            os.link(secret / name, root / name)
    for folder in ("dataset", "policies", "prompts", "exports", "model"):
        if kind == "linked folder":
            shutil.rmtree(root / folder, ignore_errors=True)
            (root / folder).symlink_to(secret)


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "linked folder"])
async def test_a_link_in_the_place_of_a_runs_file_shows_nothing(attack: Attack, tmp_path: Path, kind: str) -> None:
    """Whatever way it is asked for: as a resource, as pages, in the list, on the board, as lineage or made from it."""
    secret = tmp_path / "secret"
    secret.mkdir()
    for name in (*_LINKED, "train.jsonl", "policy.v1.json"):
        (secret / name).write_text(f'{{"id": "s1", "input": "{CANARY}", "output": "{CANARY}", "value": "{CANARY}"}}\n')
    async with attack() as attacker:
        run = make_run(attacker.home)
        _put_links(run.paths.root, secret, kind)
        for name in _ASKED:
            await attacker.call("read_artifact", run_id=run.run_id, artifact=name)
            await attacker.read(f"nanodistill://runs/{run.run_id}/{name}")
        await attacker.call("get_status")
        await attacker.call("get_status", run_id=run.run_id, detail=True)
        await attacker.client.list_resources()
        assert [text for text in attacker.told if CANARY in text] == []
