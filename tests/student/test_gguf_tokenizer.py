"""Tokenizers: every kind that is written gives llama.cpp the ids that training used, and every other is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.student.export_requests import VerifyResult
from nanodistill_mcp.student.gguf import write_gguf
from nanodistill_mcp.student.gguf_quantizations import QUANTIZATIONS
from nanodistill_mcp.student.verify import verify
from tests.student.gguf_bench import verify_request
from tests.student.gguf_students import (
    LLAMA3,
    O200K,
    QWEN2,
    QWEN35,
    TEKKEN,
    make_family,
    split_by,
    split_digits,
    use_sentencepiece_like,
    without_merges,
    write_random_weights,
)
from tests.tiny_student import CHAT_TEMPLATE, make_tiny


def _verified(root: Path, student: Path) -> VerifyResult:
    (root / "model").symlink_to(student)
    write_gguf(student, root / "model.gguf", QUANTIZATIONS["F16"])
    return verify(verify_request(root, max_tokens=2))


def _field(root: Path, key: str) -> Any:
    field = gguf.GGUFReader(root / "model.gguf").fields.get(f"tokenizer.{key}")
    return None if field is None else field.contents()


KINDS: dict[str, Callable[[Path], None]] = {
    "gpt-2": lambda _: None,
    "smollm": split_digits,
    "llama-bpe": lambda student: split_by(student, LLAMA3, ignore_merges=True),
    "dbrx": lambda student: split_by(student, LLAMA3),
    "qwen2": lambda student: split_by(student, QWEN2),
    "qwen35": lambda student: split_by(student, QWEN35),
    "tekken": lambda student: split_by(student, TEKKEN, ignore_merges=True),
    "gpt-4o": lambda student: split_by(student, O200K),
}


@pytest.mark.parametrize("pre", KINDS)
def test_each_way_of_splitting_text_is_recognised_by_its_pattern(tmp_path: Path, pre: str) -> None:
    """The name only stands for the pattern: equal ids on texts full of digits, spaces, cases and scripts are the proof."""
    student = make_tiny(tmp_path / "base", "llama", vocab=512, extra_tokens=("<thinking>", "</thinking>"))
    KINDS[pre](student)

    result = _verified(tmp_path, student)

    assert _field(tmp_path, "ggml.pre") == pre
    assert result.prompt_ids_equal
    assert result.strings_checked - result.strings_equal <= 4, "only texts with combining marks may differ"


def test_a_tokenizer_that_spells_out_every_byte_needs_no_merges(tmp_path: Path) -> None:
    """The smallest students have one; llama.cpp insists on a merge, so it gets one that no text can lead to."""
    student = make_tiny(tmp_path / "base", "llama", extra_tokens=("<thinking>", "</thinking>"))
    without_merges(student)

    result = _verified(tmp_path, student)

    assert result.strings_equal == result.strings_checked
    assert _field(tmp_path, "ggml.merges") == ["ÿ ÿ"]


def test_added_tokens_are_whole_in_llama_cpp_and_those_a_student_writes_stay_visible(tmp_path: Path) -> None:
    """A thinking tag is text the student writes; a turn marker is not, and is left out of answers."""
    student = make_tiny(tmp_path / "base", "llama", extra_tokens=("<thinking>", "</thinking>"))

    result = _verified(tmp_path, student)

    tokens, types = _field(tmp_path, "ggml.tokens"), _field(tmp_path, "ggml.token_type")
    by_text = dict(zip(tokens, types, strict=True))
    assert by_text["<thinking>"] == by_text["</thinking>"] == gguf.TokenType.USER_DEFINED
    assert by_text["<|im_end|>"] == gguf.TokenType.CONTROL
    assert result.strings_equal == result.strings_checked


@pytest.mark.parametrize(
    ("like", "prefix"), [("llama-2", True), ("llama-2-new", True), ("mistral", False), ("gemma", False)]
)
def test_a_sentencepiece_tokenizer_needs_no_sentencepiece_file(tmp_path: Path, like: str, prefix: bool) -> None:
    """Llama 2, Mistral and Gemma: scores are the ranks of the merges, unknown characters are bytes, a BOS comes first."""
    student = make_tiny(tmp_path / "base", "llama")
    use_sentencepiece_like(student, like)

    result = _verified(tmp_path, student)

    assert result.strings_equal == result.strings_checked
    assert _field(tmp_path, "ggml.model") == "llama"
    assert _field(tmp_path, "ggml.add_bos_token") is True
    assert _field(tmp_path, "ggml.add_space_prefix") is prefix


def test_special_tokens_that_swallow_the_space_after_them_do_so_in_llama_cpp(tmp_path: Path) -> None:
    """Phi-3's do: its template puts a line break after each, which training never saw."""
    student = make_tiny(tmp_path / "base", "llama")
    use_sentencepiece_like(student, "llama-2", rstrip=True)

    result = _verified(tmp_path, student)

    assert result.prompt_ids_equal
    assert result.strings_equal == result.strings_checked


def test_embeddings_beyond_the_tokenizer_are_padding(tmp_path: Path) -> None:
    """Vocabularies are padded for speed; the file must have a token for every row."""
    student = make_family(tmp_path / "base", "llama", vocab_size=400)

    result = _verified(tmp_path, student)

    assert result.layout_proven_by == "F16"
    assert _field(tmp_path, "ggml.tokens")[384:386] == ["[PAD384]", "[PAD385]"]


def test_an_added_token_without_an_embedding_is_left_out(tmp_path: Path) -> None:
    """Gemma's text models carry one for images; it can never be asked for."""
    student = make_tiny(tmp_path / "base", "llama", extra_tokens=("<image>",))
    config = json.loads((student / "config.json").read_bytes())
    write_random_weights(student, config | {"vocab_size": config["vocab_size"] - 1})

    assert _verified(tmp_path, student).prompt_ids_equal


def test_a_normalizing_tokenizer_is_a_warning_and_not_a_failure(tmp_path: Path) -> None:
    """llama.cpp does not compose accents, so decomposed text gives other ids: rare, known, and worth a word."""
    student = make_tiny(tmp_path / "base", "llama")
    split_by(student, QWEN2, normalizer="NFC")

    result = _verified(tmp_path, student)

    assert result.strings_equal < result.strings_checked
    assert any("does not normalize Unicode" in warning for warning in result.warnings)


def test_a_template_that_refuses_a_system_message_gets_it_in_the_users_turn(tmp_path: Path) -> None:
    """As in training: Gemma's template raises, and the instruction would be lost."""
    student = make_tiny(tmp_path / "base", "llama")
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    (student / "chat_template.jinja").write_text(refusing + CHAT_TEMPLATE)

    assert _verified(tmp_path, student).prompt_ids_equal


def test_a_template_with_todays_date_keeps_the_date_of_training(tmp_path: Path) -> None:
    """Llama 3 puts the date before every conversation: the student would see another prompt every day."""
    student = make_tiny(tmp_path / "base", "llama")
    dated = (
        "{% if not date_string is defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
        "{% endif %}<|im_start|>date\n{{ date_string }}<|im_end|>\n"
    )
    (student / "chat_template.jinja").write_text(dated + CHAT_TEMPLATE)

    assert _verified(tmp_path, student).prompt_ids_equal


THINKING_TEMPLATE = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{% if m.reasoning_content is defined and m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""


@pytest.mark.parametrize("tokens", [(), ("<think>", "</think>")])
def test_a_template_that_can_think_is_told_what_training_told_it(tmp_path: Path, tokens: tuple[str, ...]) -> None:
    """llama.cpp turns thinking on where the template can; a student without thinking tokens was trained with it off."""
    student = make_tiny(tmp_path / "base", "llama", extra_tokens=tokens)
    (student / "chat_template.jinja").write_text(THINKING_TEMPLATE)

    assert _verified(tmp_path, student).prompt_ids_equal


def test_a_bos_the_tokenizer_does_not_have_stays_away(tmp_path: Path) -> None:
    """Templates are shared between models; llama.cpp would put some token of its own choice where this one says BOS."""
    student = make_tiny(tmp_path / "base", "llama")
    (student / "chat_template.jinja").write_text("{{ bos_token }}" + CHAT_TEMPLATE)

    assert _verified(tmp_path, student).prompt_ids_equal


def _set(student: Path, **changes: Any) -> None:
    spec = json.loads((student / "tokenizer.json").read_bytes())
    model = changes.pop("model", {})
    (student / "tokenizer.json").write_text(json.dumps(spec | changes | {"model": spec["model"] | model}))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pattern nobody has": (lambda student: split_by(student, r"\p{L}+|\s+|."), "not one of llama.cpp's"),
    "lower case": (lambda student: split_by(student, QWEN2, normalizer="Lowercase"), "rewrites its text"),
    "no splitting": (lambda student: _set(student, pre_tokenizer={"type": "WhitespaceSplit"}), "split its text"),
    "word pieces": (
        lambda student: _set(
            student,
            model={
                "type": "WordPiece",
                "unk_token": "<|pad|>",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            },
        ),
        "byte-pair encoding",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tokenizer_llama_cpp_does_not_have_is_refused(tmp_path: Path, case: str) -> None:
    """A near miss would give a student that reads other tokens than it was taught."""
    student = make_tiny(tmp_path / "base", "llama")
    change, what = REFUSED[case]
    change(student)

    with pytest.raises(ExportError, match=what):
        write_gguf(student, tmp_path / "model.gguf", QUANTIZATIONS["F16"])


def test_more_tokens_than_embeddings_are_refused(tmp_path: Path) -> None:
    """Such a student could be asked for rows it does not have."""
    student = make_tiny(tmp_path / "base", "llama")
    write_random_weights(student, json.loads((student / "config.json").read_bytes()) | {"vocab_size": 300})

    with pytest.raises(ExportError, match="more tokens than the student has embeddings"):
        write_gguf(student, tmp_path / "model.gguf", QUANTIZATIONS["F16"])
