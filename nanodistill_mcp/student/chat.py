"""Conversations in a student's own chat form: what it is asked, and what it has to learn to write.

Training, generation and the check of an export go through here, so that a student sees in use exactly what it was trained on.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.student.bounds import template_bounds
from nanodistill_mcp.student.requests import Message

_PROBE_SYSTEM = "Xylophone systems first."
_PROBE = ({"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": "Green."})

# Templates of the Llama 3 family put today's date into the system turn, which would make a prompt differ from day to day.
# This is the date they fall back to.
_FIXED = {"date_string": "26 Jul 2024"}


@dataclass(frozen=True)
class Row:
    """A training row: its tokens, and where the part to learn begins."""

    tokens: list[int]
    target_start: int
    """Index of the first token the loss counts."""


class ChatForm:
    """A student's tokenizer together with its chat template.

    A template that refuses or drops a system message gets its text at the head of the first user message instead.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        template = getattr(tokenizer, "chat_template", None)
        self._extra = _FIXED if isinstance(template, str) and "date_string" in template else {}
        self.keeps_system = self._does_keep_system()

    @property
    def stop_ids(self) -> set[int]:
        """Tokens at which the student stops writing."""
        return set(self.tokenizer.eos_token_ids)

    def quotes_end(self, row: Row) -> bool:
        """Whether the answer holds, before its end, a token that ends answers: such a row teaches to stop there."""
        return not self.stop_ids.isdisjoint(row.tokens[row.target_start : -1])

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The text up to where the student's answer begins. ``messages`` ends with the user's."""
        return self._render(self._placed(messages), add_generation_prompt=True)

    def prompt_ids(self, messages: Sequence[Message], opening: str = "") -> list[int]:
        """The tokens up to where the student's answer begins, or goes on after the opening it is given."""
        prompt = self.prompt_text(messages)
        return self.ids(prompt + (left_to_write(prompt, opening) if opening else ""))

    def ids(self, prompt_text: str) -> list[int]:
        """The tokens of such a text."""
        return self._encode(prompt_text)

    def text(self, tokens: Sequence[int]) -> str:
        """What the student wrote, without special tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def row(self, messages: Sequence[Message]) -> Row:
        """Tokenise a conversation whose last message is the answer to learn.

        The tokens are those of the prompt, followed by the answer and the token that ends it: what generation has to
        produce, token by token. Text a template puts after the end of the answer is left out. That what is learnt, read
        back from its tokens, is the answer and its end, is proved for every row.

        Raises:
            TrainingError: What would be learnt is not the answer with a token at which the student stops.
        """
        prompt = self.prompt_text(messages[:-1])
        answer = left_to_write(prompt, messages[-1]["content"])
        rendered = self._rendered(messages, prompt, answer)
        completion = answer if rendered is None else rendered
        prompt_ids = self._encode(prompt)
        start = len(prompt_ids)
        tokens = self._encode(prompt + completion)
        if tokens[:start] != prompt_ids:  # a token reaches across the border, which generation never does
            tokens = prompt_ids + self._encode(completion)
        tokens = [*tokens, self._end_id()] if rendered is None else self._ended(tokens, start)
        written = answer if rendered is None else self._before_end(rendered)
        if not _is_same(self._plain(tokens[start:-1]), written) or tokens[-1] not in self.stop_ids:
            raise TrainingError(
                "The student's tokenizer or chat template changes an answer, so that it would learn something else.",
                next_step="Choose another student with create_run(student=...), or drop the row with revise_examples.",
            )
        return Row(tokens, start)

    def check(self) -> None:
        """Prove on a made-up conversation that this student can be trained and asked.

        Raises:
            TrainingError: The template keeps no answer, or nothing ends it.
            jinja2.TemplateError: The template itself is broken.
        """
        self.row(_PROBE)

    def _rendered(self, messages: Sequence[Message], prompt: str, answer: str) -> str | None:
        """The answer as the template ends it; None when the template does not keep it.

        Some templates cut the thinking out of an answer; what the student has to write is then the answer itself.
        """
        whole = self._render(self._placed(messages), add_generation_prompt=False)
        completion = whole.removeprefix(prompt)
        kept = completion != whole and _parts(self._before_end(completion)) == _parts(answer)
        return completion if kept else None

    def _before_end(self, completion: str) -> str:
        """A rendered answer without its last end token and what stands behind."""
        ends = [completion.rfind(self._plain([token])) for token in self.stop_ids]
        return completion[: max(ends)] if max(ends, default=-1) >= 0 else completion

    def _ended(self, tokens: list[int], start: int) -> list[int]:
        last = max((index for index in range(start, len(tokens)) if tokens[index] in self.stop_ids), default=None)
        return [*tokens, self._end_id()] if last is None else tokens[: last + 1]

    def _end_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise TrainingError(
                "This student has no token that ends an answer, so it would never stop writing.",
                next_step="Choose an instruction-tuned student with create_run(student=...).",
            )
        return self.tokenizer.eos_token_id

    def _plain(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones too."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _placed(self, messages: Sequence[Message]) -> list[Message]:
        if self.keeps_system or messages[0]["role"] != "system":
            return list(messages)
        system, first, *rest = messages
        return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]

    def _does_keep_system(self) -> bool:
        try:
            text = self._render([{"role": "system", "content": _PROBE_SYSTEM}, _PROBE[0]], add_generation_prompt=True)
        except TemplateError:  # how a template says that it takes no system message
            return False
        return _PROBE_SYSTEM in text

    def _render(self, messages: list[Message], *, add_generation_prompt: bool) -> str:
        with template_bounds():
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **self._extra
            )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def left_to_write(prompt: str, answer: str) -> str:
    """The answer without the thinking tag that some templates already open at the end of the prompt."""
    if not prompt.rstrip().endswith("<think>"):
        return answer
    if "</think>" not in answer:
        return f"\n</think>\n\n{answer}"
    return answer.removeprefix("<think>").lstrip("\n")


def _is_same(one: str, other: str) -> bool:
    """Equal character by character; white space at the ends aside, which templates trim, and Unicode's ways to write a letter."""
    return unicodedata.normalize("NFC", one).strip() == unicodedata.normalize("NFC", other).strip()


def _parts(text: str) -> tuple[str, str]:
    """Thinking and answer, without the white space and the empty tags that templates put around and between them."""
    thought, mark, answer = unicodedata.normalize("NFC", text).partition("</think>")
    if not mark:
        return "", thought.strip()
    return thought.strip().removeprefix("<think>").strip(), answer.strip()
