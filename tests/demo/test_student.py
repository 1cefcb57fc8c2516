"""The packaged base model: small, loadable, exportable, and no use for the task before it is trained."""
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.demo import make_student, task
from nanodistill_mcp.demo.student import student_path


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """The base and its tokenizer, as MLX-LM loads them."""
    from nanodistill_mcp.student import blas

    blas.prepare()
    from mlx_lm import load

    model, tokenizer = load(str(student_path()))[:2]
    return model, tokenizer


def test_the_folder_is_small_and_complete() -> None:
    """It travels in the package, so it has to stay a fraction of a megabyte."""
    files = {path.name: path.stat().st_size for path in student_path().iterdir()}
    assert set(files) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) < 1_200_000


def test_the_weights_are_those_the_script_names() -> None:
    """Whoever makes them again can compare."""
    digest = hashlib.sha256((student_path() / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (make_student.__doc__ or "")


def test_the_script_still_makes_this_tokenizer(tmp_path: Path) -> None:
    """A changed word list would make other tokens than the packaged weights know."""
    make_student.make_tokenizer().save_pretrained(tmp_path)
    made, packaged = (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) for folder in (tmp_path, student_path())
    )
    assert made["model"] == packaged["model"]
    assert made["added_tokens"] == packaged["added_tokens"]


def test_a_row_of_the_task_is_short_and_has_single_thinking_tokens(loaded: tuple[Any, Any]) -> None:
    """Length decides how long the demo trains; the thinking tags must come back as they were learnt."""
    _, tokenizer = loaded
    for row in (*task.seeds(), *task.held_out()):
        solution, queue = task.solve(row["input"])
        turns = [
            {"role": "system", "content": task.INSTRUCTION},
            {"role": "user", "content": row["input"]},
            {"role": "assistant", "content": f"<thinking>\n{solution}\n</thinking>\n{queue}"},
        ]
        tokens = tokenizer.apply_chat_template(turns)
        assert len(tokens) <= 128
        assert tokenizer.decode(tokens).endswith(f"<thinking>\n{solution}\n</thinking>\n{queue}<|im_end|>\n")
    assert [len(tokenizer.encode(tag)) for tag in ("<thinking>", "</thinking>")] == [1, 1]


def test_the_base_cannot_do_the_task(loaded: tuple[Any, Any]) -> None:
    """Otherwise the demo would prove nothing."""
    from mlx_lm import batch_generate

    model, tokenizer = loaded
    rows = task.held_out()
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "system", "content": task.INSTRUCTION}, {"role": "user", "content": row["input"]}],
            add_generation_prompt=True,
        )
        for row in rows
    ]
    texts = batch_generate(model, tokenizer, prompts, max_tokens=40, completion_batch_size=60).texts
    answers = [re.sub(r"<thinking>.*?</thinking>", "", text, flags=re.DOTALL).strip() for text in texts]
    right = sum(answer == row["output"] for answer, row in zip(answers, rows, strict=True))
    assert right < 0.2 * len(rows)


def test_the_base_knows_what_it_was_taught(loaded: tuple[Any, Any]) -> None:
    """A base of random weights does not learn the task in a demo's time."""
    del loaded  # asked for so that MLX is set up before the script imports it
    scores = make_student.scores(student_path(), rows=120)
    right, asked = (sum(column) for column in zip(*scores.values(), strict=True))
    assert right > 0.6 * asked
