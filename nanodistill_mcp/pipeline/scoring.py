"""Answers as numbers: accuracy with its interval, two models row by row, and what stands beside a bare right or wrong."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill_mcp.pipeline import answers
from nanodistill_mcp.pipeline.checking import Checking
from nanodistill_mcp.pipeline.statistics import paired, wilson
from nanodistill_mcp.pipeline.test_sets import Rows


@dataclass(frozen=True)
class Said:
    """One answer, parted."""

    thinking: str
    answer: str
    tokens: int = 0
    elapsed_s: float = 0.0
    """Its share of its batch."""
    finished: bool = True
    """The model stopped by itself."""


def score(rows: Rows, right: set[str]) -> dict[str, Any]:
    """Accuracy with its 95 % interval. A row that was not answered is wrong."""
    correct = sum(i in right for i, _, _ in rows)
    low, high = wilson(correct, len(rows))
    return {
        "rows": len(rows),
        "correct": correct,
        "accuracy": round(correct / len(rows), 4),
        "interval_95": [round(low, 4), round(high, 4)],
    }


def compared(right: Mapping[str, set[str]], other: str, rows: Sequence[str], first: str = "student") -> dict[str, Any]:
    """One model, the student unless another is named, against another, row by row."""
    pair = paired(right[first], right[other], list(rows))
    low, high = pair.interval()
    return {
        "rows": pair.rows,
        f"only_{first}": pair.only_first,
        f"only_{other}": pair.only_second,
        "difference": round(pair.difference, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "p_value": round(pair.p_value, 6),
    }


def model_score(checking: Checking, rows: Rows, said: Mapping[str, Said], right: set[str]) -> dict[str, Any]:
    """A model's accuracy, and beside it the form, length and time of its answers and what is right in part."""
    mine = [said[i] for i, _, _ in rows]
    tokens, seconds = sum(each.tokens for each in mine), sum(each.elapsed_s for each in mine)
    return {
        **score(rows, right),
        "well_formed": round(sum(not checking.fault(each.answer) for each in mine) / len(rows), 4),
        "finished": round(sum(each.finished for each in mine) / len(rows), 4),
        "mean_tokens": round(tokens / len(rows), 1),
        "seconds_per_answer": round(seconds / len(rows), 4),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        **_in_part(checking, rows, said),
    }


def _in_part(checking: Checking, rows: Rows, said: Mapping[str, Said]) -> dict[str, Any]:
    """For JSON the share of each field that is right, for free text the mean ROUGE-L."""
    match checking.checker:
        case "json":
            found: dict[str, list[bool]] = defaultdict(list)
            for i, _, expected in rows:
                for name, is_right in answers.fields_right(expected, said[i].answer).items():
                    found[name].append(is_right)
            if not found:
                return {}
            right, total = sum(sum(each) for each in found.values()), sum(len(each) for each in found.values())
            shares = {name: round(sum(each) / len(each), 4) for name, each in found.items()}
            return {"fields_right": round(right / total, 4), "fields": shares}
        case "judge" | "rouge_l":
            total = sum(answers.rouge_l(expected, said[i].answer) for i, _, expected in rows)
            return {"rouge_l": round(total / len(rows), 4)}
        case "exact" | "normalized" | "numeric" | "choice" | "regex":
            return {}
