"""The part of the page on how the student was made: the data, and the training."""

from nanodistill_mcp.pipeline.distilling import in_words
from nanodistill_mcp.pipeline.report import numbers
from nanodistill_mcp.pipeline.report.facts import Facts
from nanodistill_mcp.pipeline.report.markdown import block, cell, prose, table
from nanodistill_mcp.pipeline.report.words import REJECTED

_DISAGREEMENTS_SHOWN = 3
_LONG = 400

Lines = list[str]


def data(facts: Facts) -> Lines:
    """How good the teacher is, what was made and what was left out, and examples."""
    lines: Lines = []
    if found := facts.ceiling:
        lines += [prose(found["why"]), ""]
        rows = [
            [cell(row["input"], _LONG), cell(row["given"]), cell(row["teacher"])]
            for row in found["disagreements"][:_DISAGREEMENTS_SHOWN]
        ]
        if rows:
            told = f"Where it differed ({len(rows)} of {found['solved'] - found['agree']}):"
            lines += [told, "", *table(["input", "given answer", "teacher's answer"], rows), ""]
    if not facts.examples:
        return [*lines, "There are no training examples yet."]
    lines += [*_counts(facts), ""]
    if facts.rejected:
        rows = [[REJECTED.get(reason, cell(reason)), f"{number:,}"] for reason, number in facts.rejected.items()]
        total, kept = sum(facts.rejected.values()), len(facts.examples)
        lines += [f"{total:,} more were rejected, so {numbers.share(kept / (kept + total))} were kept.", ""]
        lines += [*table(["rejected because", "rows"], rows), ""]
    for number, row in enumerate(facts.shown_examples(), 1):
        origin = {"seed": "given by the user", "synthetic": "written by the teacher"}.get(
            row.origin, "a real input, answered by the teacher"
        )
        shown = [
            f"Input: {row.input}",
            *([f"Reasoning: {row.thinking}"] if row.thinking else []),
            f"Answer: {row.output}",
        ]
        lines += [f"Example {number}, {origin}:", "", *block("\n".join(shown)), ""]
    return lines[:-1]


def _counts(facts: Facts) -> Lines:
    origins = [row.origin for row in facts.examples]
    parts = [
        (origins.count("seed"), "given by the user"),
        (origins.count("synthetic"), "written by the teacher and verified"),
        (origins.count("labelled"), "real inputs answered by the teacher"),
    ]
    told = ", ".join(f"{number:,} {words}" for number, words in parts if number)
    lines = [f"{numbers.count(len(origins), 'example')} to learn from: {told}."]
    if facts.revised:
        changes = ", ".join(f"{number} {what}" for what, number in facts.revised.items() if number)
        lines[0] += f" A person went through them: {changes}." if changes else ""
    if facts.dataset:
        files = facts.dataset["files"]
        rows = {name: files.get(name, {}).get("rows", 0) for name in ("train", "valid", "test")}
        reasoned = files.get("train", {}).get("with_reasoning", 0)
        how = "all" if reasoned == rows["train"] else f"{reasoned:,}" if reasoned else "none"
        split = [f"{rows['train']:,} were trained on ({how} with reasoning)"]
        split += [f"{rows['valid']:,} chose the best checkpoint"] if rows["valid"] else []
        split += [f"{rows['test']:,} were kept as a synthetic test"] if rows["test"] else []
        lines[0] += f" {', '.join(split)}."
    return lines


def training(facts: Facts, pictures: frozenset[str]) -> Lines:
    """How the training went, and every option with its reason."""
    trained = facts.training
    if trained is None:
        return ["It was not trained yet."]
    ended = {
        "finished": "It ran to its planned end.",
        "early": "It ended early: the validation loss got no better.",
        "stopped": "The user stopped it, and what it had learnt was kept.",
        "diverged": f"It diverged. {prose(trained.get('why', ''))}",
    }.get(trained["stopped"], "")
    per_update = trained["recipe"]["grad_accumulation_steps"]
    done, best = trained["iterations"] // per_update, trained["best_iteration"] // per_update
    dropped, valid = trained["rows_dropped"], trained["best_valid_loss"]
    left_out = f"; {numbers.count(dropped, 'row')} did not fit and were left out" if dropped else ""
    validated = f", validation loss {numbers.loss(valid)}" if valid is not None else ""
    lines = ["![Training and validation loss](loss.png)", ""] if "loss.png" in pictures else []
    lines += [
        f"{numbers.count(done, 'update')} over {numbers.count(trained['rows_trained'], 'row')}{left_out}. {ended}",
        f"Training loss {numbers.loss(trained['first_train_loss'])} to {numbers.loss(trained['final_train_loss'])}.",
        f"The model is the one of update {best}{validated}.",
        f"{trained['trainable_parameters']:,} parameters were trained in {numbers.duration(trained['elapsed_s'])},",
        f"peak memory {numbers.size(trained['peak_memory_gb'] * 1e9)}, on {prose(trained.get('device') or 'this machine')}.",
    ]
    if taught := trained.get("taught"):
        lines.append(prose(in_words(taught)))
    in_full = trained["recipe"]["fine_tune_type"] == "full"
    used = [row for row in facts.options if not (in_full and row["option"].startswith("lora_"))]
    rows = [[cell(row["option"]), cell(_value(row["value"])), prose(_why(row["why"]))] for row in used]
    return [*lines, "", *table(["option", "value", "why"], rows)]


def _why(told: str) -> str:
    """The plan speaks to the caller; this page is for others."""
    return told.replace("0 unless you set it", "the default").replace("set by you", "asked for")


def _value(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case None:
            return "none"
        case _:
            return str(value)
