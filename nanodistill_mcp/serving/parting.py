"""A model's text read while it is written: what of it is reasoning, what is answer, and where the caller wants it to stop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Parted = Callable[[str], tuple[str, str]]
"""A whole text's reasoning and answer."""

_HELD_BACK = 48
"""Characters at the end of what is written that may yet become a mark, such as the one that ends the reasoning."""


@dataclass
class Parting:
    """One text. What it gave, put together, is what the whole text parts into."""

    parted: Parted
    opening: str = ""
    """What the chat template wrote of it already."""
    stops: Sequence[str] = ()
    """Texts at which the answer ends; the reasoning may hold them."""
    stopped: bool = False
    """One of them was found: nothing more is to come."""
    _text: str = ""
    _given: dict[str, str] = field(default_factory=lambda: {"thinking": "", "answer": ""})

    def more(self, text: str) -> tuple[str, str]:
        """The further reasoning and the further answer that this piece of text makes certain."""
        self._text += text
        thinking, answer = self._read()
        held = max(_HELD_BACK, *(len(stop) - 1 for stop in self.stops), 0)
        if not self.stopped:
            thinking = thinking if answer else thinking[: max(0, len(thinking) - held)]
            answer = answer[: max(0, len(answer) - held)]
        return self._further("thinking", thinking), self._further("answer", answer)

    def rest(self) -> tuple[str, str]:
        """What is left, at the text's end."""
        thinking, answer = self._read()
        return self._further("thinking", thinking, last=True), self._further("answer", answer, last=True)

    def whole(self) -> tuple[str, str]:
        """The reasoning and the answer so far."""
        return self._read()

    def _read(self) -> tuple[str, str]:
        thinking, answer = self.parted(self.opening + self._text)
        ends = [found for stop in self.stops if (found := answer.find(stop)) >= 0]
        if ends:
            self.stopped = True
            answer = answer[: min(ends)]
        return thinking, answer

    def _further(self, name: str, text: str, *, last: bool = False) -> str:
        given = self._given[name]
        if text.startswith(given):
            self._given[name] = text
            return text[len(given) :]
        if not last or given.startswith(text):
            return ""
        return f"\n{text}"  # a text in no form turned out to be read otherwise; what was given cannot be taken back
