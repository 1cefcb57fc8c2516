"""The part of the page on what was measured: the scores, and where the student fails."""

from typing import Any

from nanodistill_mcp.pipeline.report import numbers
from nanodistill_mcp.pipeline.report.facts import Facts
from nanodistill_mcp.pipeline.report.markdown import cell, code, prose, table
from nanodistill_mcp.pipeline.report.pictured import NOTHING, SET_NAMES

_FAILURES_SHOWN = 5
_GROUPS_SHOWN = 5
_LONG = 400

_DIMENSIONS = {
    "topic": "topic",
    "difficulty": "difficulty",
    "persona": "writer",
    "answer": "expected answer",
    "length": "length",
    "mistaken for": "mistaken",
    "form": "form",
    "field": "field",
}

Lines = list[str]


def scores(facts: Facts, pictures: frozenset[str]) -> Lines:
    """Every set that was answered, model beside model."""
    gguf = facts.gguf_score
    if not facts.sets and not gguf:
        return ["Nothing was measured yet. The call that does: `evaluate`."]
    lines: Lines = ["![Scores with their 95% intervals](scorecard.png)", ""] if "scorecard.png" in pictures else []
    for name, part in facts.sets.items():
        beside = gguf if gguf and gguf["set"] == name else None
        lines += [*_score_table(SET_NAMES[name], part, beside), "", *_compared(part), ""]
    if gguf and gguf["set"] not in facts.sets:
        lines += [
            f"The GGUF file alone was asked: {numbers.share(gguf['accuracy'])}, {gguf['correct']} of {gguf['rows']}.",
            "",
        ]
    if gguf:
        lines += [f"**As a GGUF file.** {prose(gguf['verdict'])}", ""]
    if "held_out" in facts.sets:
        lines += ["Held-out examples are the user's own, kept from training and from the teacher's writing. "]
        lines[-1] += "Synthetic ones were written by the teacher like the training data, so they flatter the student."
        lines.append("")
    if general := (facts.evaluation or NOTHING).get("general"):
        lines += [*_general(general), ""]
    found = facts.evaluation or NOTHING
    told = [f"Answers were compared by the checker {code(found['checker'])}."] if found else []
    if seen := found.get("seen_rows_left_out"):
        told.append(
            f"{numbers.count(seen, 'given row')} repeated a training example and were left out: they prove nothing."
        )
    return [*lines, " ".join(told)] if told else lines[:-1]


def _score_table(name: str, part: dict[str, Any], gguf: dict[str, Any] | None) -> Lines:
    models = [(model, part[model]) for model in ("base", "student") if part.get(model)]
    models += [("student as GGUF file", gguf)] if gguf else []
    models += [("teacher", part["teacher"])] if part.get("teacher") else []
    head = [name.capitalize(), "right", "share", "95% interval", "in the wanted form", "tokens per answer"]
    rows = [
        [
            model,
            f"{score['correct']:,} of {score['rows']:,}",
            f"**{numbers.share(score['accuracy'])}**",
            numbers.interval(score["interval_95"]),
            numbers.share(score["well_formed"]) if "well_formed" in score else "–",
            f"{score['mean_tokens']:.0f}" if "mean_tokens" in score else "–",
        ]
        for model, score in models
    ]
    lines = table(head, rows)
    if part.get("teacher", NOTHING).get("may_have_seen_answers"):
        lines += [
            "",
            "The teacher is the agent of the chat, which may have seen these answers: its share may be a memory.",
        ]
    fields = part.get("student", {}).get("fields")
    if fields:
        shown = "; ".join(f"{code(field)} {numbers.share(right)}" for field, right in fields.items())
        lines += ["", f"Field by field, the student: {shown}."]
    if judged := part.get("student", {}).get("judge_agreement"):
        again = f"{judged['same_verdict']} of {judged['asked_again']}"
        lines += ["", f"The teacher judged the answers; with the two swapped it said the same of {again}."]
    if (overlap := part.get("student", {}).get("rouge_l")) is not None:
        lines += ["", f"Overlap of the student's words with the expected ones (ROUGE-L): {overlap:.2f}."]
    return lines


def _compared(part: dict[str, Any]) -> Lines:
    told: Lines = []
    for other in ("base", "teacher", "parent"):
        if pair := part.get(f"student_against_{other}"):
            difference = numbers.points(pair["difference"], pair["interval_95"])
            only = f"only the student was right in {pair['only_student']}, only the {other} in {pair[f'only_{other}']}"
            told.append(
                f"Student against {other}, on {numbers.count(pair['rows'], 'example')}: {difference}; {only}, {numbers.p_value(pair['p_value'])}."
            )
    if kept := part.get("passed_before"):
        told.append(f"Of {kept['rows']} that the parent had right it still has {kept['still']}.")
    return [" ".join(told)] if told else []


def _general(general: dict[str, Any]) -> Lines:
    base, student = (f"{general[model]['correct']} of {general[model]['rows']}" for model in ("base", "student"))
    asked = f"General questions that have nothing to do with the task: base {base}, student {student}."
    return [f"**Has it forgotten anything?** {asked} {prose(general.get('verdict', ''))}".rstrip()]


def _group_row(group: dict[str, Any]) -> list[str]:
    what, chance = _DIMENSIONS.get(group["dimension"], ""), group.get("p_value")
    first = next(iter(group.get("examples", [])), NOTHING)
    return [
        f"{what or cell(group['dimension'])}: {cell(group['value'])}",
        f"{group['wrong']} of {group['rows']}",
        "–" if chance is None else numbers.p_value(chance),
        cell(first["input"]) if first else "–",
    ]


def failures(facts: Facts) -> Lines:
    """Where the student is wrong: the groups it is wrong in, and examples."""
    name, part = next(iter(facts.sets.items()))
    if not part["failures"]:
        return [f"Nowhere: all {part['student']['rows']} {SET_NAMES[name]} were answered rightly."]
    lines: Lines = []
    groups: list[dict[str, Any]] = part.get("failure_groups", [])
    if groups:
        rows = [_group_row(group) for group in groups[:_GROUPS_SHOWN]]
        lines += ["More often than elsewhere, or always in the same way:", ""]
        lines += [*table(["where", "wrong", "by chance alone", "for example"], rows), ""]
    wrong = part["student"]["rows"] - part["student"]["correct"]
    rows = [
        [cell(row["input"], _LONG), cell(row["expected"]), cell(row["answer"])]
        for row in part["failures"][:_FAILURES_SHOWN]
    ]
    told = f"{numbers.count(wrong, 'wrong answer')} on the {SET_NAMES[name]}" + (
        f", the first {len(rows)}:" if wrong > len(rows) else ":"
    )
    return [*lines, told, "", *table(["input", "expected", "student's answer"], rows)]
