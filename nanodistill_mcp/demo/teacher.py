"""The demo's teacher: a program that answers the pipeline's prompts with the task's own rules.

It stands where a paid model would, behind HTTP on the loopback, and sees nothing but the request: each answer is a function
of the request's text, so asking twice gives the same answer, and a resumed run meets the same teacher.
"""

import json
import random
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest, WireServer

_BLOCK = re.compile(r"<([a-z-]+)-([0-9a-f]{6})>\n(.*?)\n</\1-\2>", re.DOTALL)
_MOST_INPUTS = 50


def answer(system: str, user: str, schema_name: str) -> dict[str, Any]:
    """Answer one request in the shape its schema names.

    Args:
        system: The template. It takes part in the draw of new examples only.
        user: Tagged blocks.
        schema_name: One of the shapes in ``teacher.answers``.

    Raises:
        ValueError: It is another one.
    """
    blocks: dict[str, str] = {}
    for match in _BLOCK.finditer(user):
        blocks.setdefault(match[1], match[3])
    match schema_name:
        case "WorkedSolution":
            solution, queue = task.solve(blocks.get("input", user))
            return {"solution": solution, "answer": queue}
        case "PolicyDraft":
            return _policy(blocks)
        case "DirectAnswer":
            return {"answer": task.solve(blocks.get("input", user))[1]}
        case "Derivation":
            return _derivation(blocks.get("input", ""), blocks.get("answer", ""))
        case "Comparison":
            same = blocks.get("first", "").split() == blocks.get("second", "").split()
            return {"reason": "Word by word.", "same": same}
        case "NewInputs":
            return _new_inputs(blocks, random.Random(f"{system}\n{user}"))  # noqa: S311 - the demo must repeat itself
        case _:
            raise ValueError(schema_name)


@contextmanager
def serving() -> Generator[str]:
    """Serve the teacher on a free port of 127.0.0.1 and yield the base URL for LiteLLM's `openai/...` models."""
    with WireServer(_reply) as server:
        yield server.openai_url


def _reply(request: WireRequest) -> WireReply:
    return Says(answer(request.system, request.user, request.schema_name))


def _new_inputs(blocks: dict[str, str], rng: random.Random) -> dict[str, Any]:
    cells = _objects(blocks.get("cells", ""))[:_MOST_INPUTS] or [{}]
    queues = [str(each.get("answer", "")) for each in cells]
    known = [queue if queue in task.QUEUES else rng.choice(task.QUEUES) for queue in queues]
    return {"inputs": [task.write_message(rng, queue).text for queue in known]}


def _derivation(text: str, given: str) -> dict[str, Any]:
    solution, queue = task.solve(text)
    if not given.strip() or queue == given.strip():
        return {"objection": "", "solution": solution, "answer": queue}
    objection = f"Most clues point to {queue}."
    return {"objection": objection, "solution": f"The message as a whole belongs to {given}.", "answer": given}


def _policy(blocks: dict[str, str]) -> dict[str, Any]:
    rows = _examples(blocks.get("examples", ""))
    outputs = {row["output"] for row in rows}
    known = outputs <= set(task.QUEUES)
    constraints = [
        "Most clues decide; a single clue of another kind is passed over.",
        "On a tie the clue that comes later decides.",
        "A message without a clue goes to account, where a person reads it.",
    ]
    if feedback := blocks.get("feedback", "").strip():
        constraints.append(feedback)
    return {
        "task_description": blocks.get("task", "").strip() or task.INSTRUCTION,
        "input_format": "A customer's message to a shop: one to four plain sentences, now and then with a greeting or thanks.",
        "output_format": "The queue alone, in lower case."
        if known
        else "The answer alone, written as in the examples.",
        "reasoning_style": "The clue words in reading order with the kind each points to, then the kind most of them share, then the queue.",
        "key_constraints": constraints,
        "difficulty_level": "mixed",
        "reasoning_patterns": ["clue word -> kind", "most clues share one kind", "kind -> queue"],
        "examples_summary": f"{len(rows)} messages over {len(outputs)} queues; few hold clues of two kinds, more would help.",
        "input_length_range": _range([row["input"] for row in rows]),
        "output_length_range": _range([row["output"] for row in rows]),
        "topics": task.grammar()["slots"]["item"][:8],
        "personas": ["a customer in a hurry", "a regular customer", "someone who writes for another"],
        "checker": "choice" if known else "normalized",
        "choices": list(task.QUEUES) if known else [],
    }


def _examples(lines: str) -> list[dict[str, str]]:
    """The rows that have an input and an output."""
    rows = [row for row in _objects(lines) if {"input", "output"} <= row.keys()]
    return [{"input": str(row["input"]), "output": str(row["output"])} for row in rows]


def _objects(lines: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in lines.splitlines():
        try:
            row: Any = json.loads(line)
        except ValueError:  # a caller may ask in another form; the answer keeps its shape
            continue
        if isinstance(row, dict):
            rows.append(row)  # pyright: ignore[reportUnknownArgumentType]
    return rows


def _range(texts: list[str]) -> list[int]:
    lengths = [len(text) for text in texts] or [1]
    return [max(1, min(lengths) // 2), 2 * max(lengths)]
