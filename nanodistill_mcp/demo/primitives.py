"""What the demo's base model is taught: exercises on single words, never the task.

A base model that is worth fine-tuning brings language along. This one is far too small for a corpus, so it is taught a few
things on a vocabulary of some five hundred words: to copy, to pick, to know which kind a word is of ("refund -> money",
"cheese -> food"), to find such words in a text, to name the kind most of them share, and, for the kinds that have nothing
to do with a shop, one fact more ("food, so plate").

What it never sees: the run's instruction, a customer's message or any sentence of the grammar, a held-out message, a seed,
or a queue as the answer to anything about meaning. The queues' names occur as words to copy or to pick, like all others.
Its texts are plain words in random order. The kinds of the clue words are those the demo's teacher uses: that is the part
of the task's knowledge which a large base model would have from its own pretraining.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple, cast

from nanodistill_mcp.demo import task

PLACES = {
    "animals": "farm",
    "food": "plate",
    "nature": "map",
    "weather": "sky",
    "body": "doctor",
    "music": "stage",
    "colours": "painter",
    "metals": "forge",
}
"""The one further fact about each kind that no queue is for."""

CAPITALISED = (
    "A After Answer Can Christmas Clues Copy Dear Each Find First Friday Good Has Hello Hi How I In Is It Kind Kinds "
    "Last Many March Monday Most Mostly My On Please Sorry Sort Sunday Thank Thanks The There This Tuesday Two We "
    "What When Where Why You Your"
)
ASKING = (
    "copy first last word words kind kinds find which of most common is in the where answer briefly helpful assistant "
    "you are think before read and one a sort message into queue or so mostly clues system user none must person"
)
SYSTEMS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "Think before you answer.",
    "Read the words and answer.",
    "Answer in one word.",
)


class Exercise(NamedTuple):
    """One question and its answer. `name` groups the questions of one sort."""

    name: str
    question: str
    answer: str


@cache
def kinds() -> dict[str, list[str]]:
    """Every kind with its words: the general ones, and those of the clue words the generator uses."""
    return {**json.loads(task.data("words.json")), **json.loads(task.data("clues.json"))["clues"]}


@cache
def kind_of() -> dict[str, str]:
    """The kind of each word that has one."""
    return {word: kind for kind, words in kinds().items() for word in words}


@cache
def plain_words() -> list[str]:
    """The words of the grammar that are of no kind, one by one, in alphabetical order."""
    words = set(re.findall(r"[A-Za-z]+", " ".join(_strings(task.grammar()))))
    return sorted(word for word in words if word not in kind_of() and word.lower() not in kind_of())


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(cast("dict[str, object]", value).values()))
    elif isinstance(value, list):
        for part in cast("list[object]", value):
            yield from _strings(part)


@cache
def vocabulary() -> list[str]:
    """Every word the base meets."""
    return sorted(
        {*kind_of(), *plain_words(), *kinds(), *PLACES.values(), *CAPITALISED.split(), *ASKING.split(), *task.QUEUES}
    )


def draw(rng: random.Random) -> Exercise:
    """Draw an exercise of any sort."""
    make = rng.choices([make for make, _ in _EXERCISES], [weight for _, weight in _EXERCISES])[0]
    return make(rng)


def copy(rng: random.Random) -> Exercise:
    """Words to write again: what every other exercise builds on."""
    words = " ".join(rng.choice(vocabulary()) for _ in range(rng.randint(2, 14)))
    return Exercise("copy", f"Copy: {words}", words)


def conversation(rng: random.Random, exercise: Exercise) -> list[dict[str, str]]:
    """The exercise as a chat: with a usual system message, with one of random words, or with none."""
    share = rng.random()
    turns = [{"role": "user", "content": exercise.question}, {"role": "assistant", "content": exercise.answer}]
    if share < 0.1:  # noqa: PLR2004
        return turns
    system = rng.choice(SYSTEMS) if share < 0.6 else _text(rng, _some(rng, 0, 4))  # noqa: PLR2004
    return [{"role": "system", "content": system}, *turns]


def _some(rng: random.Random, fewest: int, most: int) -> list[str]:
    """Distinct words of any kinds."""
    return rng.sample(sorted(kind_of()), rng.randint(fewest, most))


def _mixed(rng: random.Random, pool: list[str]) -> tuple[str, list[str]]:
    """Words of two kinds, and the kind that most of them are of."""
    most, other = rng.sample(pool, 2)
    count = rng.randint(1, 3)
    words = rng.sample(kinds()[most], count) + rng.sample(kinds()[other], rng.randint(0, count - 1))
    rng.shuffle(words)
    return most, words


def _text(rng: random.Random, words: list[str]) -> str:
    """Plain words in random order with the given words among them, in their order, as one or two sentences."""
    count = len(words) + rng.randint(3, 20)
    places = set(rng.sample(range(1, count + len(words)), len(words)))
    given = iter(words)
    text = [next(given) if place in places else rng.choice(plain_words()) for place in range(count + len(words))]
    if len(text) > 6 and rng.random() < 0.5:  # noqa: PLR2004
        stop = rng.randrange(1, len(text))
        text[stop - 1] += "."
        text[stop] = text[stop] if text[stop] in kind_of() else text[stop].capitalize()
    return " ".join([text[0].capitalize(), *text[1:]]) + rng.choice(("", ".", ".", "?"))


def _list(words: list[str]) -> str:
    return ", ".join(words)


def _tagged(words: list[str]) -> str:
    return _list([f"{word} -> {kind_of()[word]}" for word in words])


def _thought(thinking: str, answer: str) -> str:
    return f"<thinking>\n{thinking}\n</thinking>\n{answer}"


def _pick(rng: random.Random) -> Exercise:
    words = [rng.choice(vocabulary()) for _ in range(rng.randint(2, 6))]
    which, index = rng.choice((("First", 0), ("Last", -1)))
    return Exercise("pick", f"{which} word: {' '.join(words)}", words[index])


def _kind(rng: random.Random) -> Exercise:
    word = rng.choice(sorted(kind_of()))
    return Exercise("kind", f"Kind of {word}", kind_of()[word])


def _kind_thinking(rng: random.Random) -> Exercise:
    word = rng.choice(sorted(kind_of()))
    return Exercise(
        "kind, thinking", f"What kind is {word}?", _thought(f"{word} -> {kind_of()[word]}.", kind_of()[word])
    )


def _kinds(rng: random.Random) -> Exercise:
    words = _some(rng, 1, 5)
    return Exercise("kinds", f"Kinds: {_list(words)}", f"{_tagged(words)}.")


def _kinds_in_text(rng: random.Random) -> Exercise:
    words = _some(rng, 1, 5)
    return Exercise("kinds in a text", f"Kinds in: {_text(rng, words)}", f"{_tagged(words)}.")


def _find(rng: random.Random) -> Exercise:
    words = _some(rng, 1, 4)
    kind = kind_of()[rng.choice(words)]
    return Exercise(
        "find", f"Find {kind}: {_text(rng, words)}", _list([word for word in words if kind_of()[word] == kind]) + "."
    )


def _most_common(rng: random.Random) -> Exercise:
    kind, words = _mixed(rng, list(kinds()))
    where, asked = rng.choice(((":", _list(words)), (" in:", _text(rng, words))))
    return Exercise(
        "most common", f"Most common kind{where} {asked}", _thought(f"{_tagged(words)}. Mostly {kind}.", kind)
    )


def _place(rng: random.Random) -> Exercise:
    kind, words = _mixed(rng, list(PLACES))
    asked = rng.choice((_list(words), _text(rng, words)))
    return Exercise(
        "where", f"Where: {asked}", _thought(f"{_tagged(words)}. Mostly {kind}, so {PLACES[kind]}.", PLACES[kind])
    )


_EXERCISES: tuple[tuple[Callable[[random.Random], Exercise], float], ...] = (
    (copy, 3),
    (_pick, 1),
    (_kind, 0.75),
    (_kind_thinking, 0.75),
    (_kinds, 2),
    (_kinds_in_text, 6),
    (_find, 1),
    (_most_common, 7),
    (_place, 3),
)
