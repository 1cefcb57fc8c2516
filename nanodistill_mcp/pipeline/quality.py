"""What keeps a generated example out: a near copy of one we have, or of one we must not see.

Lexical measures throw away most examples that differ only in a number, so the numbers are compared first: texts with
other numbers are never near copies.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain, pairwise

from nanodistill_mcp.pipeline.answers import normalize

# Chinese, Japanese and Thai are written without spaces: there, each character is a word.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

DUPLICATE_AT = 0.6
CONTAINED_AT = 0.7
OVERUSED_SHARE = 0.05
_OPENING_WORDS = 3
_OPENINGS_SHOWN = 8
_FEWEST_ALIKE = 3
_ROUNDING = 1e-9


class NearDuplicates:
    """An index of texts that finds near copies: equal numbers, and Jaccard similarity of words and word pairs of 0.6 or more.

    A near copy with another output is a contrast pair, which teaches; only one with the same output is a duplicate.
    """

    def __init__(self, *, threshold: float = DUPLICATE_AT) -> None:
        self._threshold = threshold
        self._exact: set[str] = set()
        self._features: list[tuple[frozenset[str], str]] = []
        self._postings: dict[tuple[str, str], list[int]] = defaultdict(list)

    def add(self, text: str, output: str) -> None:
        """Remember an accepted example."""
        self._exact.add(normalize(text))
        features, numbers = _features(text), _numbers(text)
        index = len(self._features)
        self._features.append((features, normalize(output)))
        for feature in features:
            self._postings[numbers, feature].append(index)

    def is_exact(self, text: str) -> bool:
        """Was this very input accepted before?"""
        return normalize(text) in self._exact

    def is_near(self, text: str, output: str) -> bool:
        """Is there an accepted near copy with the same output?"""
        wanted = normalize(output)
        return any(self._features[index][1] == wanted for index in self.near(text))

    def near(self, text: str) -> list[int]:
        """The near copies of a text whatever their output, by their position in the order of adding.

        A near copy shares the threshold's part of the text's features, so it has one of any few more than the others: those few
        that fewest texts have are looked up, and the words that every text has are not.
        """
        features, numbers = _features(text), _numbers(text)
        least = max(1, math.ceil(self._threshold * len(features) - _ROUNDING))
        postings = sorted((self._postings.get((numbers, feature), ()) for feature in features), key=len)
        candidates = set(chain.from_iterable(postings[: len(features) - least + 1]))
        return [
            index
            for index in sorted(candidates)
            if len(features & (theirs := self._features[index][0])) / len(features | theirs) >= self._threshold
        ]

    def nearest(self, text: str, count: int) -> list[tuple[int, float]]:
        """The most similar texts, other numbers or not: each by its position in the order of adding, with its similarity."""
        features = _features(text)
        similar = [
            (index, round(len(features & theirs) / len(features | theirs), 3))
            for index, (theirs, _) in enumerate(self._features)
            if features & theirs
        ]
        return sorted(similar, key=lambda each: (-each[1], each[0]))[:count]


class HeldOut:
    """The examples that must not be trained on: finds texts that contain most of one.

    A text is contaminated when it holds 0.7 or more of a held-out input's word pairs, and all its numbers.
    """

    def __init__(self, inputs: Iterable[str]) -> None:
        self._known = [(normalize(text), _pairs(text), set(_NUMBER.findall(text))) for text in inputs]

    def contaminates(self, text: str) -> bool:
        """Does this text give a held-out example away?"""
        normal, pairs, numbers = normalize(text), _pairs(text), set(_NUMBER.findall(text))
        return any(
            normal == known
            or (theirs and len(theirs & pairs) / len(theirs) >= CONTAINED_AT and their_numbers <= numbers)
            for known, theirs, their_numbers in self._known
        )


class Diversity:
    """How much the inputs differ: what share begins alike, and how many of their word pairs are distinct."""

    def __init__(self) -> None:
        self._openings: Counter[str] = Counter()
        self._pairs: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count an accepted input."""
        self._openings[_opening(text)] += 1
        self._pairs.update(_pairs(text))

    def overused(self) -> list[str]:
        """Openings that more than a twentieth of the inputs share, the commonest first."""
        total = self._openings.total()
        common = self._openings.most_common(_OPENINGS_SHOWN)
        return [opening for opening, count in common if count >= _FEWEST_ALIKE and count > OVERUSED_SHARE * total]

    def summary(self) -> dict[str, float]:
        """Shares: of the commonest opening among the inputs, and of distinct ones among all word pairs (distinct-2).

        Source of distinct-2: J. Li et al., "A diversity-promoting objective function for neural conversation models", 2016.
        """
        total, pairs = self._openings.total(), self._pairs.total()
        top = max(self._openings.values(), default=0)
        return {
            "commonest_opening": round(top / total, 3) if total else 0.0,
            "distinct_2": round(len(self._pairs) / pairs, 3) if pairs else 0.0,
        }


def _opening(text: str) -> str:
    """The first words of a text, numbers masked: what a teacher repeats first."""
    return " ".join("#" if word.isdecimal() else word for word in _WORD.findall(normalize(text))[:_OPENING_WORDS])


def _features(text: str) -> frozenset[str]:
    words = _WORD.findall(normalize(text))
    return frozenset(words) | frozenset(f"{a} {b}" for a, b in pairwise(words))


def _pairs(text: str) -> frozenset[str]:
    words = _WORD.findall(normalize(text))
    return frozenset(f"{a} {b}" for a, b in pairwise(words))


def _numbers(text: str) -> str:
    return " ".join(sorted(_NUMBER.findall(text)))
