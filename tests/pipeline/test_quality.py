"""What keeps a generated example out, and what it must let in."""

import random
import time
from itertools import pairwise
from string import ascii_lowercase

import pytest

from nanodistill_mcp.pipeline.quality import DUPLICATE_AT, HeldOut, NearDuplicates

_TICKET = "My order 4711 arrived with a broken screen and I would like my money back please"


def _known(*examples: tuple[str, str]) -> NearDuplicates:
    known = NearDuplicates()
    for text, output in examples:
        known.add(text, output)
    return known


@pytest.mark.parametrize(
    ("text", "near"),
    [
        (_TICKET, True),
        (_TICKET.upper() + "!!", True),
        (_TICKET.replace("please", "thanks"), True),
        (f"Hello, {_TICKET}", True),
        (_TICKET.replace("4711", "4712"), False),
        (_TICKET.replace("order 4711", "order"), False),
        (_TICKET + " 2", False),
        ("My order 4711 has not come and the shop does not answer the phone", False),
        ("Bonjour", False),
        ("", False),
    ],
)
def test_a_near_copy_has_most_of_the_words_and_all_of_the_numbers(text: str, near: bool) -> None:
    """Texts that differ in a number are other examples: that is the whole of arithmetic."""
    assert _known((_TICKET, "refund")).is_near(text, "refund") is near


def test_a_near_copy_with_another_output_is_kept() -> None:
    """It is a contrast pair, and teaches what makes the difference."""
    known = _known((_TICKET, "refund"))
    other = _TICKET.replace("broken", "fine")
    assert known.is_near(other, "Refund.")
    assert not known.is_near(other, "praise")


def test_near_copies_are_found_whatever_their_output_and_the_nearest_whatever_their_numbers() -> None:
    """Who looks at one example wants to see what it stands beside: the contrast pair, and the one with another number."""
    other_number = _TICKET.replace("4711", "4712")
    known = _known(("Bonjour", "hello"), (_TICKET.replace("broken", "fine"), "praise"), (other_number, "refund"))
    assert known.near(_TICKET) == [1]
    (first, first_similarity), (second, second_similarity) = known.nearest(_TICKET, 5)
    assert {first, second} == {1, 2}
    assert 1 > first_similarity >= second_similarity > 0.6
    assert known.nearest(_TICKET, 1) == [(first, first_similarity)]
    assert known.nearest(other_number, 1) == [(2, 1.0)]


@pytest.mark.parametrize("template", ["{} plus {}", "What is {} + {}?", "Tom has {} apples and buys {}.", "{},{}"])
def test_no_two_texts_that_differ_in_a_number_are_near_copies(template: str) -> None:
    """Lexical measures alone throw most of such examples away."""
    known = NearDuplicates()
    for a in range(12):
        for b in range(a, 12):
            text = template.format(a, b)
            assert not known.is_near(text, "same output"), text
            known.add(text, "same output")


@pytest.mark.parametrize(
    ("text", "exact"),
    [("A  b.", True), ("a b", True), ('"A B"', True), ("a b c", False), ("ab", False), ("a c", False)],
)
def test_the_same_input_is_known_whatever_its_case_spaces_and_ends(text: str, exact: bool) -> None:
    """The same input twice, with two outputs, would teach nothing."""
    assert _known(("A b", "x")).is_exact(text) is exact


def test_inputs_of_punctuation_alone_are_told_apart() -> None:
    """A task about punctuation is a task."""
    known = _known(("?", "question"))
    assert known.is_exact("?")
    assert not known.is_exact("!")
    assert not HeldOut(["?"]).contaminates("!")


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("我的订单还没有到货请帮我查询一下物流状态", "我的订单还没有到货请帮我查询一下物流", True),
        ("我的订单还没有到货请帮我查询一下物流状态", "产品坏了我要退款", False),
        ("商品が壊れていたので返金してください", "商品が壊れていたので返金してほしい", True),
        ("สินค้าเสียหายขอเงินคืน", "สินค้าเสียหายขอเงินคืนด้วย", True),
        ("Мой заказ пришёл сломанным, верните деньги", "Мой заказ пришёл сломанным, верните мне деньги", True),
    ],
)
def test_near_copies_are_found_in_writing_without_spaces(one: str, other: str, near: bool) -> None:
    """Where a whole sentence would be one word, only exact copies would be found."""
    assert _known((one, "x")).is_near(other, "x") is near
    assert HeldOut([one]).contaminates(f"{other}。") is near


_HELD_OUT = "The parcel 88 was left in the rain and everything inside is wet"


@pytest.mark.parametrize(
    ("text", "gives_away"),
    [
        (_HELD_OUT, True),
        (_HELD_OUT.lower() + ".", True),
        (f"A long letter about many things. {_HELD_OUT}. And much more that has nothing to do with it at all.", True),
        ("The parcel 88 was left in the rain and everything inside it", True),
        (_HELD_OUT.replace("88", "89"), False),
        ("The parcel 88 was left on the stairs and somebody took it away", False),
        ("wet", False),
        ("", False),
    ],
)
def test_a_text_that_holds_most_of_a_held_out_example_gives_it_away(text: str, gives_away: bool) -> None:
    """Also inside a longer text, which a symmetric measure would miss; an accuracy on it would be a memory test."""
    assert HeldOut(["Another held-out text", _HELD_OUT]).contaminates(text) is gives_away


def test_every_held_out_text_gives_itself_away_also_when_it_is_one_word() -> None:
    """One word has no word pairs."""
    texts = ["refund", "42", "?", "two words", "我", "a" * 500, "Ünïcödé straße"]
    held_out = HeldOut(texts)
    for text in texts:
        assert held_out.contaminates(text)
        assert held_out.contaminates(f"  {text.upper()} ")
    assert not held_out.contaminates("something else")


def test_nothing_held_out_lets_everything_in() -> None:
    """A run of three seeds."""
    assert not HeldOut([]).contaminates("anything")


def test_ten_thousand_examples_are_searched_in_time_that_stays_small() -> None:
    """Amplify asks for every candidate; a scan of all pairs would take minutes."""
    known = NearDuplicates()
    began = time.process_time()
    for i in range(10_000):
        text = f"ticket {i} about topic {i % 97} in city {i % 89} from customer {i % 83}"
        assert not known.is_near(text, "x")
        known.add(text, "x")
    assert time.process_time() - began < 10


@pytest.mark.parametrize("threshold", [DUPLICATE_AT, 0.5, 0.7, 1.0])
def test_what_is_looked_up_misses_no_near_copy(threshold: float) -> None:
    """Only the rarest words are looked up: each text is held against every other one, as if there were no index."""
    draw = random.Random(0)
    texts: list[str] = []
    for _ in range(120):
        words = [ascii_lowercase[min(int(draw.expovariate(0.3)), 25)] * 2 for _ in range(draw.randrange(1, 12))]
        texts.append(" ".join(word if draw.random() > 0.1 else str(draw.randrange(3)) for word in words))
        if draw.random() < 0.5:
            changed = draw.choice(texts).split()
            changed[draw.randrange(len(changed))] = "other"
            texts.append(" ".join(changed))
    index = NearDuplicates(threshold=threshold)
    for text in texts:
        index.add(text, "x")
    found = 0
    for text in texts:
        wanted = {place for place, other in enumerate(texts) if _is_near(text, other, threshold)}
        assert set(index.near(text)) == wanted, text
        found += len(wanted)
    assert found > len(texts) + 10


def _is_near(text: str, other: str, threshold: float) -> bool:
    """The definition, word for word."""
    words = [each.split() for each in (text, other)]
    one, two = (set(each) | {" ".join(pair) for pair in pairwise(each)} for each in words)
    numbers = [sorted(word for word in each if word.isdigit()) for each in words]
    return numbers[0] == numbers[1] and len(one & two) / len(one | two) >= threshold
