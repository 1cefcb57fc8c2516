"""A clone with one thing changed: every paid answer whose question is still asked is used, and no question is paid twice."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.wire import WireServer
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.clone import CHANGEABLE, carried, check_clone
from nanodistill_mcp.pipeline.plan import target_of
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.settings import load_settings
from tests.conftest import ScriptedTeacher
from tests.pipeline.paid_run import PaidRun

SIZE = 24
STAGES = ("synthesize_cot", "extract_policy", "amplify")


@dataclass
class Source:
    """A run that was paid for, and what its teacher was asked."""

    paid: PaidRun
    asked: list[str]
    examples: list[dict[str, Any]]

    async def cloned(self, name: str, changes: dict[str, Any]) -> tuple[PaidRun, list[str]]:
        """A clone whose paid stages were carried out, and what the teacher was asked for it."""
        settings = load_settings(self.paid.home, env={})
        request = check_clone(settings, self.paid.run, name, changes)
        sized = self.paid.run.manifest.plan.model_copy(update={"target_examples": target_of(request)})
        changed = {"run_id": name, "spec": request.spec, "plan": sized, "cloned_from": self.paid.run.run_id}
        manifest = self.paid.run.manifest.model_copy(update=changed)
        clone = PaidRun(self.paid.home / name, self.paid.teacher)
        clone.run, created = RunStore(self.paid.home).create(
            manifest, request.seeds, fill=carried(self.paid.run, request).write
        )
        assert created
        before = len(self.paid.teacher.asked)
        for stage in STAGES:
            await clone.summary(stage)
        return clone, [request.user for request in self.paid.teacher.asked[before:]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """One run, paid for once for all tests of this file; each clones it under a name of its own."""
    home: Path = tmp_path_factory.mktemp("home")
    teacher = ScriptedTeacher()
    with WireServer(teacher.answer) as server:
        teacher.server = server
        local = {"model": "openai/desk", "api_base": server.openai_url, "usd_per_mtok": [2, 10]}
        (home / "config.yaml").write_text(json.dumps({"teachers": {"local": local}}), encoding="utf-8")
        rows = [(row["input"], row["output"]) for row in task.seeds()]
        paid = PaidRun(home, teacher, rows, {"student": "org/small", "augment_factor": 3, "reasoning": "cot"})

        async def pay() -> None:
            for stage in STAGES:
                await paid.summary(stage, **({"target_size": SIZE} if stage == "amplify" else {}))

        anyio.run(pay)
        yield Source(paid, [request.user for request in teacher.asked], paid.written(paid.run.paths.traces_amplified))


FREE: list[tuple[str, dict[str, Any]]] = [
    ("student", {"student": "org/other"}),
    ("preset", {"preset": "quick"}),
    ("budget_usd", {"budget_usd": 1}),
    ("reasoning", {"reasoning": "direct"}),
    ("response_schema", {"response_schema": {"type": "string", "minLength": 2}}),
    ("options", {"options": {"lora_rank": 8, "num_train_epochs": 1, "thinking_format": "markdown", "tags": ["b"]}}),
]


@pytest.mark.parametrize(("name", "changes"), [pytest.param(*each, id=each[0]) for each in FREE])
async def test_what_the_teacher_is_not_asked_about_is_changed_without_paying(
    source: Source, name: str, changes: dict[str, Any]
) -> None:
    """Another student, recipe, form of reasoning or budget asks the teacher the very same questions."""
    clone, asked = await source.cloned(f"free-{name}", changes)
    assert asked == []
    assert states.spend(clone.run).usd == 0
    mine = clone.written(clone.run.paths.traces_amplified)
    assert [(row["id"], row["input"], row["output"]) for row in mine] == [
        (row["id"], row["input"], row["output"]) for row in source.examples
    ]


async def test_a_larger_clone_pays_only_for_what_it_has_more(source: Source) -> None:
    """The examples that are there stay, in the same order, and the teacher writes on."""
    clone, asked = await source.cloned("larger", {"augment_factor": 4})
    assert asked
    assert not set(asked) & set(source.asked)
    mine = clone.written(clone.run.paths.traces_amplified)
    assert len(mine) > len(source.examples)
    assert {row["input"] for row in source.examples} <= {row["input"] for row in mine}
    assert 0 < states.spend(clone.run).usd < states.spend(source.paid.run).usd


async def test_a_smaller_clone_pays_nothing(source: Source) -> None:
    """What is there suffices."""
    clone, asked = await source.cloned("smaller", {"augment_factor": 2})
    assert asked == []
    assert len(clone.written(clone.run.paths.traces_amplified)) < len(source.examples)


async def test_a_preset_that_asks_more_warmly_borrows_nothing(source: Source) -> None:
    """Nanodistill's own temperature is part of every question, though no option names it."""
    settings = load_settings(source.paid.home, env={})
    request = check_clone(settings, source.paid.run, "warm", {"preset": "nanodistill"})
    assert carried(source.paid.run, request).answers == 0


async def test_a_clone_that_asks_something_else_borrows_nothing(source: Source) -> None:
    """Each question holds the instruction: an answer to another one would be wrong."""
    clone, asked = await source.cloned("instructed", {"instruction": f"{task.INSTRUCTION} Think of the customer."})
    assert len(asked) > len(source.asked) / 2
    assert not set(asked) & set(source.asked)
    assert states.spend(clone.run).calls == len(asked)


def test_every_setting_a_clone_can_change_is_tried_here_or_changes_every_question() -> None:
    """A setting that is added must not cost what was paid for without anybody noticing."""
    tried = {name for name, _ in FREE} | {"augment_factor", "instruction"}
    assert set(CHANGEABLE) - tried == {"teacher"}
