"""Chat templates differ; what a student learns must be what it has to write after the prompt it will be given."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

from pathlib import Path

import pytest
from mlx_lm.utils import load_tokenizer

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.student.chat import ChatForm
from tests.tiny_student import CHAT_TEMPLATE, make_tiny

REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHAT_TEMPLATE
)
DROPS_SYSTEM = (
    "{% for m in messages if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENS_THINKING = CHAT_TEMPLATE.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif")
CUTS_THINKING = CHAT_TEMPLATE.replace("m['content'] }}", "m['content'].split('</think>')[-1] }}")
# Qwen3's: an answer without thinking gets an empty span, one with it gets its white space put in order.
TIDIES_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% set parts = m['content'].split('</think>') %}"
    "<think>\n{{ (parts[0].replace('<think>', '') if parts | length > 1 else '').strip() }}\n</think>\n\n"
    "{{ parts[-1].lstrip('\n') }}{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_END = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}\n"
    + CHAT_TEMPLATE
)

THOUGHT = "<think>\nstep\n</think>\nsure"
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "please reverse the word"}]


@pytest.fixture(scope="module")
def thinking_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with tokens of its own for thinking."""
    return make_tiny(tmp_path_factory.mktemp("chat") / "student", extra_tokens=("<think>", "</think>"))


def _chat(folder: Path, template: str) -> ChatForm:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = template
    return ChatForm(tokenizer)


def _learnt(chat: ChatForm, answer: str) -> str:
    row = chat.row([*ASKED, {"role": "assistant", "content": answer}])
    assert row.tokens[: row.target_start] == chat.prompt_ids(ASKED), "a row begins as generation begins"
    return chat.tokenizer.decode(row.tokens[row.target_start :])


@pytest.mark.parametrize(
    ("template", "answer", "learnt"),
    [
        (CHAT_TEMPLATE, "sure", "sure<|im_end|>"),
        (CHAT_TEMPLATE, THOUGHT, f"{THOUGHT}<|im_end|>"),
        (REFUSES_SYSTEM, "sure", "sure<|im_end|>"),
        (OPENS_THINKING, THOUGHT, "step\n</think>\nsure<|im_end|>"),
        (OPENS_THINKING, "sure", "\n</think>\n\nsure<|im_end|>"),
        (CUTS_THINKING, THOUGHT, f"{THOUGHT}<|im_end|>"),
        (TIDIES_THINKING, THOUGHT, "<think>\nstep\n</think>\n\nsure<|im_end|>"),
        (TIDIES_THINKING, "sure", "<think>\n\n</think>\n\nsure<|im_end|>"),
        (NO_END, "sure", "sure<|im_end|>"),
    ],
    ids=["plain", "thought", "no system", "opened", "opened, direct", "cut", "tidied", "tidied, direct", "no end"],
)
def test_what_is_learnt_is_the_answer_and_its_end_whatever_the_template_does(
    thinking_student: Path, template: str, answer: str, learnt: str
) -> None:
    """Each template is that of a family of students; MLX-LM's own dataset gets several of them wrong."""
    assert _learnt(_chat(thinking_student, template), answer) == learnt


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_an_instruction_reaches_a_student_whose_template_has_no_place_for_it(
    thinking_student: Path, template: str
) -> None:
    """Gemma refuses a system message, others drop it silently."""
    chat = _chat(thinking_student, template)

    assert not chat.keeps_system
    assert "<|im_start|>user\nBe brief.\n\nplease reverse the word<|im_end|>" in chat.prompt_text(ASKED)


def test_a_template_with_a_place_for_the_system_message_gets_it_there(thinking_student: Path) -> None:
    """The ordinary case."""
    assert (
        _chat(thinking_student, CHAT_TEMPLATE).prompt_text(ASKED).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    )


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(thinking_student: Path) -> None:
    """Or a run resumed tomorrow trains on other prompts than it began with."""
    assert _chat(thinking_student, DATED).prompt_text(ASKED).startswith("26 Jul 2024\n")


def test_an_answer_the_tokenizer_cannot_write_is_an_error_not_a_wrong_lesson(tmp_path: Path) -> None:
    """A tokenizer that loses characters would teach answers without them."""
    folder = make_tiny(tmp_path / "student")
    tokenizer = load_tokenizer(folder)
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("u", "")

    with pytest.raises(TrainingError, match="changes an answer"):
        ChatForm(tokenizer).row([*ASKED, {"role": "assistant", "content": "sure"}])


@pytest.mark.parametrize("lost", ["  ", "\n"], ids=["indentation", "lines"])
def test_white_space_inside_an_answer_is_part_of_it(tmp_path: Path, lost: str) -> None:
    """Code and tables are answers too: a student that learnt them in one line would be scored as wrong for ever."""
    folder = make_tiny(tmp_path / "student")
    code = "def f():\n  return 1"
    tidies = CHAT_TEMPLATE.replace(
        "m['content'] }}", "m['content'].replace('" + lost.replace("\n", "\\n") + "', ' ') }}"
    )
    assert _learnt(_chat(folder, tidies), code) == f"{code}<|im_end|>", "the template's change is not learnt"

    tokenizer = load_tokenizer(folder)
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(lost, " ")
    with pytest.raises(TrainingError, match="changes an answer"):
        ChatForm(tokenizer).row([*ASKED, {"role": "assistant", "content": code}])


def test_an_answer_that_quotes_the_end_token_is_proved_up_to_its_own_end(thinking_student: Path) -> None:
    """Whether such a row is trained on is decided later; what it would teach is not cut here."""
    quoting = f"it ends with <|im_end|> always\n{THOUGHT}"
    for template in (CHAT_TEMPLATE, CUTS_THINKING, NO_END):
        assert _learnt(_chat(thinking_student, template), quoting) == f"{quoting}<|im_end|>"


def test_a_student_without_any_end_token_is_refused(tmp_path: Path) -> None:
    """It would never stop writing."""
    tokenizer = load_tokenizer(make_tiny(tmp_path / "student"))
    tokenizer.eos_token = None
    tokenizer.eos_token_ids = set()

    with pytest.raises(TrainingError, match="no token that ends an answer"):
        ChatForm(tokenizer).check()
