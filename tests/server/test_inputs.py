"""What goes in, through the real server: raw inputs, labels by the teacher, forms of the target, prompts of one's own."""

from nanodistill_mcp.demo.student import student_path
from tests.conftest import Bench


async def test_tags_of_its_own_are_refused_for_a_student_that_has_none(bench: Bench) -> None:
    """Said before anything is paid: it would have to learn two new words with every row."""
    async with bench.connect() as agent:
        told = await agent.refused(
            "create_run",
            name="r",
            instruction="Sort.",
            seed=[{"input": f"message {number}", "output": "a"} for number in range(6)],
            teacher="local",
            student=str(student_path()),
            options={"thinking_format": "native"},
        )
        assert told == (
            "thinking_format='native' needs a student with thinking tags of its own, and this one has none. "
            "Leave thinking_format out, or give one of: xml, markdown, json, plain."
        )
        assert (await agent.call("get_status"))["runs"] == []


async def test_what_the_examples_hang_on_is_not_changed_when_training(bench: Bench) -> None:
    """Taken without effect it would be believed."""
    async with bench.connect() as agent:
        await agent.create()
        told = await agent.refused("train", run_id="tickets", options={"thinking_format": "plain", "lora_rank": 4})
    assert told.startswith("thinking_format: settled when the run was created")
