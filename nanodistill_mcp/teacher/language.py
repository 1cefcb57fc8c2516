"""Whether an answer is in another language than its question, told by the script alone: conservative, and without a library.

Only what is beyond doubt counts: prose mostly in a script of which the question holds nothing and names no language. A
French answer to an English question passes. The answer to a task may be in any script, because the task may be to translate.
"""

import re
import string
from collections.abc import Iterator
from typing import Any, cast

from pydantic import BaseModel

_SCRIPTS: dict[str, tuple[re.Pattern[str], tuple[str, ...]]] = {
    script: (re.compile(f"[{letters}]+"), languages)
    for script, letters, languages in (
        ("Latin", "A-Za-z\u00c0-\u024f\u1e00-\u1eff", ("english", "french", "german", "spanish", "italian", "portuguese", "dutch", "polish", "turkish", "vietnamese")),
        ("Cyrillic", "\u0400-\u052f", ("russian", "ukrainian", "bulgarian", "serbian", "belarusian", "kazakh", "cyrillic")),
        ("Greek", "\u0370-\u03ff\u1f00-\u1fff", ("greek",)),
        ("Arabic", "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff", ("arabic", "persian", "farsi", "urdu")),
        ("Hebrew", "\u0590-\u05ff", ("hebrew", "yiddish")),
        ("Devanagari", "\u0900-\u097f", ("hindi", "marathi", "nepali", "sanskrit", "devanagari")),
        ("Thai", "\u0e00-\u0e7f", ("thai",)),
        ("Hangul", "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af", ("korean", "hangul")),
        ("Han and Kana", "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff", ("chinese", "mandarin", "cantonese", "japanese", "kanji", "kana")),
    )
}  # fmt: skip

_ASCII_LETTERS = string.ascii_letters.encode()
_LETTERS_TO_JUDGE_BY = 20
_MOSTLY = 0.7
_LATIN_IN_PASSING = 20
"""So many Latin letters are a name or a unit in any language's text, unless they are a good part of it."""
_A_GOOD_PART = 0.2
_ANSWER_FIELDS = ("answer", "output")
_MARKUP = re.compile(r"</?[a-z-]+-[0-9a-f]{6}>|\"[a-z_]+\":")
"""What our own prompts wrap the material in: it is Latin whatever the material is."""


def in_another_script(answer: BaseModel, asked: str) -> bool:
    """Whether the prose of an answer is mostly in a script that the question neither uses nor asks for.

    Args:
        answer: The answer; what it gives as the task's own answer is left out.
        asked: The material of the question: instruction, policy, examples and input.
    """
    prose = "\n".join(_prose(answer.model_dump()))
    counts = {script: _letters(script, prose) for script in _SCRIPTS}
    script = max(counts, key=counts.__getitem__)
    total = sum(counts.values())
    if total < _LETTERS_TO_JUDGE_BY or counts[script] < _MOSTLY * total:
        return False
    return not _is_used(script, _MARKUP.sub(" ", asked))


def _is_used(script: str, asked: str) -> bool:
    used = _letters(script, asked)
    total = sum(_letters(each, asked) for each in _SCRIPTS)
    in_passing = min(_LATIN_IN_PASSING, _A_GOOD_PART * total) if script == "Latin" else 1
    if used > in_passing or total == 0:  # a question of nothing but numbers has no language
        return True
    lowered = asked.lower()
    return any(language in lowered for language in _SCRIPTS[script][1])


def _letters(script: str, text: str) -> int:
    if text.isascii():  # most texts are, and to look for nine alphabets costs more than the rest of reading an answer
        data = text.encode()
        return len(data) - len(data.translate(None, _ASCII_LETTERS)) if script == "Latin" else 0
    return sum(map(len, _SCRIPTS[script][0].findall(text)))


def _prose(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, str):
        if name not in _ANSWER_FIELDS:
            yield value
    elif isinstance(value, dict):
        for field, part in cast("dict[str, Any]", value).items():
            yield from _prose(part, field)
    elif isinstance(value, list):
        for part in cast("list[Any]", value):
            yield from _prose(part, name)
