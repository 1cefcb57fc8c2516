"""The demo's task: sort a customer's message into one of six queues.

`solve` is the task's ground truth. It reads the words of a message: each clue word points to a kind, most clues decide the
kind, and the kind decides the queue. It never learns how a message was written, so it answers any English text.

`write_message` writes new messages from a small grammar. An eighth of its core sentences, chosen by a hash, is reserved for
the held-out messages: no draw ever yields one of them.
"""

import hashlib
import json
import random
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

INSTRUCTION = "Sort the message into one queue: billing, delivery, login, returns, technical or account."
QUEUES = ("billing", "delivery", "login", "returns", "technical", "account")
FALLBACK_QUEUE = "account"
MAX_CLUES = 5
RESERVED_SHARE = 8
_WORD = re.compile(r"[a-z]+")
_CHOICE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Message:
    """A written message: its text, the queue it was written for, and its core sentence."""

    text: str
    queue: str
    core: str


def data(name: str) -> str:
    """The text of one of the demo's data files."""
    return resources.files("nanodistill_mcp.demo").joinpath("data", name).read_text(encoding="utf-8")


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in data(name).splitlines() if line.strip()]


def seeds() -> list[dict[str, str]]:
    """The ten examples a user would start from: `{"input", "output"}`."""
    return _rows("seeds.jsonl")


def held_out() -> list[dict[str, str]]:
    """Sixty messages the teacher never writes, half of them written by hand: `{"input", "output"}`."""
    return _rows("held_out.jsonl")


@cache
def grammar() -> dict[str, Any]:
    """The grammar that messages are written from: slots, cores per queue, openers, closers, context, crossing."""
    return json.loads(data("grammar.json"))


@cache
def kind_of_clue() -> dict[str, str]:
    """Every clue word the solver knows, with the kind it points to."""
    clues = json.loads(data("clues.json"))
    return {word: kind for part in ("also", "clues") for kind, words in clues[part].items() for word in words}


@cache
def queue_of_kind() -> dict[str, str]:
    """The queue each kind belongs to."""
    return json.loads(data("clues.json"))["queues"]


def clues_in(text: str) -> list[tuple[str, str]]:
    """The clue words of a text in reading order, each once, with their kinds."""
    known = kind_of_clue()
    words = dict.fromkeys(word for word in _WORD.findall(text.lower()) if word in known)
    return [(word, known[word]) for word in words]


def solve(text: str) -> tuple[str, str]:
    """Work a message out: the clues, the kind most of them share, the queue.

    On a tie the later clue decides, because people end on their point. A text without any clue goes to a person, at account.

    Returns:
        The worked solution and the queue.
    """
    clues = clues_in(text)[:MAX_CLUES]
    if not clues:
        return f"Clues: none. A person must read it, so {FALLBACK_QUEUE}.", FALLBACK_QUEUE
    votes: dict[str, int] = {}
    for _, kind in reversed(clues):
        votes[kind] = votes.get(kind, 0) + 1
    kind = max(votes, key=lambda each: votes[each])
    queue = queue_of_kind()[kind]
    listed = ", ".join(f"{word} -> {its_kind}" for word, its_kind in clues)
    return f"Clues: {listed}. Mostly {kind}, so {queue}.", queue


def is_reserved(core: str) -> bool:
    """Whether a core sentence belongs to the held-out messages."""
    return hashlib.sha256(core.encode()).digest()[0] % RESERVED_SHARE == 0


def _expand(template: str, rng: random.Random, told: dict[str, str]) -> str:
    """Fill a template; what `told` already names (the item, the person) keeps its name through the message."""
    slots = grammar()["slots"]
    while match := _CHOICE.search(template):
        name = match[1]
        choice = told.get(name) or rng.choice(slots.get(name) or name.split("|"))
        if name in ("item", "person"):
            told[name] = choice
        template = template[: match.start()] + choice + template[match.end() :]
    return template[0].upper() + template[1:]


def write_message(rng: random.Random, queue: str, *, reserved: bool = False) -> Message:
    """Write one message for a queue.

    Args:
        rng: Decides every choice, so equal generators write equal messages.
        queue: One of `QUEUES`.
        reserved: Write from the core sentences kept for the held-out messages instead of the others.
    """
    rules, told = grammar(), dict[str, str]()
    while is_reserved(core := _expand(rng.choice(rules["cores"][queue]), rng, told)) is not reserved:
        told.clear()
    before = _around(rng, core, queue, told)
    sentences = [*before, core] if rng.random() < 0.7 else [core, *before]  # noqa: PLR2004 - the customer's own order
    if rng.random() < 0.25:  # noqa: PLR2004
        sentences.insert(0, _expand(rng.choice(rules["openers"]), rng, told))
    if rng.random() < 0.35:  # noqa: PLR2004
        sentences.append(_expand(rng.choice(rules["closers"]), rng, told))
    return Message(text=" ".join(sentences), queue=queue, core=core)


def _around(rng: random.Random, core: str, queue: str, told: dict[str, str]) -> list[str]:
    """A sentence beside the core: none, neutral, or one whose clue points elsewhere and must be outvoted."""
    rules, draw = grammar(), rng.random()
    if draw < 0.45:  # noqa: PLR2004
        return []
    if draw < 0.75:  # noqa: PLR2004
        return [_expand(rng.choice(rules["context"]), rng, told)]
    own = {word for word, kind in clues_in(core) if queue_of_kind()[kind] == queue}
    other = rng.choice([kind for kind in rules["crossing"] if queue_of_kind()[kind] != queue])
    crossing = _expand(rng.choice(rules["crossing"][other]), rng, told)
    foreign = len(clues_in(core)) - len(own) + len(clues_in(crossing))
    return [crossing] if len(own) > foreign else []
