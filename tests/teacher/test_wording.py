"""Prompts of one's own: what they have to name, what they may, and which questions they are asked with."""

import re
from pathlib import Path

import pytest

from nanodistill_mcp.errors import ConfigurationError, DamagedRunError
from nanodistill_mcp.settings import PromptName
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.wording import (
    MAX_CHARS,
    QUESTIONS,
    check_wording,
    read_wordings,
    sha_of,
    stored_wordings,
    worded,
)
from tests.teacher.conftest import Desk, question

COT = "Solve `input` of `task` under `policy`, as in `examples`. Give `solution`, then `answer`. Write in French."


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_package_s_own_prompts_keep_the_rule(name: PromptName) -> None:
    """A user who copies one and changes a sentence must not be refused."""
    text = Path(prompts.__file__).with_name("templates").joinpath(f"{QUESTIONS[name].template}.md").read_text("utf-8")
    check_wording(name, text)


def test_a_prompt_that_leaves_out_or_makes_up_a_name_is_refused_with_the_list() -> None:
    """The teacher would guess what a block is for, or answer with a field that nobody reads."""
    with pytest.raises(ConfigurationError) as caught:
        check_wording(
            "cot", "Solve `input` of `task`. Give `answer`, `confidence` and `mood`. Not a name: `two words`."
        )
    assert caught.value.what == (
        "The prompt 'cot' is not accepted: it does not name `policy`, `examples`, `solution` and it names `confidence`, `mood`, "
        "which it neither gets nor gives."
    )
    check_wording("cot", COT)


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_name_that_is_asked_for_counts(name: PromptName) -> None:
    """Leaving out any single one is noticed."""
    required = QUESTIONS[name].required
    check_wording(name, " ".join(f"`{each}`" for each in required))
    for left_out in required:
        with pytest.raises(ConfigurationError, match=f"does not name `{left_out}`"):
            check_wording(name, " ".join(f"`{each}`" for each in required if each != left_out) or "-")


def test_values_of_a_field_and_keys_inside_a_block_may_be_named() -> None:
    """The package's own policy prompt explains the checkers by name."""
    assert {"choice", "numeric", "thinking", "output"} <= QUESTIONS["policy"].accepted


@pytest.mark.parametrize("text", ["", " \n", "x" * (MAX_CHARS + 1), COT + "\0"])
def test_a_prompt_is_a_text_of_sensible_length(text: str) -> None:
    """A wrong path may lead to anything."""
    with pytest.raises(ConfigurationError, match="holds no text, or more than 50000 characters"):
        check_wording("cot", text)


def test_the_files_of_the_configuration_are_read_under_their_templates_names(tmp_path: Path) -> None:
    """Saved by an editor that marks its files, or not."""
    (tmp_path / "mine.md").write_text(COT, encoding="utf-8-sig")
    assert read_wordings({"cot": tmp_path / "mine.md"}) == {"solve": COT}


@pytest.mark.parametrize("path", ["<tmp>/absent.md", "<tmp>", "<tmp>/latin.md", "mine.md", "~nobody-of-this-name/a.md"])
def test_a_file_that_cannot_be_read_is_said_with_its_key(tmp_path: Path, path: str) -> None:
    """Absent, a folder, no UTF-8, or relative to who knows what."""
    (tmp_path / "latin.md").write_bytes(COT.encode() + b"\xe9")
    with pytest.raises(ConfigurationError) as caught:
        read_wordings({"cot": Path(path.replace("<tmp>", str(tmp_path)))})
    assert caught.value.what == "The file of the prompt 'cot' cannot be read as UTF-8 text."
    assert "prompts.cot" in caught.value.next_step


def test_a_run_keeps_to_the_wording_it_was_made_with(tmp_path: Path) -> None:
    """A prompt that changes half way would make two kinds of examples in one run, and nobody would know."""
    (tmp_path / "solve.md").write_text(COT, encoding="utf-8")
    assert stored_wordings(tmp_path, {"solve": sha_of(COT)}) == {"solve": COT}
    assert stored_wordings(tmp_path, {}) == {}
    (tmp_path / "solve.md").write_text(COT + " Hurry.", encoding="utf-8")
    with pytest.raises(DamagedRunError, match=r"prompts/solve.md of this run is not what the run was made with"):
        stored_wordings(tmp_path, {"solve": sha_of(COT)})
    with pytest.raises(DamagedRunError):
        stored_wordings(tmp_path / "absent", {"solve": sha_of(COT)})


def test_only_the_questions_of_a_template_change_with_it() -> None:
    """The material and the other questions stay what they were."""
    solved, policy = prompts.solve("Add.", "2 + 2"), prompts.extract_policy("Add.", [])
    assert worded(solved, {"solve": COT + "\n"}) == prompts.Prompt("solve", COT, solved.user)
    assert worded(policy, {"solve": COT}) == policy


async def test_an_edited_prompt_pays_again_for_its_own_questions_and_for_no_others(openai_desk: Desk) -> None:
    """And what it asked is told apart in the journal by the hash of its wording."""
    async with openai_desk.teacher() as teacher:
        await teacher.ask(question(), WorkedSolution)
    async with openai_desk.teacher(wordings={"policy": "Another."}) as teacher:
        assert (await teacher.ask(question(), WorkedSolution)).replayed
    async with openai_desk.teacher(wordings={"solve": COT}) as teacher:
        assert not (await teacher.ask(question(), WorkedSolution)).replayed
        assert (await teacher.ask(question(), WorkedSolution)).replayed
    first, second = openai_desk.records("intent")
    assert (first["prompt_sha"], second["prompt_sha"]) == (question().sha, sha_of(COT)[:12])
    assert [request.system.startswith(COT) for request in openai_desk.requests] == [False, True]


def test_the_documented_table_is_the_rule() -> None:
    """Who writes a prompt goes by it."""
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = {
        name: cells
        for name, *cells in re.findall(r"^\| `(\w+)` \| `(\w+)\.md` \| (.*) \| (.*) \|$", page, re.MULTILINE)
    }
    assert list(rows) == list(QUESTIONS)
    for name, (template, blocks, fields) in rows.items():
        asked = QUESTIONS[name]
        assert (template, tuple(re.findall(r"`([\w-]+)`", blocks))) == (asked.template, asked.blocks)
        assert name == "policy" or re.findall(r"`([\w-]+)`", fields) == list(asked.answer.model_fields)


def test_the_table_names_the_blocks_that_are_sent() -> None:
    """Else a prompt would have to talk about what never comes."""
    rows = [{"input": "2 + 2", "thinking": "Add.", "output": "4"}]
    sent = [
        prompts.solve("t", "i", "{}", rows),
        prompts.answer("t", "i", "{}", rows),
        prompts.derive("t", "i", "a"),
        prompts.extract_policy("t", rows, "f", "{}"),
        prompts.generate("t", "{}", rows, [{}], ["x"], ["y"]),
        prompts.judge("t", "r", "i", "a", "b"),
    ]
    for prompt in sent:
        blocks = re.findall(r"^<([a-z-]+)-[0-9a-f]{6}>$", prompt.user, re.MULTILINE)
        assert [tuple(blocks)] == [asked.blocks for asked in QUESTIONS.values() if asked.template == prompt.template]
