"""The examples as the user left them, whatever amplify writes afterwards."""

from pathlib import Path
from typing import Any, Literal

import pytest

from nanodistill_mcp.errors import DamagedRunError, RunStateError, UserInputError
from nanodistill_mcp.pipeline import dataset
from nanodistill_mcp.pipeline.revise import Wish, revise
from nanodistill_mcp.pipeline.revisions import Revisions, effective_examples, key_of, moved_since_dataset, revisions_of
from nanodistill_mcp.runs.files import write_json, write_lines
from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.runs.records import Example, Rejected, Revision, RowChange
from nanodistill_mcp.runs.store import Run
from tests.runs.made import make_run

TEXTS = (
    "The parcel with my new lamp has still not come",
    "I was charged twice for one pair of shoes",
    "Please close my account and delete my data",
    "The kettle I bought leaks at the handle",
)


def example(row_id: str, text: str, **fields: Any) -> Example:
    """An accepted synthetic example."""
    made = {"thinking": "Because.", "output": "answer 1", "confidence": 1.0, "origin": "synthetic"}
    return Example.model_validate({"id": row_id, "input": text, "parents": [], "call_ids": [], **made, **fields})


def write(run: Run, *examples: Example) -> None:
    """What amplify writes."""
    write_lines(run.paths.rejected, [REJECTED.model_dump()])
    write_lines(run.paths.traces_amplified, [row.model_dump() for row in examples])


REJECTED = Rejected(
    id="g0009-0",
    input="My code does not work at the till",
    output="answer 2",
    other_output="answer 3",
    reason="disagreement",
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with four accepted examples and a rejected one."""
    made = make_run(tmp_path)
    write(made, *(example(f"g0000-{i}", text) for i, text in enumerate(TEXTS)))
    return made


def wish(**asked: Any) -> Wish:
    """A call's arguments."""
    return Wish(asked.get("drop", []), asked.get("edit", []), asked.get("approve", []))


def inputs(run: Run) -> list[str]:
    """What is trained on."""
    return [row.input for row in effective_examples(run)]


async def test_a_dropped_row_is_gone_and_what_amplify_wrote_stays_as_it_is(run: Run) -> None:
    """The file is the record of what was paid for; what is trained on is another question."""
    before = run.paths.traces_amplified.read_bytes()
    revised = await revise(run, wish(drop=["g0000-1"]))
    assert (revised.number, revised.examples, revised.moves_data) == (1, 3, True)
    assert inputs(run) == [TEXTS[0], *TEXTS[2:]]
    assert run.paths.traces_amplified.read_bytes() == before


async def test_a_dropped_row_stays_out_under_another_id_and_as_a_near_copy(run: Run) -> None:
    """Amplify may make it again under a new policy; the user said no to the row, not to its number."""
    await revise(run, wish(drop=["g0000-1"]))
    write(
        run,
        example("g0000-1", "Another message that took the number"),
        example("g0005-5", TEXTS[1]),
        example("g0006-6", TEXTS[1].replace("shoes", "boots"), output="answer 3"),
    )
    assert inputs(run) == ["Another message that took the number"]


async def test_a_contrast_pair_of_a_dropped_row_stays_when_the_user_saw_both_and_dropped_one(run: Run) -> None:
    """Only the one was wrong; new copies of it are kept out, the pair that stood beside it is not."""
    pair = example("g0001-0", TEXTS[1].replace("shoes", "boots"), output="answer 3")
    write(run, *(example(f"g0000-{i}", text) for i, text in enumerate(TEXTS)), pair)
    await revise(run, wish(drop=["g0000-1"]))
    assert pair.input in inputs(run)
    revisions = revisions_of(run)
    assert revisions.bars(pair.input, pair.output) == ""
    assert revisions.bars(TEXTS[1].replace("shoes", "socks"), "answer 4") == "dropped"


async def test_an_edited_row_stays_edited_when_amplify_writes_it_again_or_not_at_all(run: Run) -> None:
    """The user's words outlive the stage that is done again."""
    await revise(run, wish(edit=[{"id": "g0000-0", "output": "answer 4", "thinking": "By hand."}]))
    write(run, example("g0007-7", TEXTS[0]), example("g0000-0", TEXTS[2]))
    first, second = effective_examples(run)
    assert (first.id, first.input, first.output, first.thinking) == ("g0007-7", TEXTS[0], "answer 4", "By hand.")
    assert (first.edited, first.approved, first.revisions) == (True, False, [1])
    assert second.edited is False
    write(run, example("g0000-0", TEXTS[2]))
    other, edited = effective_examples(run)
    assert (other.id, edited.id) == ("g0000-0", f"g0000-0.{key_of(TEXTS[0])[:8]}")
    assert edited.output == "answer 4"


async def test_reasoning_that_led_to_another_output_is_not_taught(run: Run) -> None:
    """A worked solution that ends in billing beside the answer refund teaches nonsense."""
    revised = await revise(run, wish(edit=[{"id": "g0000-0", "output": "answer 4"}]))
    assert effective_examples(run)[0].thinking == ""
    assert revised.warnings == [
        "g0000-0: its reasoning led to the former output and was removed; edit thinking to teach one."
    ]
    await revise(run, wish(edit=[{"id": "g0000-1", "output": "Answer 1"}]))
    assert effective_examples(run)[1].thinking == "Because."


async def test_a_rejected_row_comes_back_when_it_is_approved_and_keeps_its_origin(run: Run) -> None:
    """Two solutions differed, and the user knows which is right."""
    revised = await revise(run, wish(approve=["g0009-0"]))
    assert "no reasoning" in revised.warnings[0]
    back = effective_examples(run)[-1]
    assert (back.id, back.output, back.origin, back.approved) == ("g0009-0", "answer 2", "synthetic", True)
    await revise(run, wish(edit=[{"id": "g0009-0", "output": "answer 3"}]))
    assert effective_examples(run)[-1].output == "answer 3"


async def test_approving_takes_a_drop_back(run: Run) -> None:
    """A slip is mended by one call."""
    await revise(run, wish(drop=["g0000-1"]))
    await revise(run, wish(approve=["g0000-1"]))
    assert inputs(run) == list(TEXTS)
    assert [row.approved for row in effective_examples(run)] == [False, True, False, False]


async def test_repeating_a_call_changes_nothing_and_writes_nothing(run: Run) -> None:
    """A client that retries after a timeout must not make the training outdated again."""
    asked = wish(drop=["g0000-1"], edit=[{"id": "g0000-0", "input": "The lamp has not come"}], approve=["g0000-2"])
    assert len((await revise(run, asked)).changes) == 3
    size = run.paths.revisions.stat().st_size
    again = await revise(run, asked)
    assert (again.number, again.changes, sorted(again.unchanged)) == (0, [], ["g0000-0", "g0000-1", "g0000-2"])
    assert run.paths.revisions.stat().st_size == size


LONG = "x" * 50_001


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        pytest.param({}, "There is nothing to change.", id="nothing"),
        pytest.param(
            {"drop": ["g0000-0", "nope"]}, "There is no row 'nope' in this run; nothing was changed.", id="unknown"
        ),
        pytest.param(
            {"approve": ["<b>"]}, "There is no row (number 1 of approve) in this run; nothing was changed.", id="odd"
        ),
        pytest.param(
            {"drop": ["g0000-0"], "approve": ["g0000-0"]},
            "Row 'g0000-0' is to be dropped and kept at once; nothing was changed.",
            id="both",
        ),
        pytest.param(
            {"drop": ["g0000-0"], "edit": [{"id": "g0000-1", "output": ""}]},
            "Number 1 of edit leaves the output empty.",
            id="empty output",
        ),
        pytest.param({"edit": [{"id": "g0000-1", "outputs": "a"}]}, "Did you mean output?", id="field"),
        pytest.param(
            {"edit": [{"id": "g0000-1"}]}, "Number 1 of edit needs an id and at least one field", id="no field"
        ),
        pytest.param({"edit": [{"id": "g0000-1", "thinking": LONG}]}, "more than 50000 characters", id="too long"),
        pytest.param(
            {"edit": [{"id": "g0009-0", "output": "answer 2"}]}, "so an edit alone changes nothing", id="rejected"
        ),
        pytest.param(
            {"edit": [{"id": "g0000-1", "input": TEXTS[0].upper()}]},
            "Row 'g0000-1' would have the same input as another row",
            id="duplicate",
        ),
        pytest.param(
            {"edit": [{"id": "g0000-1", "input": "question 5"}]}, "gives a held-out example away", id="contaminates"
        ),
        pytest.param(
            {"drop": [f"g0000-{i}" for i in range(4)]}, "No example would be left to train on", id="nothing left"
        ),
        pytest.param({"drop": ["x"] * 1001}, "One call changes at most 1000 rows.", id="too many"),
    ],
)
async def test_a_call_that_is_not_right_in_every_part_changes_nothing(
    run: Run, asked: dict[str, Any], what: str
) -> None:
    """Half a call would leave the agent guessing which half."""
    seeds = [seed.model_copy(update={"split": "held_out" if seed.id == "s0005" else "train"}) for seed in run.seeds()]
    write_lines(run.paths.seeds, [seed.model_dump() for seed in seeds])
    with pytest.raises(UserInputError) as refused:
        await revise(run, wish(**asked))
    assert what in refused.value.what
    assert "<b>" not in str(refused.value)
    assert inputs(run) == list(TEXTS)
    assert not run.paths.revisions.exists()


async def test_an_output_must_fit_the_checker_and_the_schema(run: Run) -> None:
    """A wrong answer that is typed in is trained on like any other."""
    seeds = [seed.model_copy(update={"output": str(number)}) for number, seed in enumerate(run.seeds())]
    write_lines(run.paths.seeds, [seed.model_dump() for seed in seeds])
    with pytest.raises(UserInputError, match="is not an answer of the form numeric"):
        await revise(run, wish(edit=[{"id": "g0000-0", "output": "many"}]))
    manifest = run.manifest.model_copy(deep=True)
    manifest.spec.response_schema = {"type": "integer"}
    write_json(run.paths.manifest, manifest.model_dump())
    with pytest.raises(UserInputError, match="does not keep the answers' JSON Schema"):
        await revise(Run(run.paths), wish(edit=[{"id": "g0000-0", "output": "4.5"}]))


async def test_a_call_waits_its_turn_and_a_damaged_line_is_never_passed_over(run: Run) -> None:
    """Two clients have two servers; and a drop that cannot be read must not come back in silence."""
    await revise(run, wish(drop=["g0000-0"]))
    with Journal.open(run.paths.revisions), pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanodistill_mcp.pipeline.revise._WAIT_S", 0.1)
        with pytest.raises(RunStateError, match="Another server is writing"):
            await revise(run, wish(drop=["g0000-1"]))
    data = run.paths.revisions.read_bytes()
    run.paths.revisions.write_bytes(data.replace(b'"drop"', b'"edit"'))
    with pytest.raises(DamagedRunError):
        effective_examples(run)
    run.paths.revisions.write_bytes(data[:-20])  # a torn last line was never answered: it does not count
    assert inputs(run) == list(TEXTS)


async def test_only_what_changes_the_rows_makes_the_dataset_outdated(run: Run) -> None:
    """A row that is looked at and found right costs no second training."""
    dataset.build_dataset(run, 0.0)
    await revise(run, wish(approve=["g0000-0"]))
    assert not moved_since_dataset(run)
    await revise(run, wish(drop=["g0000-1"]))
    assert moved_since_dataset(run)
    dataset.build_dataset(run, 0.0)
    assert not moved_since_dataset(run)
    assert len((run.paths.dataset / "train.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def _dropped(*texts: str) -> Revisions:
    changes = [RowChange(action="drop", key=key_of(text), row=example("x", text)) for text in texts]
    return Revisions([Revision(number=1, at="", moves_data=True, changes=changes)])


@pytest.mark.parametrize(
    ("revisions", "target", "needed"),
    [(Revisions(), 3, 3), (_dropped(TEXTS[3]), 3, 3), (_dropped(TEXTS[0]), 3, 4), (_dropped(*TEXTS[:2]), 3, 5)],
    ids=["none", "beyond the target", "one", "two"],
)
def test_what_was_dropped_is_made_up_for_after_the_rows_that_are_paid_for(
    revisions: Revisions, target: int, needed: int
) -> None:
    """The first rows are made as before, so their questions are found in the journal; only the missing ones cost."""
    written = [example(f"g0000-{i}", text) for i, text in enumerate(TEXTS)]
    assert revisions.needed(written, target) == needed
    assert revisions.needed([], target) == target


@pytest.mark.parametrize(
    ("action", "text", "output", "reason"),
    [
        ("drop", TEXTS[0], "answer 1", ""),
        ("drop", TEXTS[0].replace("lamp", "chair"), "other", "dropped"),
        ("edit", TEXTS[0].replace("lamp", "chair"), "answer 1", "near_duplicate"),
        ("edit", TEXTS[0].replace("lamp", "chair"), "", "near_duplicate"),
        ("edit", TEXTS[0].replace("lamp", "chair"), "other", ""),
        ("edit", TEXTS[1], "answer 1", ""),
    ],
)
def test_a_new_example_is_held_against_what_the_user_did(
    action: Literal["drop", "edit"], text: str, output: str, reason: str
) -> None:
    """Before it is solved, so that it costs nothing."""
    change = RowChange(action=action, key=key_of(TEXTS[0]), row=example("x", TEXTS[0]))
    assert Revisions([Revision(number=1, at="", moves_data=True, changes=[change])]).bars(text, output) == reason
