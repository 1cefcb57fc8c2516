"""Answers: each once, of each variant, whatever dies in between."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import os
from pathlib import Path
from typing import Any

import pytest
from mlx_lm import load, stream_generate

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.files import count_lines, read_lines
from nanodistill_mcp.student.answer_requests import Done, Generated, GenerateRequest, Variant
from nanodistill_mcp.student.generate import generate
from nanodistill_mcp.student.lora import train
from tests.student.bench import carry_out, conversation, start, training, wait_until, write_jsonl
from tests.student.gguf_students import make_family
from tests.tiny_student import make_tiny


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, student: Path) -> Path:
    """An adapter that has learnt to answer, and to stop."""
    request = training(
        tmp_path_factory.mktemp("trained"), student, fine_tune_type="full", iters=60, batch_size=8, learning_rate=3e-3
    )
    train(request)
    return request.adapter_dir


def _request(root: Path, student: Path, adapter: Path, *, prompts: int = 6, **changes: object) -> GenerateRequest:
    rows = [{"id": f"p{number}", "messages": conversation(number)["messages"][:2]} for number in range(prompts)]
    values = {
        "student": str(student),
        "variants": [Variant(name="student", adapter_dir=adapter), Variant(name="base")],
        "prompts_path": write_jsonl(root / "prompts.jsonl", rows),
        "output_path": root / "answers.jsonl",
        "metrics_path": root / "metrics.jsonl",
        "result_path": root / "result.json",
        "max_tokens": 48,
        "batch_size": 4,
    }
    return GenerateRequest.model_validate(values | changes)


def _answers(request: GenerateRequest) -> dict[tuple[str, str], Generated]:
    rows = [Generated.model_validate(row) for row in read_lines(request.output_path)]
    answers = {(row.variant, row.id): row for row in rows}
    assert len(answers) == len(rows), "a prompt is answered once"
    return answers


def test_every_variant_answers_every_prompt_as_mlx_lm_alone_would(tmp_path: Path, student: Path, adapter: Path) -> None:
    """Batches, and putting the adapter on the loaded base, must not change an answer."""
    request = _request(tmp_path, student, adapter)
    assert generate(request) == Done(rows=12)

    answers = _answers(request)
    assert len(answers) == 12
    for variant, adapter_path in (("base", None), ("student", str(adapter))):
        model, tokenizer, *_ = load(str(student), adapter_path=adapter_path)
        for number in range(6):
            prompt = tokenizer.apply_chat_template(conversation(number)["messages"][:2], add_generation_prompt=True)
            tokens = [part.token for part in stream_generate(model, tokenizer, prompt=prompt, max_tokens=48)]
            assert answers[variant, f"p{number}"].text == tokenizer.decode(tokens, skip_special_tokens=True)
            assert answers[variant, f"p{number}"].prompt_tokens == len(prompt)


def test_a_family_whose_batches_mlx_lm_gets_wrong_is_asked_one_by_one(tmp_path: Path) -> None:
    """gemma2 lays the masks of a batch over its heads: two prompts of different length answer otherwise, three are an error."""
    student = make_family(tmp_path / "gemma2", "gemma2")
    rows = [
        {"id": f"p{size}", "messages": [{"role": "user", "content": "seven words " * size}]} for size in (1, 2, 4, 9)
    ]
    asked: dict[str, Any] = {
        "prompts_path": write_jsonl(tmp_path / "some.jsonl", rows),
        "variants": [Variant(name="base")],
    }
    (tmp_path / "alone").mkdir()
    apart = _request(tmp_path / "alone", student, tmp_path, batch_size=1, **asked)

    found: list[dict[tuple[str, str], str]] = []
    for request in (apart, *(_request(tmp_path, student, tmp_path, batch_size=size, **asked) for size in (2, 3))):
        request.output_path.unlink(missing_ok=True)
        generate(request)
        found.append({key: answer.text for key, answer in _answers(request).items()})

    assert found[0] == found[1] == found[2]


def test_an_answer_says_whether_the_student_stopped_by_itself(tmp_path: Path, student: Path, adapter: Path) -> None:
    """The trained one has learnt the end of an answer, the random base has not."""
    request = _request(tmp_path, student, adapter)
    generate(request)
    answers = _answers(request)

    assert {answers["base", f"p{number}"].finish_reason for number in range(6)} == {"length"}
    assert {answers["base", f"p{number}"].completion_tokens for number in range(6)} == {48}
    assert {answers["student", f"p{number}"].finish_reason for number in range(6)} == {"stop"}
    assert all("<|im_end|>" not in row.text for row in answers.values())
    assert all(row.text.startswith("<thinking>") for key, row in answers.items() if key[0] == "student")
    assert all(0 < row.elapsed_s < 10 for row in answers.values())


def test_answers_already_given_are_kept_and_a_torn_line_is_given_again(
    tmp_path: Path, student: Path, adapter: Path
) -> None:
    """A power cut leaves half a line; the next row must not be appended to it."""
    request = _request(tmp_path, student, adapter)
    generate(request)
    lines = request.output_path.read_bytes().splitlines(keepends=True)
    request.output_path.write_bytes(b"".join(lines[:7]) + lines[7][:-9])
    kept = b"".join(lines[:7])

    assert generate(request) == Done(rows=12)

    assert request.output_path.read_bytes().startswith(kept)
    assert len(_answers(request)) == 12
    done = [event["done"] for event in read_lines(request.metrics_path)]
    assert done[-1] == 12
    assert 7 in done


def test_a_generation_that_is_killed_goes_on_with_the_rows_that_are_left(
    tmp_path: Path, student: Path, adapter: Path
) -> None:
    """An evaluation of hundreds of rows takes minutes; batches are appended as they are done."""
    request = _request(tmp_path, student, adapter, prompts=60, max_tokens=24)

    with start(request) as process:
        wait_until(lambda: count_lines(request.output_path) >= 8, process)
        process.kill()
        process.wait(10)
    given = len(_answers(request))
    assert 8 <= given < 120

    code, result = carry_out(request)

    assert (code, result) == (0, {"rows": 120})
    assert len(_answers(request)) == 120


def test_a_prompt_that_leaves_no_room_is_answered_with_nothing_and_counted(tmp_path: Path, adapter: Path) -> None:
    """One long input must not end an evaluation; an answer never grows past the student's context."""
    student = make_tiny(tmp_path / "student")
    config = student / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 2048', '"max_position_embeddings": 64'))
    request = _request(tmp_path, student, adapter, variants=[Variant(name="base")], max_tokens=100)
    long = {"role": "user", "content": "ticket " * 200}
    write_jsonl(
        request.prompts_path,
        [{"id": "long", "messages": [long]}, {"id": "short", "messages": conversation(1)["messages"][:2]}],
    )
    generate(request)
    answers = _answers(request)

    assert answers["base", "long"].text == ""
    assert answers["base", "long"].finish_reason == "length"
    assert answers["base", "short"].prompt_tokens + answers["base", "short"].completion_tokens == 64
    assert {"event": "rows", "done": 1, "total": 2, "too_long": 1} in read_lines(request.metrics_path)


def test_several_adapters_can_be_compared(tmp_path: Path, student: Path, adapter: Path) -> None:
    """An adapter is never put on top of another."""
    variants = [
        Variant(name="one", adapter_dir=adapter),
        Variant(name="two", adapter_dir=adapter),
        Variant(name="base"),
    ]
    request = _request(tmp_path, student, adapter, variants=variants)
    extra = train(training(tmp_path / "other", student, iters=2)).iterations
    assert extra == 2
    other = tmp_path / "other" / "adapters"
    request = request.model_copy(update={"variants": [*variants[1:], Variant(name="one", adapter_dir=other)]})
    generate(request)
    answers = _answers(request)

    assert len(answers) == 18
    assert answers["two", "p1"].text != answers["one", "p1"].text != ""
    assert answers["two", "p1"].finish_reason == "stop"


def test_an_adapter_of_another_student_is_an_error_in_our_words(tmp_path: Path, adapter: Path) -> None:
    """MLX-LM lists tensors and shapes."""
    other = make_tiny(tmp_path / "other", hidden=32)

    with pytest.raises(UserInputError, match="not with its adapter"):
        generate(_request(tmp_path, other, adapter))
    assert "student" not in {variant for variant, _ in _answers(_request(tmp_path, other, adapter))}


def test_a_student_that_is_not_here_is_not_downloaded_to_be_asked(tmp_path: Path, adapter: Path) -> None:
    """Only training downloads."""
    with pytest.raises(UserInputError, match="not on this machine yet"):
        generate(_request(tmp_path, Path("org/never-here"), adapter))
    assert "answers.jsonl" not in os.listdir(tmp_path)
