"""What prompts begin with is read once: the answers stay the same to the token, memory stays bounded, and nobody reads another's prompt."""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.student.keep_mlx import MlxEngine
from nanodistill_mcp.student.questions import Ask, Ended, KeepLoaded, Wrote
from tests.tiny_student import make_tiny

INSTRUCTION = "The user asks for the sum of the digits; the assistant answers step by step. " * 6
QUESTIONS = ["please reverse 7", "is the answer good", "<ticket>", "7", "\n\na good number plus a bad one equals"]


def _engine(student: Path, **further: Any) -> MlxEngine:
    return MlxEngine(KeepLoaded(student=str(student), context_tokens=1024, parallel=4, **further))


def _asked(number: int, content: str, system: str) -> Ask:
    """Drawn with a seed: a random student's likeliest token is the same whatever it is asked."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
    return Ask.model_validate(
        {"id": number, "messages": messages, "max_tokens": 12, "temperature": 1.0, "seed": number}
    )


def _answers(engine: MlxEngine, contents: Sequence[str], system: str = INSTRUCTION) -> tuple[list[str], int]:
    """The texts, and how many tokens of prompts were read for them; they are asked side by side."""
    written: dict[int, str] = {}
    with engine._generator.stats() as stats:
        told = [
            line for number, content in enumerate(contents) for line in engine.begin(_asked(number, content, system))
        ]
        while engine.is_busy:
            told += engine.step()
    for line in told:
        if isinstance(line, Wrote):
            written[line.id] = written.get(line.id, "") + line.text
    assert sum(isinstance(line, Ended) for line in told) == len(contents)
    return [written.get(number, "") for number in range(len(contents))], stats.prompt_tokens


def _kept(engine: MlxEngine) -> list[list[int]]:
    return [list(tokens) for order in engine.prefixes.store._lru._lrus.values() for _, tokens in order]


@pytest.mark.parametrize("arch", ["llama", pytest.param("qwen3", marks=pytest.mark.slow), "gemma3_text"])
def test_an_instruction_is_read_once_and_the_answers_are_the_same_to_the_token(tmp_path: Path, arch: str) -> None:
    """One after the other and side by side, beside questions that found nothing kept, and with the window of a sliding one."""
    student = make_tiny(tmp_path / arch, arch)
    plain, keeping = _engine(student), _engine(student, instruction=INSTRUCTION)
    for contents in (QUESTIONS[:1], QUESTIONS[1:2], QUESTIONS):
        kept = len(_kept(keeping))
        wanted, read = _answers(plain, contents)
        found, read_less = _answers(keeping, contents)
        assert found == wanted
        assert read_less < read / 5 if kept else read_less == read
    assert len(set(wanted)) == len(QUESTIONS)
    assert not _kept(plain)


def test_of_a_callers_words_nothing_is_kept(tmp_path: Path) -> None:
    """Callers of a served model share the run's instruction alone; a system message of one's own is as private as a question."""
    engine = _engine(make_tiny(tmp_path / "student"), instruction=INSTRUCTION)
    whole = engine._chat.ids(engine._chat.prompt_text(_asked(0, "my secret is 7", INSTRUCTION).messages))
    _answers(engine, ["my secret is 7", "my secret is 8"])
    (kept,) = _kept(engine)
    assert whole[: len(kept)] == kept
    assert engine._chat.text(kept) == f"system\n{INSTRUCTION}\nuser\n"
    assert {layer.offset for layer in engine.prefixes.found(whole)[0]} == {len(kept)}
    before = engine.prefixes.store.nbytes
    _, read = _answers(engine, ["again"], system=f"{INSTRUCTION} My password is 9.")
    _, read_again = _answers(engine, ["again"], system=f"{INSTRUCTION} My password is 9.")
    assert read_again == read
    assert (_kept(engine), engine.prefixes.store.nbytes) == ([kept], before)


def test_one_askers_prompts_are_kept_within_bounds(tmp_path: Path) -> None:
    """A teacher is asked about the same policy hundreds of times: each prompt is read from where it parts from an earlier one."""
    student = make_tiny(tmp_path / "student")
    plain, keeping = _engine(student), _engine(student, is_one_asker=True)
    bound = keeping.prefixes.store.max_bytes
    contents = [f"{INSTRUCTION} Now the number {number}: {QUESTIONS[number % 5]}" for number in range(12)]
    for content in contents:
        wanted, read = _answers(plain, [content], system="answer")
        found, read_less = _answers(keeping, [content], system="answer")
        assert found == wanted
        assert content == contents[0] or read_less < read / 3
        assert 0 < keeping.prefixes.store.nbytes <= bound
        assert len(_kept(keeping)) <= 8
    other = [f"{number} " * 200 for number in range(9)]
    for content in other:
        _answers(keeping, [content])
        assert keeping.prefixes.store.nbytes <= bound
    assert _answers(keeping, other)[0] == _answers(plain, other)[0]
