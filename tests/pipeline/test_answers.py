"""When two answers are the same."""

import itertools

import pytest

from nanodistill_mcp.pipeline.answers import agree, fits, normalize, number_in
from nanodistill_mcp.pipeline.inference import infer_checker
from nanodistill_mcp.runs.records import Checker


@pytest.mark.parametrize(
    ("checker", "expected", "given", "same"),
    [
        ("exact", "Refund", " Refund\n", True),
        ("exact", "Refund", "refund", False),
        ("exact", "Refund.", "Refund", False),
        ("normalized", "Refund", '"refund".', True),
        ("normalized", "two  words", "Two\nwords", True),
        ("normalized", "\uff32efund", "refund", True),
        ("normalized", "STRASSE", "straße", True),
        ("normalized", "refund", "a refund", False),
        ("normalized", "do not refund", "refund", False),
        ("normalized", "-5", "5", False),
        ("normalized", "C++", "C", False),
        ("normalized", "?", "!", False),
        ("normalized", "()", "[]", False),
        ("normalized", "()", "", False),
        ("normalized", "...", "...", True),
        ("choice", "Billing", "**billing**", True),
        ("choice", "billing", "bill", False),
        ("numeric", "42", "42", True),
        ("numeric", "42", "The answer is 42.", True),
        ("numeric", "42", "6 * 7 = 42", True),
        ("numeric", "1,234.5", "1234.50", True),
        ("numeric", "1234567", "1,234,567", True),
        ("numeric", "-3", "3", False),
        ("numeric", "0.1", "0.1000001", True),
        ("numeric", "0.1", "0.1001", False),
        ("numeric", "0", "0.0", True),
        ("numeric", "1e3", "1000", True),
        ("numeric", "42", "42 or 43", False),
        ("numeric", "42", "unknown", False),
        ("numeric", "unknown", "unknown", False),
        ("numeric", ".5", "0.5", True),
        ("numeric", "3.5", "3,5 kg", True),
        ("rouge_l", "the cat sat on the mat", "on the mat the cat sat", True),
        ("rouge_l", "the cat sat on the mat", "a dog", False),
        ("numeric", "1234.5", "1.234,50", True),
        ("json", '{"a": 1, "b": [2]}', '{"b":[2],"a":1.0}', True),
        ("json", '{"a": 1}', '```json\n{"a": 1}\n```', True),
        ("json", '{"a": 1}', '```\n{"a": 1}\n```', True),
        ("json", '{"a": true}', '{"a": 1}', False),
        ("json", '{"a": false}', '{"a": 0}', False),
        ("json", '{"a": null}', '{"a": ""}', False),
        ("json", '{"a": 1}', '{"a": "1"}', False),
        ("json", '{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ("json", '{"id": 12345678901234567890}', '{"id": 12345678901234567891}', False),
        ("json", '{"a": 0.1}', '{"a": 1e-1}', True),
        ("json", '{"a": "é"}', r'{"a": "\u00e9"}', True),
        ("json", '{"a": 1}', '{"a": 1', False),
        ("json", "not json", "not json", False),
        ("json", '{"a": 1}', "[" * 100_000, False),
        ("json", '{"a": 1}', '{"a": 1e99999999999999999999}', False),
    ],
)
def test_answers_agree_exactly_when_they_mean_the_same(checker: Checker, expected: str, given: str, same: bool) -> None:
    """Agreement is a trace's confidence, a verification and an accuracy: an error here is in every number we report."""
    assert agree(checker, expected, given) is same


_TEXTS = ["", " ", "a", "A.", "é", "42", "-42", "1,000", "x = 3.5", '{"a": 1}', "[1, 2]", "null", "?", "two words"]


@pytest.mark.parametrize("checker", ["exact", "normalized", "choice", "numeric", "json"])
def test_agreement_is_symmetric_and_an_answer_that_fits_agrees_with_itself(checker: Checker) -> None:
    """What is expected and what is given may change places."""
    for left, right in itertools.product(_TEXTS, repeat=2):
        assert agree(checker, left, right) is agree(checker, right, left)
    for text in _TEXTS:
        if fits(checker, [], text):
            assert agree(checker, text, text)


def test_normalizing_twice_changes_nothing_more() -> None:
    """Else the index of near copies and the checker would disagree."""
    for text in [*_TEXTS, '"(quoted.)"', "**bold**", "...", "?!", "\uff01x\uff01", "İ", "ﬁne", " .a. "]:
        assert normalize(normalize(text)) == normalize(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7.0),
        ("$1,234.50", 1234.5),
        ("between 3 and 5", 5.0),
        ("-2.5e-3", -0.0025),
        ("no number", None),
        ("", None),
        ("a+b", None),
        ("12%", 12.0),
        ("1,2,3", 3.0),
        ("x^2 = 16", 16.0),
    ],
)
def test_the_last_number_of_a_text_is_its_number(text: str, number: float | None) -> None:
    """A worked solution ends with its result."""
    assert number_in(text) == number


@pytest.mark.parametrize(
    ("outputs", "checker", "choices"),
    [
        (["1", "2.5", "-3"], "numeric", []),
        (["$5", "12%", "1,000"], "numeric", []),
        (["5 km", "6 km", "7 km"], "normalized", []),
        (['{"a": 1}', '{"a": 2}', "[1]"], "json", []),
        (['{"a": 1}', "text", "[1]"], "normalized", []),
        (["null", "true", "null", "true"], "choice", ["null", "true"]),
        (["billing", "bug", "billing", "bug "], "choice", ["billing", "bug"]),
        (["billing", "bug", "billing"], "normalized", []),
        (["a", "b", "c", "d"], "normalized", []),
        (["a", "b", "c", "a"], "choice", ["a", "b", "c"]),
        (["x" * 61, "x" * 61, "y", "y"], "normalized", []),
        (["one sentence", "another one", "a third", "a fourth", "a fifth"], "normalized", []),
    ],
)
def test_the_checker_is_inferred_from_the_given_answers(
    outputs: list[str], checker: Checker, choices: list[str]
) -> None:
    """Before there is a policy, and to hold the teacher's proposal against."""
    assert infer_checker(outputs) == (checker, choices)


@pytest.mark.parametrize("outputs", [["1", "2", "3"], ['{"a":1}'] * 3, ["a", "b", "a", "b"], ["p q", "r s", "t u"]])
def test_every_given_answer_fits_the_checker_that_was_inferred_from_it(outputs: list[str]) -> None:
    """Else the user's own examples would be rejected as not well formed."""
    checker, choices = infer_checker(outputs)
    assert all(fits(checker, choices, output) for output in outputs)


@pytest.mark.parametrize(
    ("checker", "choices", "output", "well_formed"),
    [
        ("numeric", [], "about 5", True),
        ("numeric", [], "five", False),
        ("json", [], '{"a": 1}', True),
        ("json", [], "```json\n[]\n```", True),
        ("json", [], "{a: 1}", False),
        ("choice", ["Billing", "Bug"], "bug.", True),
        ("choice", ["Billing", "Bug"], "other", False),
        ("choice", [], "anything", True),
        ("normalized", [], "x", True),
        ("normalized", [], " \n", False),
        ("exact", [], "", False),
    ],
)
def test_an_answer_is_well_formed_when_its_checker_can_judge_it(
    checker: Checker, choices: list[str], output: str, well_formed: bool
) -> None:
    """Counted apart from accuracy: a student that answers in another form has another fault."""
    assert fits(checker, choices, output) is well_formed


def test_a_tolerance_says_how_far_two_numbers_may_differ() -> None:
    """A measured length is right within a per cent; a count is not."""
    assert agree("numeric", "100", "100.9", tolerance=0.01)
    assert not agree("numeric", "100", "101.1", tolerance=0.01)
    assert not agree("numeric", "100", "100.9")
