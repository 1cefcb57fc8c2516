"""Verification and answers: everything that comes from llama.cpp itself, and files it must not be trusted with."""

import json
import sys
from pathlib import Path

import gguf
import pytest

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.student.answer_requests import AskGgufRequest, GenerateRequest, Variant
from nanodistill_mcp.student.export_requests import ExportResult, VerifyResult
from nanodistill_mcp.student.generate import generate
from nanodistill_mcp.student.gguf import write_gguf
from nanodistill_mcp.student.gguf_quantizations import QUANTIZATIONS
from nanodistill_mcp.student.verify import ask, verify
from tests.student.bench import carry_out, conversation, training, write_jsonl
from tests.student.gguf_bench import ask_request, export_request, verify_request
from tests.student.gguf_students import make_family, random_adapter


@pytest.fixture
def exported(tmp_path: Path, student: Path) -> Path:
    """A folder with the tiny student as a GGUF file beside its model."""
    (tmp_path / "model").symlink_to(student)
    write_gguf(student, tmp_path / "model.gguf", QUANTIZATIONS["F16"])
    return tmp_path


@pytest.mark.slow
def test_a_trained_student_gives_the_same_answers_in_llama_cpp_and_stops_by_itself(
    tmp_path: Path, student: Path
) -> None:
    """The whole way in student processes: train, export, verify, and ask MLX the same questions.

    Each commit holds the demo's student to the same, word for word (tests/server/test_export.py).
    """
    trained = training(tmp_path, student, iters=90, batch_size=8, learning_rate=1e-2, fine_tune_type="full")
    write_jsonl(trained.dataset_dir / "train.jsonl", [conversation(number) for number in range(20)])
    assert carry_out(trained)[0] == 0
    exporting = export_request(tmp_path / "export", student, trained.adapter_dir, "F16")
    exporting.metrics_path.parent.mkdir()
    code, written = carry_out(exporting)
    assert code == 0, written
    assert ExportResult.model_validate(written).gguf_bytes > 0
    rows = [{"id": str(n), "messages": conversation(n)["messages"][:-1]} for n in range(8)]
    prompts_path = write_jsonl(tmp_path / "prompts.jsonl", rows)

    verifying = verify_request(tmp_path / "export", max_tokens=64)
    verifying = verifying.model_copy(update={"prompts_path": prompts_path})
    code, written = carry_out(verifying)
    asking_mlx = GenerateRequest(
        student=str(exporting.fused_dir),
        variants=[Variant(name="fused")],
        prompts_path=prompts_path,
        output_path=tmp_path / "mlx.jsonl",
        metrics_path=tmp_path / "metrics.jsonl",
        result_path=tmp_path / "generated.json",
        max_tokens=64,
    )
    generate(asking_mlx)

    assert code == 0, written
    result = VerifyResult.model_validate(written)
    assert result.stops_by_itself
    assert result.runtime.startswith("xllamacpp ")
    assert result.strings_equal == result.strings_checked
    theirs = {row["id"]: row for row in read_lines(verifying.output_path)}
    ours = {row["id"]: row for row in read_lines(asking_mlx.output_path)}
    assert theirs.keys() == ours.keys()
    assert {row["variant"] for row in theirs.values()} == {"gguf"}
    same = [id_ for id_ in ours if ours[id_]["text"] == theirs[id_]["text"]]
    assert len(same) >= 7
    for id_ in same:
        for key in ("prompt_tokens", "completion_tokens", "finish_reason"):
            assert ours[id_][key] == theirs[id_][key], (id_, key)


def test_only_prompts_without_an_answer_are_asked(exported: Path) -> None:
    """A job that died half way goes on; the rows of other variants do not count."""
    request = ask_request(exported, variant="mine")
    done = {"id": "prompt-1", "variant": "mine", "text": "kept"}
    other = {"id": "prompt-0", "variant": "gguf", "text": "of another"}
    write_jsonl(request.output_path, [done, other])

    assert ask(request).rows == 3

    rows = list(read_lines(request.output_path))
    assert [row["id"] for row in rows if row["variant"] == "mine"] == ["prompt-1", "prompt-0", "prompt-2"]
    assert next(row for row in rows if row["id"] == "prompt-1")["text"] == "kept"
    assert list(read_lines(request.metrics_path))[-1] == {"event": "rows", "done": 3, "total": 3}


def test_only_the_answers_to_the_prompts_tell_whether_it_stops(exported: Path) -> None:
    """Answers are kept by what is in the file, so others lie there too: a random student's own never end."""
    others = [{"id": f"other-{n}", "variant": "gguf", "finish_reason": "stop"} for n in range(9)]
    request = verify_request(exported)
    write_jsonl(request.output_path, others)

    assert not verify(request).stops_by_itself


def test_an_answer_is_cut_at_max_tokens_and_says_so(exported: Path) -> None:
    """A random student never stops; the row must not claim that it did."""
    ask(ask_request(exported, max_tokens=5))

    rows = list(read_lines(exported / "answers.jsonl"))
    assert [(row["completion_tokens"], row["finish_reason"]) for row in rows] == [(5, "length")] * 3


def test_a_prompt_that_fills_the_context_gets_an_empty_answer(tmp_path: Path) -> None:
    """One endless ticket must not cost the answers to all others."""
    student = make_family(tmp_path / "base", "llama", max_position_embeddings=256)
    write_gguf(student, tmp_path / "model.gguf", QUANTIZATIONS["F16"])
    long = [{"role": "user", "content": "word " * 400}]
    rows = [{"id": "long", "messages": long}, {"id": "short", "messages": [{"role": "user", "content": "word"}]}]
    prompts_path = write_jsonl(tmp_path / "some.jsonl", rows)

    ask(ask_request(tmp_path).model_copy(update={"prompts_path": prompts_path}))

    answers = {row["id"]: row for row in read_lines(tmp_path / "answers.jsonl")}
    assert (answers["long"]["text"], answers["long"]["finish_reason"]) == ("", "length")
    assert answers["short"]["completion_tokens"] > 0


def test_without_prompts_the_file_is_checked_as_far_as_that_goes(exported: Path) -> None:
    """A run may have no held-out examples; the tokenizer is compared and the missing comparison is said."""
    request = verify_request(exported).model_copy(update={"prompts_path": exported / "none.jsonl"})

    result = verify(request)

    assert result.strings_equal == result.strings_checked > 30
    assert (result.positions_compared, result.mean_kl, result.layout_proven_by) == (0, None, "")
    assert "No prompt was compared with the fused model." in result.warnings


def test_the_file_of_another_student_is_not_accepted(exported: Path, tmp_path: Path) -> None:
    """A stale file beside a new model loads and answers; only the comparison can tell."""
    other = make_family(tmp_path / "other", "llama")

    with pytest.raises(ExportError, match="the conversion is wrong"):
        verify(verify_request(exported, fused_dir=other))


def test_a_tokenizer_that_differs_is_found_before_any_logit_is_compared(exported: Path, tmp_path: Path) -> None:
    """Other ids make every later comparison meaningless."""
    other = make_family(tmp_path / "other", "llama")
    spec = json.loads((other / "tokenizer.json").read_bytes())
    spec["model"]["merges"] = spec["model"]["merges"][:20]
    (other / "tokenizer.json").write_text(json.dumps(spec))

    with pytest.raises(ExportError, match="become other tokens"):
        verify(verify_request(exported, fused_dir=other))


def test_an_adapter_that_vanished_in_fusing_is_found(exported: Path, student: Path, tmp_path: Path) -> None:
    """File and fused model agree to the last digit, and both are the untrained base: only the adapter can tell."""
    adapter = random_adapter(student, tmp_path / "adapter")

    with pytest.raises(ExportError, match="The fused model is not what was trained"):
        verify(verify_request(exported, student=str(student), adapter_dir=adapter))


def test_where_llama_cpp_cannot_be_used_the_file_is_called_unchecked(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without its libraries the file is as good as anywhere, but nobody has looked."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)

    result = verify(verify_request(exported))

    assert not result.loads
    assert result.layout_proven_by == ""
    assert "not checked. Install xllamacpp" in result.warnings[0]


@pytest.mark.parametrize("keep", [0, 3, 100, 20_000])
def test_a_file_that_is_cut_short_is_not_given_to_llama_cpp(exported: Path, keep: int) -> None:
    """A full disk or a broken copy; llama.cpp may end the process over it."""
    (exported / "model.gguf").write_bytes((exported / "model.gguf").read_bytes()[:keep])

    with pytest.raises(ExportError, match="missing, cut short or damaged"):
        verify(verify_request(exported))


def test_a_file_llama_cpp_does_not_load_fails_in_our_words(tmp_path: Path) -> None:
    """It is whole as GGUF goes, but half of the student is missing. In a process of its own, since it might abort."""
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_file_type(1)
    writer.add_context_length(128)
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    request: AskGgufRequest = ask_request(tmp_path)

    code, failed = carry_out(request)

    assert code == 1
    assert failed["kind"] == "export"
    assert failed["what"] == "llama.cpp does not load the GGUF file."
    assert not request.output_path.exists()
