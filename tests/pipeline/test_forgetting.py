"""What a student forgot."""

import pytest

from nanodistill_mcp.pipeline.asking import Given
from nanodistill_mcp.pipeline.forgetting import forgetting, general_questions
from nanodistill_mcp.student.answer_requests import Generated
from tests.runs.made import manifest

RUN = manifest("plain")


def _given(base: str | None, student: str | None) -> Given:
    """Every general question answered with one text, or with its own accepted answer."""
    accepted = {question.key: _accepted(question.messages[0]["content"]) for question in general_questions(RUN)}

    def row(key: str, text: str | None) -> Generated:
        words = accepted[key] if text is None else text
        return Generated(
            id=key, variant="", text=words, prompt_tokens=1, completion_tokens=1, elapsed_s=0, finish_reason="stop"
        )

    return {model: {key: row(key, text) for key in accepted} for model, text in (("base", base), ("student", student))}


def _accepted(question: str) -> str:
    import json
    from importlib import resources

    text = resources.files("nanodistill_mcp.pipeline").joinpath("general.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    answer = next(row["accept"][0] for row in rows if row["question"] == question)
    return f"It is {answer}. Anything else?"


def test_a_student_that_answers_everything_with_its_task_has_forgotten() -> None:
    """The commonest damage: asked for a capital, it sorts the question into a queue."""
    told = forgetting(RUN, _given(None, "billing"))
    assert (told["base"]["correct"], told["student"]["correct"], told["forgot"]) == (50, 0, True)
    assert "use it for this task alone" in told["verdict"]


def test_a_student_that_still_knows_has_forgotten_nothing() -> None:
    """The accepted answers are found in sentences, and one wrong answer does not prove a loss."""
    told = forgetting(RUN, _given(None, None))
    assert (told["base"]["correct"], told["student"]["correct"], told["forgot"]) == (50, 50, False)
    assert told["verdict"].startswith("No forgetting can be shown")


def test_of_a_base_that_knows_nothing_nothing_is_claimed() -> None:
    """No difference between two that know nothing is no proof that nothing was lost."""
    told = forgetting(RUN, _given("billing", "billing"))
    assert not told["forgot"]
    assert "cannot be told" in told["verdict"]


@pytest.mark.parametrize("text", ["", "The number 112", "no yes maybe"])
def test_an_answer_counts_only_as_words_of_its_own(text: str) -> None:
    """'112' holds '12' and answers nothing; what is said after the first sentence no longer counts."""
    told = forgetting(RUN, _given(text, "Let me think.\nParis. 12. Yes."))
    assert told["student"]["correct"] == 0
    assert told["base"]["correct"] <= 10
