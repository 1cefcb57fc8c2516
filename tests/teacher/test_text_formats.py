"""What models write instead of the JSON they were asked for, and what is read from it: everything that is there, nothing more."""

import json
import random
import time
from typing import Any, cast

import pytest
from pydantic import BaseModel, Field

from nanodistill_mcp.teacher.answers import PolicyDraft, WorkedSolution
from nanodistill_mcp.teacher.loose_json import values_in
from nanodistill_mcp.teacher.reading import judge, parse
from nanodistill_mcp.teacher.text_formats import form_of
from tests.teacher.shapes import NewExamples


class NewInputs(BaseModel):
    """A list of texts."""

    inputs: list[str]


class DirectAnswer(BaseModel):
    """An answer alone."""

    answer: str = Field(min_length=1)


class Rederivation(BaseModel):
    """A solution of which something may be missing."""

    solution: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    objection: str = ""


SOLVED = WorkedSolution(solution="Two and two make four.", answer="4")
WORKED: dict[str, str] = {
    "headings": "## Solution\nTwo and two make four.\n\n## Answer\n4\n",
    "other headings": "#### solution:\nTwo and two make four.\n# ANSWER #\n4" .replace("# ANSWER #", "# ANSWER"),
    "bold": "**Solution**\nTwo and two make four.\n\n**Answer**\n4",
    "bold with colon": "**Solution:** Two and two make four.\n**Answer:** 4",
    "bold before colon": "**Solution**: Two and two make four.\n__Answer__: 4",
    "labels": "Solution: Two and two make four.\nAnswer: 4",
    "bullets": "- Solution: Two and two make four.\n- Answer: 4",
    "numbers": "1. Solution: Two and two make four.\n2. Answer: 4",
    "other words": "Reasoning: Two and two make four.\nFinal answer: 4",
    "worked solution": "### Worked solution\nTwo and two make four.\n### Final Answer\n**4**",
    "prelude": "Two and two make four.\n\nAnswer: 4",
    "tags": "<solution>Two and two make four.</solution>\n<answer>4</answer>",
    "nanodistill's tags": "<thinking>\nTwo and two make four.\n</thinking>\n<answer>4</answer>\nGood luck!",
    "thinking before": "<think>Answer: 5? No.</think>\nSolution: Two and two make four.\nAnswer: 4",
    "chatter after": "Solution: Two and two make four.\nAnswer: 4\n\nLet me know if you need anything else!",
    "draft first": "Answer: 5\n\nNo, again.\n\nSolution: Two and two make four.\nAnswer: 4",
    "trailing comma": '{"solution": "Two and two make four.", "answer": "4",}',
    "single quotes": "{'solution': 'Two and two make four.', 'answer': '4'}",
    "no closing bracket": '{"solution": "Two and two make four.", "answer": "4"',
    "a number": '{"solution": "Two and two make four.", "answer": 4}',
    "case and spaces": '{"Solution": "Two and two make four.", "Final Answer": "4"}',
    "unquoted keys": '{solution: "Two and two make four.", answer: "4"}',
    "comments": '{\n  // the work\n  "solution": "Two and two make four.",\n  "answer": "4" // done\n}',
    "fenced": 'Of course {"here"}:\n```json\n{"solution": "Two and two make four.", "answer": "4",}\n```\nBye.',
    "a tool call in words": '{"name": "WorkedSolution", "arguments": {"solution": "Two and two make four.", "answer": "4"}}',
    "arguments in a text": json.dumps({"parameters": json.dumps(SOLVED.model_dump())}),
    "in a list": '[{"solution": "Two and two make four.", "answer": "4"}]'.strip("[]"),
    "schema first": 'Schema: {"properties": {"answer": {"type": "string"}}}\n{"solution": "Two and two make four.", "answer": "4"}',
}  # fmt: skip


@pytest.mark.parametrize("form", WORKED)
def test_a_worked_solution_is_read_in_whatever_form_it_comes(form: str) -> None:
    """A paid answer that is thrown away for its punctuation is paid for again."""
    assert parse(WorkedSolution, WORKED[form])[0] == SOLVED


@pytest.mark.parametrize(
    ("text", "solution", "answer"),
    [
        ('{"solution": "She said "four" and left.", "answer": "4"}', 'She said "four" and left.', "4"),
        ('{"solution": "First.\nThen.", "answer": "4"}', "First.\nThen.", "4"),
        (r'{"solution": "By \(x\) it is {}.", "answer": "4",}', r"By \(x\) it is {}.", "4"),
        (r'{"solution": "\u00e9\ud83d\ude00\n", "answer": "4",}', "\u00e9\U0001f600", "4"),
        ('{"solution": ["First.", "Then."], "answer": ["a", "b"]}', "First.\nThen.", '["a", "b"]'),
        ('{"solution": "s", "answer": {"kind": "billing", "n": 1}}', "s", '{"kind": "billing", "n": 1}'),
        ('## Solution\ns\n## Answer\n```json\n{"answer": "x", "response": 1}\n```', "s", '{"answer": "x", "response": 1}'),
        ("## Solution\nAnswer: 5 is tempting.\nIt is wrong.\n## Answer\n4", "Answer: 5 is tempting.\nIt is wrong.", "4"),
        ("Solution: a\n\nb\nNote: c\nAnswer: first line\nsecond line", "a\n\nb\nNote: c", "first line\nsecond line"),
        ('{"solution": "s", "answer": 4.50}', "s", "4.50"),
        ('{"solution": "s", "answer": true}', "s", "true"),
    ],
    ids=["inner quotes", "raw newline", "latex", "escapes", "steps", "json answer", "json under a heading", "label in the work",
         "many lines", "decimals", "boolean"],
)  # fmt: skip
def test_what_was_written_is_kept_as_it_was(text: str, solution: str, answer: str) -> None:
    """Repair must not change what a learner will be trained on."""
    read, _ = parse(WorkedSolution, text)

    assert read is not None
    assert (read.solution, read.answer) == (solution, answer)


@pytest.mark.parametrize(
    "text",
    [
        "It is four, of course.",
        '{"working": "Two and two make four."}',
        '{"solution": "Two and two make fo',
        '{"solution": "Two and two make four.", "answer": "4',
        '{"solution": "Two and two make four.", "answer": 4',
        '{"solution": "s", "answer": ["a", "b',
        '{"solution": "", "answer": "4"}',
        "Answer: 4",
        "## Solution\n\n## Answer\n",
        "Solution: it depends.",
        "The answer: four",
        "<think>Solution: s\nAnswer: 4",
        "[[[[[[",
        "",
    ],
)
def test_what_is_not_there_is_not_made_up(text: str) -> None:
    """A half answer that passes for a whole one ends in the training data."""
    assert parse(WorkedSolution, text)[0] is None


def pairs(text: str, *, cut: bool = False) -> list[tuple[str, str]]:
    """The examples read from a text."""
    read, _ = parse(NewExamples, text, cut=cut)
    return [(example.input, example.output) for example in read.examples] if read else []


TWO = [("What is 15 + 8?", "23"), ("What is 20 - 7?", "13")]
EXAMPLES: dict[str, str] = {
    "nanodistill": "\n- Input: What is 15 + 8?\n- Output: 23\n\n- Input: What is 20 - 7?\n- Output: 13\n",
    "question and answer": "- Question: What is 15 + 8?\n- Answer: 23\n\n- Question: What is 20 - 7?\n- Answer: 13",
    "numbered markers": "Example 1:\nInput: What is 15 + 8?\nOutput: 23\n\nExample 2:\nInput: What is 20 - 7?\nOutput: 13",
    "headings": '## Example 1\n**Input:** "What is 15 + 8?"\n**Output:** 23\n\n## Example 2: harder\n**Input:** What is 20 - 7?\n**Output:**\n```\n13\n```',
    "rules": "Input: What is 15 + 8?\nOutput: 23\n---\nInput: What is 20 - 7?\nOutput: 13",
    "numbered list": "1. Input: What is 15 + 8?\n   Output: 23\n2. Input: What is 20 - 7?\n   Output: 13",
    "numbered labels": "Input 1: What is 15 + 8?\nOutput 1: 23\nInput 2: What is 20 - 7?\nOutput 2: 13",
    "array": 'Here are the examples:\n[\n {"input": "What is 15 + 8?", "output": "23"},\n {"input": "What is 20 - 7?", "output": "13"},\n]',
    "array, other keys": '[{"question": "What is 15 + 8?", "answer": 23}, {"Question": "What is 20 - 7?", "Answer": 13}]',
    "lines": '{"input": "What is 15 + 8?", "output": "23"}\n{"input": "What is 20 - 7?", "output": "13"}',
    "cut off": '{"examples": [{"input": "What is 15 + 8?", "output": "23"}, {"input": "What is 20 - 7?", "output": "13"}, {"input": "Wha',
    "one bad": '{"examples": [{"input": "What is 15 + 8?", "output": "23"}, {"input": "?"}, 7, {"input": "What is 20 - 7?", "output": "13"}]}',
    "one broken": '[{"input": "What is 15 + 8?", "output": "23"}, {"input" "x"}, {"input": "What is 20 - 7?", "output": "13"}]',
    "list in a text": json.dumps({"examples": json.dumps([{"input": i, "output": o} for i, o in TWO])}),
    "wrapped": json.dumps({"NewExamples": {"examples": [{"input": i, "output": o} for i, o in TWO]}}),
}  # fmt: skip


@pytest.mark.parametrize("form", EXAMPLES)
def test_examples_are_read_in_whatever_form_they_come(form: str) -> None:
    """These are the forms NanoDistill reads, and what breaks them; one bad item does not lose the others."""
    assert pairs(EXAMPLES[form]) == TWO


def test_an_output_over_many_lines_ends_at_the_next_marker() -> None:
    """NanoDistill's own case."""
    text = (
        "**Example 1**\n- Input: Describe the process.\n- Output:\nPlants convert light.\nIt involves:\n1. Absorption\n"
        "2. Splitting\n\n**Example 2**\n- Input: What is the capital?\n- Output: Paris\n"
    )

    assert pairs(text) == [
        ("Describe the process.", "Plants convert light.\nIt involves:\n1. Absorption\n2. Splitting"),
        ("What is the capital?", "Paris"),
    ]


def test_an_input_that_speaks_of_an_item_is_not_cut_there() -> None:
    """Only a numbered line of its own marks where an item ends."""
    assert pairs("Input: My order is late.\nItem 3 is missing.\nOutput: shipping") == [
        ("My order is late.\nItem 3 is missing.", "shipping")
    ]


def test_a_list_that_was_cut_off_gives_its_whole_items_and_nothing_else_does() -> None:
    """The items before the cut are paid for. A half solution is none."""
    listed = judge(NewExamples, EXAMPLES["cut off"], "length")
    solved = judge(WorkedSolution, '{"solution": "Two and two make four.", "answer": "4"', "length")

    assert listed[0] == "valid"
    assert listed[1] is not None
    assert len(listed[1].examples) == 2
    assert solved[0] == "truncated"
    assert pairs(EXAMPLES["nanodistill"], cut=True) == TWO[:1], "in words the last item may be half of one"


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs": ["First one", "Second one"]}',
        '["First one", "Second one",]',
        "1. First one\n2. Second one",
        "Here they are:\n\n- First one\n- Second one\n\nTell me if you want more.",
        "Input 1: First one\nInput 2: Second one",
        "## Input\nFirst one\n\n## Input\nSecond one",
        '[{"input": "First one"}, {"input": "Second one"}]',
        '{"inputs": "- First one\\n- Second one"}',
    ],
)
def test_a_list_of_texts_is_read_in_whatever_form_it_comes(text: str) -> None:
    """Any shape is read by its fields' names; none is known by name here."""
    assert parse(NewInputs, text)[0] == NewInputs(inputs=["First one", "Second one"])


def test_shapes_that_nobody_thought_of_are_read_by_their_fields_names() -> None:
    """The stages add shapes; the reader must not need to know."""
    assert parse(DirectAnswer, "**Answer:** billing")[0] == DirectAnswer(answer="billing")
    assert parse(DirectAnswer, '{"answer": 4,}')[0] == DirectAnswer(answer="4")
    assert parse(DirectAnswer, "I think it is billing.")[0] is None
    read, _ = parse(Rederivation, "## Solution\ns\n## Answer\na\n## Objection\nThe date is missing.")
    assert read == Rederivation(solution="s", answer="a", objection="The date is missing.")


def policy() -> PolicyDraft:
    """A policy with every kind of field."""
    return PolicyDraft(
        task_description="Sort tickets.",
        input_format="A message.",
        output_format="One word.",
        reasoning_style="Short.",
        key_constraints=["One label.", "No guess."],
        difficulty_level="mixed",
        reasoning_patterns=["Name the words."],
        examples_summary="Billing and shipping.",
        input_length_range=[10, 200],
        output_length_range=[3, 12],
        checker="choice",
        choices=["billing", "shipping"],
    )


def under_headings(value: BaseModel) -> str:
    """A value written in the form that models without JSON are asked for."""
    lines: list[str] = []
    for name, part in value.model_dump().items():
        written = "\n".join(f"- {each}" for each in cast("list[Any]", part)) if isinstance(part, list) else part
        lines.append(f"## {name.replace('_', ' ').title()}\n{written}")
    return "\n\n".join(lines)


def test_a_policy_is_read_from_headings() -> None:
    """Twelve fields of five kinds: texts, lists, numbers, choices."""
    assert parse(PolicyDraft, under_headings(policy()))[0] == policy()
    loose = under_headings(policy()).replace("- 10\n- 200", "10 to 200 characters").replace("choice\n", "**Choice.**\n")
    assert parse(PolicyDraft, loose)[0] == policy()


@pytest.mark.parametrize("shape", [WorkedSolution, PolicyDraft, NewExamples, NewInputs, DirectAnswer, Rederivation])
def test_the_form_a_model_is_asked_for_names_every_field(shape: type[BaseModel]) -> None:
    """And is not itself taken for an answer when a model repeats it: it says what to put where in brackets."""
    form = form_of(shape)

    assert "None" not in form
    assert "(" in form


def hostile(dice: random.Random) -> str:
    """A text as a task may hold it: JSON, quotes, brackets, markup, other scripts."""
    bits = [
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "\\",
        ",",
        ": ",
        "\n",
        " ",
        "a",
        "\u4f60",
        "\U0001f600",
        "//x",
        "#",
        "**",
        "4",
        "true",
    ]
    return "x" + "".join(dice.choices(bits, k=dice.randrange(1, 40))) + "x"


def test_hostile_texts_come_back_as_they_were_written() -> None:
    """As strict JSON inside prose and, where they hold no label, under headings. Seeded, so that it fails again the same way."""
    dice = random.Random(11)
    for _ in range(400):
        solved = WorkedSolution(solution=hostile(dice), answer=hostile(dice))
        fenced = f"Sure:\n```json\n{solved.model_dump_json(indent=1)}\n```"
        assert parse(WorkedSolution, solved.model_dump_json() + "\n\nDone.")[0] == solved
        assert parse(WorkedSolution, fenced)[0] == solved


def test_a_text_under_headings_comes_back_as_it_was_written() -> None:
    """Quotes, brackets and markup inside a part are the part's."""
    dice = random.Random(12)
    for _ in range(400):
        solved = WorkedSolution(solution=hostile(dice), answer=hostile(dice))
        assert parse(WorkedSolution, under_headings(solved))[0] == solved


MONSTERS: dict[str, str] = {
    "brackets": "[" * 50_000,
    "braces": "{" * 50_000,
    "keys": '{"a":' * 10_000,
    "open strings": '{"a":"' * 7_500,
    "half keys": '{" ' * 15_000,
    "single quotes": "{'" * 22_500,
    "quotes": '{"a": "' + '" ' * 22_500,
    "commas": '{"a": "' + '", ' * 15_000,
    "backslashes": '{"a": "' + "\\" * 50_000,
    "newlines": "Answer: x" + "\n" * 50_000,
    "spaces": "Solution:" + " " * 50_000 + "x\nAnswer" + " " * 25_000,
    "spaces in json": '{"a"' + " " * 50_000,
    "slashes": "{" + "//" * 25_000,
    "hashes": "#" * 50_000,
    "stars": "**" * 25_000 + "\nAnswer",
    "headings": "## Answer\n" * 5_000,
    "examples": "Example 1\nInput:\n" * 3_000,
    "bullets": "- a\n" * 12_500,
    "tags": "<answer>" * 6_250 + "</answer>" * 500,
    "think": "<think>" * 7_500,
    "fences": "```json\n" * 6_250,
    "sorry": "I can" * 10_000,
    "numbers": '{"a": ' + "9" * 50_000,
    "exponents": '{"a": 1e999, "b": ' + "1." * 15_000,
}  # fmt: skip


@pytest.mark.parametrize("name", MONSTERS)
def test_a_reply_of_fifty_kilobytes_is_read_in_a_moment(name: str) -> None:
    """A model that loops writes until its limit; reading that must not stall the questions beside it."""
    text = MONSTERS[name]
    began = time.process_time()

    for shape in (WorkedSolution, NewExamples, NewInputs):
        parse(shape, text)

    assert time.process_time() - began < 3


def test_values_are_found_wherever_they_stand() -> None:
    """Outermost ones only, and reading goes on behind what is broken."""
    found: list[Any] = values_in('a {task} [1, 2] {"b": {"c": [true, null]}} [see {"d": 1}')

    assert found == [[1, 2], {"b": {"c": [True, None]}}, {"d": 1}]
