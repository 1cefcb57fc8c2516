"""Answers as numbers."""

import pytest

from nanodistill_mcp.pipeline.answers import fields_right, rouge_l
from nanodistill_mcp.pipeline.checking import Checking
from nanodistill_mcp.pipeline.failures import cells_of, failure_groups
from nanodistill_mcp.pipeline.scoring import Said, model_score
from nanodistill_mcp.runs.records import Checker, Example


def _checking(checker: Checker, choices: tuple[str, ...] = ()) -> Checking:
    return Checking("Do it.", checker, list(choices))


def test_rouge_l_is_the_measure_of_its_paper() -> None:
    """Lin 2004, section 2.1: 'police killed the gunman' against 'police kill the gunman' has an F of 3/4."""
    assert rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(0.75)
    assert rouge_l("police killed the gunman", "the gunman kill police") == pytest.approx(0.5)
    assert rouge_l("Police killed the gunman!", "police KILLED the gunman") == 1.0
    assert (rouge_l("", ""), rouge_l("a", "")) == (1.0, 0.0)


def test_a_json_answer_is_told_apart_field_by_field() -> None:
    """An answer with one wrong date of five fields is no total loss, and the user wants to know it is the date."""
    wanted = '{"name": "Ann", "born": {"year": 1980, "place": "Rome"}, "tags": [1, 2], "empty": {}}'
    given = '{"born": {"year": 1980.0, "place": "Paris"}, "tags": [1, 2], "empty": {}, "more": 1}'
    assert fields_right(wanted, given) == {
        "name": False,
        "born.year": True,
        "born.place": False,
        "tags": True,
        "empty": True,
    }
    assert fields_right("[1]", "[1]") == {}
    rows = [("a", "", wanted), ("b", "", '{"name": "Bo"}')]
    told = model_score(_checking("json"), rows, {"a": Said("", given), "b": Said("", '{"name": "Bo"}')}, {"b"})
    assert (told["accuracy"], told["well_formed"], told["fields_right"]) == (0.5, 1.0, pytest.approx(4 / 6, abs=1e-4))
    assert told["fields"]["name"] == 0.5


def test_beside_the_accuracy_stand_form_length_and_time() -> None:
    """A student that is right but rambles, or never ends, is not the one to ship."""
    rows = [("a", "", "yes"), ("b", "", "no")]
    said = {"a": Said("", "yes", 10, 0.5), "b": Said("", "who knows", 30, 1.5, finished=False)}
    told = model_score(_checking("choice", ("yes", "no")), rows, said, {"a"})
    assert told["well_formed"] == told["finished"] == told["accuracy"] == 0.5
    assert (told["mean_tokens"], told["seconds_per_answer"], told["tokens_per_second"]) == (20.0, 1.0, 20.0)


def test_free_text_has_its_rouge_l_beside_the_judges_verdict() -> None:
    """A judge's share cannot be checked by hand; words in common can."""
    rows = [("a", "", "the cat sat"), ("b", "", "the dog ran")]
    said = {"a": Said("", "the cat sat"), "b": Said("", "a bird flew")}
    assert model_score(_checking("judge"), rows, said, {"a", "b"})["rouge_l"] == 0.5


def _rows(count: int, wrong: set[int]) -> tuple[list[tuple[str, str, str]], dict[str, Said], set[str]]:
    """Half of the rows are of 'a', half of 'b'; wrong ones were answered with the other."""
    rows = [(f"r{n:02d}", "x" * 30, "ab"[n % 2]) for n in range(count)]
    said = {i: Said("", expected if n not in wrong else "ba"[n % 2]) for n, (i, _, expected) in enumerate(rows)}
    return rows, said, {i for n, (i, _, _) in enumerate(rows) if n not in wrong}


def test_failures_are_grouped_by_what_the_policy_varies() -> None:
    """'Wrong in 5 of 6 about refunds' can be acted on; 'wrong in 6 of 40' cannot."""
    rows, said, right = _rows(40, wrong={0, 2, 4, 6, 8, 11})
    cells = {i: {"topic": "refunds" if n < 10 and n % 2 == 0 else "other"} for n, (i, _, _) in enumerate(rows)}
    groups = failure_groups(_checking("choice", ("a", "b")), rows, said, right, cells)

    found = {(group["dimension"], group["value"]): group for group in groups}
    refunds = found["topic", "refunds"]
    assert (refunds["wrong"], refunds["rows"], refunds["share"]) == (5, 5, 1.0)
    assert refunds["p_value"] < 0.001
    assert [example["id"] for example in refunds["examples"]] == ["r00", "r02", "r04", "r06", "r08"]
    assert (found["mistaken for", "a → b"]["wrong"], found["mistaken for", "a → b"]["rows"]) == (5, 20)
    assert ("topic", "other") not in found


def test_failures_that_fall_anywhere_make_no_group() -> None:
    """Two failures, one in each half, say nothing of either half."""
    rows, said, right = _rows(40, wrong={0, 21})
    cells = {i: {"topic": f"t{n // 4}"} for n, (i, _, _) in enumerate(rows)}
    assert failure_groups(_checking("choice", ("a", "b")), rows, said, right, cells) == []


def test_answers_that_are_none_and_answers_that_never_end_are_groups_of_their_own() -> None:
    """They are mended by other means than more examples: the policy's form, or max_new_tokens."""
    rows = [(f"r{n}", "text", "a") for n in range(8)]
    said = {i: Said("", "banana", finished=n % 2 == 0) for n, (i, _, _) in enumerate(rows)}
    groups = failure_groups(_checking("choice", ("a", "b")), rows, said, set(), {})
    assert {(group["dimension"], group["value"], group["wrong"]) for group in groups} == {
        ("form", "not finished", 4),
        ("form", "not an answer of the task's form", 4),
    }


def test_a_real_example_takes_its_topic_from_the_generated_ones_most_like_it() -> None:
    """Held-out examples have no cell; what they are about is known from those that do."""

    def made(number: int, text: str, topic: str) -> Example:
        return Example(
            id=f"g{number}", input=text, thinking="", output="a", confidence=1, origin="synthetic", parents=[],
            call_ids=[], cell={"topic": topic, "difficulty": "easy"},
        )  # fmt: skip

    examples = [
        made(1, "the parcel with my lamp is late", "delivery"),
        made(2, "my parcel is late again", "delivery"),
        made(3, "I was charged twice", "billing"),
    ]
    rows = [("h1", "where is my late parcel", "a"), ("g3", "I was charged twice", "a"), ("h2", "zzz", "a")]
    found = cells_of(rows, examples)
    assert found["h1"]["topic"] == "delivery"
    assert found["g3"] == {"topic": "billing", "difficulty": "easy"}
    assert found["h2"] == {}
