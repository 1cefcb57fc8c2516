"""Whatever the pieces, a text read while it is written gives what the whole text gives."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanodistill_mcp.pipeline import thinking
from nanodistill_mcp.runs.records import ThinkingFormat
from nanodistill_mcp.serving.parting import Parting

PIECE = st.sampled_from([*'ab c\n<>/\\#*:"{}é', "</thinking>", "</think", "### Answer", "Answer:"])
TEXT = st.lists(PIECE, max_size=60).map("".join)


@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("form", thinking.FORMATS)
@given(reasoning=TEXT, output=TEXT, cuts=st.lists(st.integers(1, 9), max_size=30))
def test_pieces_of_a_text_in_form_add_up_to_its_reasoning_and_its_answer(
    form: ThinkingFormat, reasoning: str, output: str, cuts: list[int]
) -> None:
    """What a student was taught to write is told in full, each part in its own field."""
    text = thinking.join(reasoning, output, form)
    parting = Parting(partial(thinking.part, form=form))
    given_: list[tuple[str, str]] = []
    at = 0
    for cut in cuts:
        given_.append(parting.more(text[at : at + cut]))
        at += cut
    given_ += [parting.more(text[at:]), parting.rest()]
    assert tuple(map("".join, zip(*given_, strict=True))) == thinking.part(text, form)


def test_a_stop_ends_the_answer_and_never_the_reasoning() -> None:
    """A line's end that a caller stops at stands in every reasoning too."""
    parting = Parting(partial(thinking.part, form="xml"), stops=["\n", "STOP"])
    told = [parting.more(piece) for piece in ("<thinking>\na\nb\n</thinking>\nyes", "ST", "OP more")]
    assert parting.stopped
    assert tuple(map("".join, zip(*told, strict=True))) == ("a\nb", "yes")


def test_reasoning_that_the_chat_template_opened_is_told_while_it_is_written() -> None:
    """The tag stands in the prompt, so the text itself begins within the reasoning."""
    parting = Parting(partial(thinking.part, form="native"), opening="<think>")
    told = [parting.more("first this, then that and " * 4), parting.more("so.\n</think>\n\nyes"), parting.rest()]
    assert told[0][0].startswith("first this")
    assert "".join(thought for thought, _ in told).endswith("so.")
    assert "".join(answer for _, answer in told) == "yes"
