"""A provider that repeats the key it was sent: it is kept nowhere."""

import pytest

from nanodistill_mcp.demo.wire import Says
from tests.teacher.conftest import SECRET, Desk, question

ECHO = f"Your headers were Authorization: Bearer {SECRET}"


@pytest.mark.parametrize("reply", [Says({"solution": ECHO, "answer": "4"}), Says(ECHO)], ids=["an answer", "prose"])
async def test_a_key_in_an_answer_reaches_neither_the_journal_nor_what_is_made_of_it(desk: Desk, reply: Says) -> None:
    """A proxy that shows a request's headers; what it says goes into files, to the agent and into the student."""
    from nanodistill_mcp.teacher.answers import WorkedSolution
    from nanodistill_mcp.teacher.client import RowDeclined

    desk.answers(reply)
    async with desk.teacher() as teacher:
        try:
            answer = await teacher.ask(question(), WorkedSolution)
        except RowDeclined:
            answer = None
    assert any(SECRET in str(request.headers) for request in desk.requests), "it was sent"
    assert SECRET not in repr(answer)
    assert any("[key]" in record["text"] for record in desk.records("answer"))
    written = [path for path in desk.folder.rglob("*") if path.is_file()]
    assert written
    assert [path.name for path in written if SECRET.encode() in path.read_bytes()] == []
