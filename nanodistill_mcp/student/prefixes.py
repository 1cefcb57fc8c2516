"""The state of what many prompts begin with, kept so that it is read once: MLX-LM's own store of prompts, with bounds.

A served run's callers share nothing but the run's instruction: of a prompt only the part up to the instruction's end is kept, and
what a caller writes, a system message of its own too, is in no store. Where all questions are of one asker, whole prompts are kept
for a while, so that each is read from where it parts from an earlier one.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from mlx_lm.models.cache import LRUPromptCache

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.student.chat import ChatForm
from nanodistill_mcp.student.questions import KeepLoaded

MOST_PROMPTS = 8
_PROBES = ("a", "7", "(", "\n", "Б")
"""What a question may begin with: where their prompts still agree, the instruction's part has not ended."""
_OURS = ""
"""The store tells models apart; here there is one."""


class Prefixes:
    """What is kept of the prompts of one loaded model."""

    def __init__(self, chat: ChatForm, request: KeepLoaded, instruction: str, most_bytes: int) -> None:
        """Keep nothing yet.

        Args:
            chat: The model's form.
            request: What is kept of prompts.
            instruction: The run's, as prompts show it; empty where there is none.
            most_bytes: Of everything that is kept.
        """
        self.store = LRUPromptCache(max_size=MOST_PROMPTS, max_bytes=most_bytes)
        self._keeps_prompts = request.is_one_asker
        self._shared = _shared(chat, instruction) if instruction else []

    def found(self, tokens: list[int]) -> tuple[Any, int]:
        """A copy of the state of a prompt's beginning, and of how many tokens it is: None and 0 where nothing is kept of it."""
        if not self.to_keep(tokens):
            return None, 0
        cache, rest = self.store.fetch_nearest_cache(_OURS, tokens)
        return (cache, len(tokens) - len(rest)) if cache is not None and rest else (None, 0)

    def to_keep(self, tokens: list[int]) -> int:
        """The number of tokens at a prompt's beginning whose state may be kept; 0 for none."""
        if self._keeps_prompts:
            return len(tokens) - 1  # the last one's answer is not known from a state
        return len(self._shared) if tokens[: len(self._shared)] == self._shared else 0

    def keep(self, tokens: list[int], cache: Any) -> None:
        """Keep a state; the oldest ones go where there are too many."""
        self.store.insert_cache(_OURS, tokens, cache, cache_type="system")


def _shared(chat: ChatForm, instruction: str) -> list[int]:
    """The tokens with which every prompt behind this instruction begins."""
    try:
        prompts = [
            chat.prompt_ids([{"role": "system", "content": instruction}, {"role": "user", "content": probe}])
            for probe in _PROBES
        ]
    except (TemplateError, UserInputError):  # then there is no such prompt
        return []
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return [tokens[0] for tokens in alike]
