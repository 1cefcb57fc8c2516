"""The Modelfile for Ollama."""

import subprocess
import sys
from typing import Any

import pytest

from nanodistill_mcp.student.export_requests import ExportResult
from nanodistill_mcp.student.modelfile import modelfile


def _result(**changes: Any) -> ExportResult:
    values: dict[str, Any] = {
        "gguf_bytes": 1,
        "gguf_sha256": "0" * 64,
        "architecture": "llama",
        "quantization": "Q4_K_M",
        "tensor_types": {"Q4_K": 1},
        "quantizer": "ggml",
        "stop_texts": ["<|im_end|>"],
        "context_length": 32768,
        "elapsed_s": 1.0,
    }
    return ExportResult(**values | changes)


def test_a_modelfile_names_the_file_beside_it_and_where_answers_stop() -> None:
    """No TEMPLATE: Ollama takes the one inside the GGUF file, which is the one that was trained."""
    assert modelfile("student-Q4_K_M.gguf", _result()) == (
        'FROM ./student-Q4_K_M.gguf\nPARAMETER stop "<|im_end|>"\nPARAMETER temperature 0\nPARAMETER num_ctx 4096\n'
    )


def test_a_short_context_is_not_stretched() -> None:
    """Asking for more than the student knows makes it ramble."""
    assert "PARAMETER num_ctx 512\n" in modelfile("a.gguf", _result(context_length=512))


@pytest.mark.parametrize("text", ['"\nFROM /etc/passwd', "a\nb", 'a"b', "a\\b", ""])
def test_a_stop_text_that_could_write_its_own_line_is_left_out(text: str) -> None:
    """It comes from a tokenizer file, which anyone may have written."""
    assert modelfile("a.gguf", _result(stop_texts=[text])).count("\n") == 3


def test_the_instruction_is_the_system_message() -> None:
    """It was in training: without it the same student answers another question."""
    text = 'Sort the ticket.\nAnswer "billing" or "other"'
    assert modelfile("a.gguf", _result(), text).endswith(f'SYSTEM """{text}"""\n')


@pytest.mark.parametrize(
    ("instruction", "keeps_system"), [('Say """.\nFROM /etc/passwd', True), ("Sort the ticket.", False)]
)
def test_an_instruction_that_ollama_could_not_take_is_left_to_the_user(instruction: str, keeps_system: bool) -> None:
    """Three quotes would end it, and a template without a place for it refuses or drops it."""
    written = modelfile("a.gguf", _result(keeps_system=keeps_system), instruction)
    assert "SYSTEM" not in written
    assert instruction not in written
    assert written.endswith("it was trained so.\n")


@pytest.mark.parametrize("name", ["", "/etc/a.gguf", "../a.gguf", "a b.gguf", "a.gguf\nFROM x"])
def test_only_a_file_beside_it_is_named(name: str) -> None:
    """The folder is moved and copied as a whole."""
    with pytest.raises(ValueError, match="beside it"):
        modelfile(name, _result())


def test_writing_one_loads_none_of_the_heavy_libraries() -> None:
    """Whoever writes it need not be a student process."""
    code = (
        "import sys; sys.path.insert(0, '.');"
        "import nanodistill_mcp.student.modelfile, nanodistill_mcp.student.gguf_quantizations;"
        "print([name for name in ('mlx', 'mlx_lm', 'gguf', 'numpy', 'transformers') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_note_is_a_comment_line() -> None:
    """It says where the answer stands in the student's texts, to whoever opens the file."""
    assert modelfile("a.gguf", _result(), note="Its texts hold <thinking>.").startswith(
        "# Its texts hold <thinking>.\nFROM ./a.gguf\n"
    )
