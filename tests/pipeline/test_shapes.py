"""Examples as other programs write them, and files in which some rows cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.plan import Request, check_request, input_warnings
from nanodistill_mcp.settings import load_settings
from tests.threats.secret_files import CANARY, SECRET_FILES, write

SORT = "Sort the message."
SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "alpaca": lambda i: {"instruction": SORT, "input": f"message {i}", "output": "ab"[i % 2]},
    "messages": lambda i: {
        "messages": [
            {"role": "system", "content": SORT},
            {"role": "user", "content": f"message {i}"},
            {"role": "assistant", "content": "ab"[i % 2]},
        ]
    },
    "prompt and completion": lambda i: {"prompt": f"message {i}", "completion": "ab"[i % 2]},
    "prompt and completion of messages": lambda i: {
        "prompt": [{"role": "system", "content": SORT}, {"role": "user", "content": f"message {i}"}],
        "completion": [{"role": "assistant", "content": "ab"[i % 2]}],
    },
}


def _asked(folder: Path, rows: list[Any] | str, *, name: str = "rows.jsonl", **further: Any) -> Request:
    """What create_run makes of a file of these rows."""
    folder.mkdir(exist_ok=True)
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")
    given: dict[str, Any] = {
        "name": "r",
        "instruction": "",
        "seed": [],
        "seed_path": str(folder / name),
        "teacher": "",
        "student": "org/s",
        "augment_factor": 2,
        "reasoning": "cot",
        "options": {},
        **further,
    }
    settings = load_settings(folder.parent, env={"NANODISTILL_ALLOWED_PATHS": str(folder)})
    return check_request(settings, **given, response_schema={}, preset="recommended", budget_usd=1)


def _pairs(request: Request) -> list[tuple[str, str]]:
    return [(seed.input, seed.output) for seed in request.seeds]


@pytest.mark.parametrize("shape", SHAPES)
def test_files_of_other_programs_give_the_same_examples(tmp_path: Path, shape: str) -> None:
    """Nobody rewrites a file before trying a program; what the rows ask for is the run's instruction where they say it."""
    request = _asked(
        tmp_path / "a",
        [SHAPES[shape](i) for i in range(6)],
        instruction="" if shape != "prompt and completion" else SORT,
    )
    assert _pairs(request) == [(f"message {i}", "ab"[i % 2]) for i in range(6)]
    assert request.spec.instruction == SORT
    told = [each for each in input_warnings(request) if "instruction" in each]
    assert len(told) == (0 if shape == "prompt and completion" else 1)
    assert SORT not in " ".join(told)  # it is a file's text: shown where it is asked for


def test_an_alpaca_file_may_be_csv_or_an_array_and_a_list_may_be_given_too(tmp_path: Path) -> None:
    """The shape is the columns', whatever the notation."""
    rows = [SHAPES["alpaca"](i) for i in range(4)]
    wanted = _pairs(_asked(tmp_path / "a", json.dumps(rows), name="rows.json"))
    lines = "".join(f"{row['instruction']},{row['input']},{row['output']}\n" for row in rows)
    assert _pairs(_asked(tmp_path / "a", "Instruction,input,output\n" + lines, name="rows.csv")) == wanted
    assert _pairs(_asked(tmp_path / "a", "[]", seed=rows, seed_path="")) == wanted
    assert len(wanted) == 4


def test_an_instruction_that_differs_from_the_given_one_is_asked_about_and_an_equal_one_is_not(tmp_path: Path) -> None:
    """Two instructions for one student: the user says which; line ends do not count."""
    rows = [SHAPES["alpaca"](i) for i in range(4)]
    assert _asked(tmp_path / "a", rows, instruction=" Sort  the\nmessage.").spec.instruction == "Sort  the\nmessage."
    with pytest.raises(UserInputError, match="carry one instruction, and it is not the one that was given") as refused:
        _asked(tmp_path / "a", rows, instruction="Translate it.")
    assert SORT not in str(refused.value)
    with pytest.raises(UserInputError, match="an instruction of 20001 characters"):
        _asked(tmp_path / "a", [{**row, "instruction": "x" * 20_001} for row in rows])


def test_instructions_that_differ_are_put_before_the_inputs(tmp_path: Path) -> None:
    """As DistilQwen's are: the instruction is the question. A row that repeats the run's own says it once."""
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "What is the capital of France?", "output": "Paris"},
        {"instruction": "Name a colour.", "input": "", "output": "red"},
        {"instruction": "Answer.", "input": "two and two", "output": "4"},
    ]
    request = _asked(tmp_path / "a", rows, instruction="Answer.")
    assert _pairs(request) == [
        ("Add.\n\n1 2", "3"),
        ("What is the capital of France?", "Paris"),
        ("Name a colour.", "red"),
        ("two and two", "4"),
    ]
    with pytest.raises(UserInputError, match="The instruction is empty"):
        _asked(tmp_path / "a", rows)


def test_test_rows_and_inputs_are_understood_alike(tmp_path: Path) -> None:
    """What is proved must look like what was learnt."""
    (tmp_path / "a").mkdir()
    tests, inputs = tmp_path / "a" / "test.jsonl", tmp_path / "a" / "inputs.jsonl"
    tests.write_text("".join(json.dumps(SHAPES["alpaca"](i)) + "\n" for i in range(10, 14)))
    further = [SHAPES["alpaca"](20), SHAPES["messages"](21), {"instruction": "Shout.", "input": "x", "output": ""}]
    inputs.write_text("".join(json.dumps(row) + "\n" for row in further))
    rows = [SHAPES["alpaca"](i) for i in range(4)]
    request = _asked(tmp_path / "a", rows, options={"test_path": str(tests), "inputs_path": str(inputs)})
    assert [seed.input for seed in request.seeds if seed.split == "held_out"] == [f"message {i}" for i in range(10, 14)]
    assert request.inputs == ["message 20", "message 21", "Shout.\n\nx"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"instruction": "a", "input": "b", "output": "c", "history": []}, "Example 1 has 4 columns"),
        ({"prompt": "a", "completion": "b", "id": 1}, "Example 1 has 3 columns"),
        ({"prompt": "a"}, "Example 1 has 1 columns"),
        ({"prompt": {"a": 1}, "completion": "b"}, "Example 1 has 2 columns"),
        ({"messages": [], "tools": []}, "Example 1 has 2 columns"),
        ({"messages": []}, "The messages of example 1 are not one question and its answer"),
        ({"messages": [{"role": "user", "content": CANARY, "name": "x"}]}, "The messages of example 1 are not one"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "The messages of example 1 are not one"),
        (
            {"messages": [{"role": r, "content": CANARY} for r in ("user", "assistant") * 2]},
            "The messages of example 1",
        ),
        ({"messages": [{"role": "tool", "content": CANARY}]}, "The messages of example 1 are not one question"),
    ],
)
def test_other_columns_are_refused_as_before_and_not_repeated(tmp_path: Path, row: Any, what: str) -> None:
    """A shape is its exact columns: a file with one more is another file."""
    with pytest.raises(UserInputError) as refused:
        _asked(tmp_path / "a", [row, *(SHAPES["alpaca"](i) for i in range(3))], instruction=SORT)
    assert refused.value.what.startswith(what)
    assert CANARY not in str(refused.value)


GOOD = "".join(json.dumps({"input": f"message {i}", "output": "ab"[i % 2]}) + "\n" for i in range(8))
BAD = f'not json {CANARY}\n\n{{"input": "", "output": "a"}}\n{{"input": "{CANARY}", "secret": 1}}\n["{CANARY}"]\n'


def test_rows_that_cannot_be_used_are_set_aside_by_line_and_reason_when_that_is_wanted(tmp_path: Path) -> None:
    """One torn line in a night's export need not stop the night; what was in it is not copied anywhere."""
    request = _asked(
        tmp_path / "a",
        GOOD + BAD + '{"input": "message 1", "output": "z"}\n',
        instruction=SORT,
        options={"malformed": "set_aside"},
    )
    assert len(request.seeds) == 8
    assert request.set_aside == [
        {"file": "seed", "line": 9, "reason": "not JSON"},
        {"file": "seed", "line": 11, "reason": "with an empty input"},
        {"file": "seed", "line": 12, "reason": "with other columns"},
        {"file": "seed", "line": 13, "reason": "not an object"},
        {"file": "seed", "line": 14, "reason": "of an earlier input with another output"},
    ]
    told = input_warnings(request)[0]
    assert told.startswith("5 rows were set aside (1 not JSON, 1 with an empty input, 1 with other columns")
    assert CANARY not in json.dumps([request.set_aside, told])
    with pytest.raises(UserInputError, match="Line 9 of the seed file is not JSON"):
        _asked(tmp_path / "a", GOOD + BAD, instruction=SORT)


def test_rows_of_an_array_and_of_a_table_are_named_by_their_number(tmp_path: Path) -> None:
    """They have no line of their own."""
    rows = [*(SHAPES["alpaca"](i) for i in range(5)), None]
    made = _asked(tmp_path / "a", json.dumps(rows), name="rows.json", options={"malformed": "set_aside"})
    assert made.set_aside == [{"file": "seed", "row": 6, "reason": "not an object"}]
    table = "input,output\n" + "a,1\nb\nc,2\nd,3\n"
    made = _asked(tmp_path / "a", table, name="rows.csv", instruction=SORT, options={"malformed": "set_aside"})
    assert made.set_aside == [{"file": "seed", "row": 2, "reason": "with fewer columns than the header"}]


def test_a_file_of_which_more_than_half_cannot_be_used_is_refused_all_the_same(tmp_path: Path) -> None:
    """It is not what its name says: nothing of it goes to a teacher."""
    with pytest.raises(UserInputError, match="Of the seed file's 12 rows, 9 cannot be used") as refused:
        _asked(
            tmp_path / "a",
            GOOD[: GOOD.index("message 3")][:-11] + f"\n{CANARY}" * 9,
            instruction=SORT,
            options={"malformed": "set_aside"},
        )
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize("argument", ["seed_path", "test_path", "inputs_path"])
def test_no_secret_file_is_read_for_its_good_rows(tmp_path: Path, argument: str) -> None:
    """Setting rows aside opens no file that is refused without it (T1)."""
    for name, content in SECRET_FILES.items():
        path = write(tmp_path / "a", name, content)
        options = {"malformed": "set_aside", **({argument: str(path)} if argument != "seed_path" else {})}
        given = {"seed_path": str(path)} if argument == "seed_path" else {}
        with pytest.raises(UserInputError) as refused:
            _asked(tmp_path / "a", GOOD, name="good.jsonl", instruction=SORT, options=options, **given)
        assert CANARY not in str(refused.value), name
