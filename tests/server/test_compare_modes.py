"""The same prompts answered side by side: as each model was made, for the answer alone, or with reasoning."""

from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.thinking import check_mode
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.server.words import in_words
from tests.conftest import Bench, Demo
from tests.runs.made import manifest

PROMPTS = ["Where is my parcel?", "You charged my card twice."]


@pytest.mark.slow
async def test_the_demos_student_answers_with_reasoning_and_without_and_nothing_is_asked_twice(
    bench: Bench, demo: Demo
) -> None:
    """What reasoning is worth is seen side by side, in MLX and in llama.cpp, with what each answer took."""
    run_id = bench.adopt(demo)
    models = ["base", "student", "gguf"]
    async with bench.connect() as agent:

        async def compared(prompts: list[str], mode: str) -> dict[str, Any]:
            reply = await agent.finish(run_id, "compare_models", prompts=prompts, models=models, mode=mode)
            assert reply["state"] == "done", reply["message"]
            return reply

        reasoned = await compared(PROMPTS[:1], "reasoning")
        answered = sum(1 for path in _kept(bench, run_id) for _ in read_lines(path))
        more = await compared(PROMPTS, "reasoning")
        direct = await compared(PROMPTS, "direct")
    assert more["result"]["rows"][0] == reasoned["result"]["rows"][0]
    told = more["message"]
    assert told.startswith("2 prompts are answered with reasoning by base (")
    assert 'To "Where is my parcel?": base says "' in told
    for with_, without in zip(more["result"]["rows"], direct["result"]["rows"], strict=True):
        for model in ("student", "gguf"):
            assert with_[model]["thinking"], model
            assert (without[model]["thinking"], bool(without[model]["answer"])) == ("", True)
            assert without[model]["tokens"] > 0
            assert set(without[model]) == {"thinking", "answer", "seconds", "tokens", "finished"}
            assert without[model]["seconds"] > 0
        assert with_["base"]["answer"] == without["base"]["answer"], "it has no reasoning to begin or leave out"
    assert len(direct["result"]["notes"]) == 2
    kept = [row for path in _kept(bench, run_id) for row in read_lines(path)]
    assert len({(row["variant"], row["id"]) for row in kept}) == len(kept)
    assert len(kept) == answered + 3 + 4, "three for the second prompt, then student and file without reasoning"


def _kept(bench: Bench, run_id: str) -> list[Any]:
    return sorted((bench.run_folder(run_id) / "answered").glob("*.jsonl"))


def test_reasoning_is_not_asked_of_a_student_that_was_taught_answers_alone() -> None:
    """It would write something, and that would not be what the student does."""
    spec = manifest(reasoning="direct").spec
    with pytest.raises(UserInputError, match="taught answers alone"):
        check_mode(spec, "reasoning", ["base", "student"])
    check_mode(spec, "reasoning", ["base", "teacher"])
    check_mode(spec, "direct", ["student", "gguf"])


def test_a_comparison_of_an_older_version_is_still_told() -> None:
    """Its rows have neither seconds nor a mode."""
    row = {"prompt": "a\nb", "base": {"thinking": "", "answer": "x" * 100}}
    told = in_words("compare_models", {"models": ["base"], "rows": [row]})
    assert told == f'1 prompt is answered by base. To "a b": base says "{"x" * 80}...".'
