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
_MOST_EXAMPLES = 50


def answer(system: str, user: str, schema_name: str) -> dict[str, Any]:
    """Answer one request in the shape its schema names.

    Args:
        system: The template. It takes part in the draw of new examples only.
        user: Tagged blocks.
        schema_name: `WorkedSolution`, `PolicyDraft` or `NewExamples`.

    Raises:
        ValueError: The schema is not one of the three.
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
        case "NewExamples":
            return _new_examples(blocks, random.Random(f"{system}\n{user}"))  # noqa: S311 - the demo must repeat itself
        case _:
            raise ValueError(schema_name)


@contextmanager
def serving() -> Generator[str]:
    """Serve the teacher on a free port of 127.0.0.1 and yield the base URL for LiteLLM's `openai/...` models."""
    with WireServer(_reply) as server:
        yield server.openai_url


def _reply(request: WireRequest) -> WireReply:
    return Says(answer(request.system, request.user, request.schema_name))


def _new_examples(blocks: dict[str, str], rng: random.Random) -> dict[str, Any]:
    wanted = blocks.get("count", "").strip()
    count = min(int(wanted), _MOST_EXAMPLES) if wanted.isdecimal() else 1
    first = rng.randrange(len(task.QUEUES))
    queues = [task.QUEUES[(first + index) % len(task.QUEUES)] for index in range(count)]
    messages = [task.write_message(rng, queue) for queue in queues]
    return {"examples": [{"input": message.text, "output": message.queue} for message in messages]}


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
        "checker": "choice" if known else "normalized",
        "choices": list(task.QUEUES) if known else [],
    }


def _examples(lines: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for line in lines.splitlines():
        try:
            row: Any = json.loads(line)
            rows.append({"input": str(row["input"]), "output": str(row["output"])})
        except (ValueError, KeyError, TypeError):  # a caller may ask in another form; the answer keeps its shape
            continue
    return rows


def _range(texts: list[str]) -> list[int]:
    lengths = [len(text) for text in texts] or [1]
    return [max(1, min(lengths) // 2), 2 * max(lengths)]
