"""Reasoning and answer in one text, in five forms: what is joined parts again, whatever the two hold."""

import json
import random

import pytest

from nanodistill_mcp.pipeline.thinking import FORMATS, join, opening, part
from nanodistill_mcp.runs.records import ThinkingFormat

# Marks of every form, pieces of them, what escaping adds, and what JSON, Markdown and format strings trip over.
PIECES = [
    *(
        "<thinking>",
        "</thinking>",
        "<think>",
        "</think>",
        "<\\/thinking>",
        "<\\\\/think>",
        "</thinking >",
        "/thinking>",
    ),
    *("### Answer", "### Reasoning", "\\### Answer", "\n  ## final answer:\n", "# THINKING", "####### Answer"),
    *(
        "Answer:",
        "Reasoning:",
        "**Answer:** ",
        "\nAnswer: 4",
        "\\Answer: x",
        "Final Answer:",
        "An\u017fwer:",
        "thinking: ",
    ),
    *(
        '{"thinking": "a", "output": "b"}',
        '{"output": 1}',
        '{"thinking": "',
        '"',
        "{",
        "}",
        "```json\n",
        "\\u00e9",
        "\\ud83d",
    ),
    *("{thinking}", "{output}", "{0}", "%s", "\\", "\\\\", "<", "**", "`"),
    *("\n", "\n\n", "\r\n", "\t", " ", "\u2028", "\x85", "é", "😀", "אב", "a", "two words", "4"),
]


def _hostile(dice: random.Random) -> str:
    return "".join(dice.choice(PIECES) for _ in range(dice.randrange(9))).strip()


@pytest.mark.parametrize("form", FORMATS)
def test_whatever_reasoning_and_answer_hold_they_part_as_they_were_joined(form: ThinkingFormat) -> None:
    """A task about prompts, markup or this very tool has outputs that look like our marks; none may be lost or moved."""
    dice = random.Random(20_26)
    for _ in range(6000):
        thinking, output = _hostile(dice), _hostile(dice)
        assert part(join(thinking, output, form), form) == (thinking, output)


@pytest.mark.parametrize("form", FORMATS)
def test_a_mark_alone_is_text_like_any_other(form: ThinkingFormat) -> None:
    """Each of them as the whole reasoning, as the whole answer and as both."""
    for piece in map(str.strip, PIECES):
        for thinking, output in ((piece, "4"), ("four", piece), (piece, piece), ("", piece)):
            assert part(join(thinking, output, form), form) == (thinking, output)


@pytest.mark.parametrize("form", ["xml", "markdown", "json", "plain"])
def test_a_form_survives_the_thinking_that_a_chat_template_opens(form: ThinkingFormat) -> None:
    """Such a student writes the end of its empty thinking before anything else."""
    dice = random.Random(7)
    for _ in range(2000):
        thinking, output = _hostile(dice) or "four", _hostile(dice)
        assert part(f"\n</think>\n\n{join(thinking, output, form)}", form) == (thinking, output)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("output", ["4", "two\nlines", '{"queue": "billing"}', "a < b", "### Steps", "Answers: none"])
def test_an_answer_without_reasoning_stands_alone(form: ThinkingFormat, output: str) -> None:
    """What is taught without reasoning must hold no trace of it."""
    assert join("", output, form) == output


def test_an_answer_that_looks_like_reasoning_gets_an_empty_one_and_is_not_changed() -> None:
    """The answer is what users see: a backslash in it would be a wrong answer."""
    output = "<thinking>a</thinking>b"
    assert join("", output, "xml") == f"<thinking>\n\n</thinking>\n{output}"
    assert join("", "Answer: 4", "plain") == "Reasoning: \n\nAnswer: Answer: 4"


def test_the_forms_look_as_documented() -> None:
    """Whoever reads the student's texts in another program relies on them."""
    assert {form: join("2 + 2.", "4", form) for form in FORMATS} == {
        "xml": "<thinking>\n2 + 2.\n</thinking>\n4",
        "markdown": "### Reasoning\n2 + 2.\n\n### Answer\n4",
        "json": '{"thinking": "2 + 2.", "output": "4"}',
        "plain": "Reasoning: 2 + 2.\n\nAnswer: 4",
        "native": "<think>\n2 + 2.\n</think>\n4",
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("refund", "", "refund"),
        ("<think>\n\n</think>\n\nrefund", "", "refund"),
        ("<think>a\n<b></think>refund", "a\n<b>", "refund"),
        ("before <think>a</think> after", "a", "before  after"),
        ("refund <think>never ends", "never ends", ""),
        ("reasoned before\n</think>\nrefund", "reasoned before", "refund"),
        ("<think>a</thinking>b", "a</thinking>b", ""),
        ("", "", ""),
        ("a < b and c > d", "", "a < b and c > d"),
    ],
)
def test_the_tags_of_a_student_that_thinks_by_itself_are_read_in_every_form(
    form: ThinkingFormat, text: str, thinking: str, answer: str
) -> None:
    """A base answers as it was made to, whatever form its student is taught; only the answer is judged."""
    assert part(text, form) == (thinking, answer)


@pytest.mark.parametrize(
    ("form", "text", "thinking", "answer"),
    [
        ("xml", "<thinking>\nfirst\n</thinking>\nrefund\n", "first", "refund"),
        ("native", "<thinking>\nfirst\n</thinking>\nrefund\n", "first", "refund"),
        ("xml", "<thinking>never ends", "never ends", ""),
        ("xml", "Well. <thinking>a</thinking> refund", "a", "Well.  refund"),
        ("xml", "<think>\nhm\n</think>\n\n<thinking>a</thinking>refund", "hm\na", "refund"),
        ("markdown", "## Reasoning:\n\n a \n\n\n# **Answer**\n\n refund \n", "a", "refund"),
        ("markdown", "Sure.\n### Thinking\na\n### Final answer\nrefund", "a", "refund"),
        ("markdown", "a, so\n### Answer\nrefund", "a, so", "refund"),
        ("markdown", "### Reasoning\nnever ends", "never ends", ""),
        ("plain", "reasoning: a\nanswer: refund", "a", "refund"),
        ("plain", "**Reasoning:** a\n\n**Final answer:** refund", "a", "refund"),
        ("plain", "Answer: refund", "", "refund"),
        ("plain", "Reasoning: never ends", "never ends", ""),
        ("json", '```json\n{"thinking": "a",\n "output": "refund"}\n```', "a", "refund"),
        ("json", '{"output": "refund", "thinking": "a"}', "a", "refund"),
        ("json", 'Here: {"thinking": "a\nb", "output": {"queue": "x"}}', "a\nb", '{"queue": "x"}'),
        ("json", '{"thinking": "never ends \\u00e9\\u00', "never ends é", ""),
        ("json", '{"thinking": "a", "output": "ref', "a", "ref"),
        ("json", '{"thinking": "\\d", "output": "ref', "\\d", "ref"),
        ("json", '{"thinking": "\\ud83d", "output": "a"}', "\ufffd", "a"),
        ("json", '{"output": 3}', "", '{"output": 3}'),
        ("json", '{"thinking": ' + "[" * 100_000, "", '{"thinking": ' + "[" * 100_000),
    ],
)
def test_a_text_that_is_not_quite_in_the_form_is_read_as_far_as_it_goes(
    form: ThinkingFormat, text: str, thinking: str, answer: str
) -> None:
    """A small student forgets an end, adds spaces or is cut off; what it means is still plain."""
    assert part(text, form) == (thinking, answer)


def test_the_json_form_is_json() -> None:
    """Other programs parse it with their own library."""
    assert json.loads(join('say "hi"\n', "é\\", "json")) == {"thinking": 'say "hi"\n', "output": "é\\"}


@pytest.mark.parametrize("form", FORMATS)
def test_a_text_can_be_made_to_begin_with_reasoning_or_without(form: ThinkingFormat) -> None:
    """What a student is given to go on from must be what its own texts begin with, or it would be asked in a strange way."""
    assert join("because", "yes", form).startswith(opening(form, with_reasoning=True))
    end = '"}' if form == "json" else ""
    assert part(f"{opening(form, with_reasoning=False)} yes{end}", form) == ("", "yes")
