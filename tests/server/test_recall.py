"""What a check found out is not found out again, until something it hangs on has changed."""

import json
import shutil
from pathlib import Path

import pytest

from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.server import recall as module
from nanodistill_mcp.server.preflight import inspect_student, inspect_teacher
from nanodistill_mcp.server.recall import Question, Recall
from nanodistill_mcp.settings import TeacherEndpoint

pytestmark = pytest.mark.anyio


def _retold(recall: Recall, key: str, value: object) -> None:
    """Change what the one kept answer says, which shows whether it is asked."""
    [kept] = recall.folder.iterdir()
    told = json.loads(kept.read_text(encoding="utf-8"))
    told.get("entry", told)[key] = value
    kept.write_text(json.dumps(told), encoding="utf-8")


async def test_a_model_is_looked_up_once_whatever_its_address_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteLLM takes seconds to import, and says the same again; what is configured here takes effect at once."""
    recall = Recall(tmp_path / "checks")
    monkeypatch.delenv("DESK_KEY", raising=False)
    here = {"model": "openai/desk", "api_base": "http://127.0.0.1:1/v1"}
    first = await inspect_teacher(TeacherEndpoint.model_validate(here), {}, recall)
    assert (first.host, first.max_output_tokens, first.missing_keys) == ("127.0.0.1:1", 0, [])
    _retold(recall, "max_output_tokens", 77)
    moved = {"model": "openai/desk", "api_base": "https://desk.example/v1", "api_key_env": "DESK_KEY"}
    again = await inspect_teacher(TeacherEndpoint.model_validate(moved), {}, recall)
    assert (again.host, again.max_output_tokens, again.missing_keys) == ("desk.example", 77, ["DESK_KEY"])
    other = await inspect_teacher(TeacherEndpoint.model_validate(moved), {"said": ["Hello there"]}, recall)
    assert (other.max_output_tokens, other.token_counts) == (0, {"said": [2]})


async def test_a_student_is_looked_at_again_when_a_file_of_it_changed(tmp_path: Path) -> None:
    """The user may put other weights, or something that is no student, into the same folder."""
    recall, student = Recall(tmp_path / "checks"), tmp_path / "student"
    shutil.copytree(student_path(), student)
    first = await inspect_student(str(student), recall=recall)
    _retold(recall, "licence", "retold")
    assert (await inspect_student(str(student), recall=recall)).licence == "retold"
    (student / "README.md").write_text("Now with a description.")
    assert (await inspect_student(str(student), recall=recall)).licence == first.licence
    (student / "config.json").unlink()
    for _ in range(2):  # a refusal is not kept: the user may have mended it
        with pytest.raises(UserInputError):
            await inspect_student(str(student), recall=recall)


def test_a_kept_answer_that_is_damaged_or_of_other_versions_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update may answer otherwise, and a file that cannot be read is no reason to fail."""
    recall, question = Recall(tmp_path / "checks"), Question({"check": "teacher"}, ("litellm",))
    assert recall.answer(question) is None
    recall.keep(question, {"said": 1})
    assert recall.answer(question) == {"said": 1}
    monkeypatch.setattr(module, "version", {"litellm": "0.0.1"}.__getitem__)
    assert recall.answer(question) is None
    monkeypatch.undo()
    [kept] = recall.folder.iterdir()
    kept.write_bytes(b"{")
    assert recall.answer(question) is None


def test_no_more_than_the_newest_hundred_are_kept(tmp_path: Path) -> None:
    """Each new set of examples is another question; years of them should not pile up."""
    recall = Recall(tmp_path / "checks")
    questions = [Question({"number": number}, ()) for number in range(110)]
    for question in questions:
        recall.keep(question, {})
    assert len(list(recall.folder.iterdir())) == 100
    assert recall.answer(questions[-1]) == {}
