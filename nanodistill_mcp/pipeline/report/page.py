"""``report.md``: one page on a run, for somebody who knows nothing of it. The verdict first; what is missing is said."""

from typing import Any

from nanodistill_mcp.pipeline import thinking
from nanodistill_mcp.pipeline.report import numbers
from nanodistill_mcp.pipeline.report.facts import Facts
from nanodistill_mcp.pipeline.report.made import data, training
from nanodistill_mcp.pipeline.report.markdown import block, cell, code, table
from nanodistill_mcp.pipeline.report.measured import failures, scores
from nanodistill_mcp.pipeline.report.pictured import NOTHING
from nanodistill_mcp.pipeline.report.words import (
    PRODUCTS,
    STAGES,
    how_to_run,
    licence_of_base,
    made_with,
    terms_of_teacher,
    verdict_of,
)

Lines = list[str]


def page(facts: Facts, pictures: frozenset[str]) -> str:
    """The whole page.

    Args:
        facts: The run.
        pictures: Those that lie beside the page, by file name.
    """
    parts = [
        [f"# {code(facts.run_id)}: a small model for one task", "", *_summary(facts)],
        ["## The task", "", *block(facts.manifest.spec.instruction)],
        ["## Scores", "", *scores(facts, pictures)],
        *([["## Where it fails", "", *failures(facts)]] if facts.sets else []),
        ["## The data", "", *data(facts)],
        ["## Training", "", *training(facts, pictures)],
        ["## Running it", "", *how_to_run(facts)],
        ["## Cost and time", "", *_costs(facts)],
        ["## Licences and terms", "", *_licences(facts)],
        ["## What it was made of", "", *_provenance(facts)],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _summary(facts: Facts) -> Lines:
    evaluation = facts.evaluation
    if evaluation is None:
        verdict = "**Not evaluated yet.** How good this model is has not been measured."
    else:
        decision, why = verdict_of(evaluation)
        verdict = f"**{decision}** {why}"
    lines = [verdict]
    if facts.evaluation_is_old:
        lines.append("The student was trained again since: this verdict is of the training before.")
    base, teacher = code(facts.base.name), code(facts.manifest.teacher_model)
    who = "the agent of the chat it was made in" if facts.teacher_is_host else teacher
    lines += [
        "",
        f"A small model ({base}), trained to do one task on examples that {who} wrote or checked. {made_with(facts)}",
    ]
    quoted = "This page quotes examples of the data: look through it before you pass it on."
    return [*lines, "", quoted] if facts.examples else lines


def _costs(facts: Facts) -> Lines:
    unpriced = facts.manifest.usd_per_mtok is None and not facts.teacher_is_host
    rows = [
        [
            STAGES[stage.stage],
            numbers.duration(stage.elapsed_s) + (f", {stage.jobs} jobs" if stage.jobs > 1 else ""),
            f"{stage.spend.calls:,}" if stage.spend else "",
            f"{stage.spend.tokens:,}" if stage.spend else "",
            ("not known" if unpriced else numbers.dollars(stage.spend.usd)) if stage.spend else "",
        ]
        for stage in facts.stages
    ]
    if not rows:
        return ["Nothing was run yet."]
    lines = table(["stage", "time", "teacher's answers", "tokens", "paid to the teacher"], rows)
    paid = "The price of this teacher is not known" if unpriced else f"Paid in all: {numbers.dollars(facts.spend.usd)}"
    doubt = ""
    if facts.spend.in_doubt_calls:
        calls = numbers.count(facts.spend.in_doubt_calls, "call was", "calls were")
        doubt = f"; {calls} broken off and may have been billed, {numbers.dollars(facts.spend.in_doubt_usd)} at most"
    return [
        *lines,
        "",
        f"{paid}, for {numbers.count(facts.spend.calls, 'answer')}{doubt}. Training and evaluation cost nothing but the machine's time.",
    ]


def _licences(facts: Facts) -> Lines:
    return [
        f"- {licence_of_base(facts.base)}",
        f"- {terms_of_teacher(facts)}",
        "- The examples given by the user stay what they were: theirs.",
    ]


def _provenance(facts: Facts) -> Lines:
    rows = [[name, code(value)] for name, value in _hashes(facts)]
    versions = ", ".join(f"{name} {code(version)}" for name, version in facts.packages)
    form = thinking.described(thinking.format_of(facts.manifest))
    taught = {"cot": f"with its reasoning, as {code(form)}", "direct": "the answer alone"}.get(
        facts.manifest.spec.reasoning, f"part of it with reasoning, as {code(form)}"
    )
    return [
        f"Made on {facts.manifest.created_at[:10]}. Taught {taught}. Random seed {code(_seed(facts))}.",
        "",
        *table(["what", "SHA-256"], rows),
        "",
        f"Versions when this page was written: {versions}.",
    ]


def _seed(facts: Facts) -> object:
    return (facts.training or NOTHING).get("recipe", {}).get("seed", facts.manifest.spec.options.get("seed", 0))


def _hashes(facts: Facts) -> list[tuple[str, str]]:
    files: dict[str, Any] = (facts.dataset or NOTHING).get("files", {})
    found = [
        ("the given examples", facts.manifest.spec.seeds_sha256),
        *((PRODUCTS.get(name, name), files[name]["sha256"]) for name in files),
        ("model/adapters/adapters.safetensors", (facts.training or NOTHING).get("adapter_sha256", "")),
        ("model.gguf", (facts.export or NOTHING).get("gguf_sha256", "")),
        ("the base, as the hub's commit", facts.base.revision),
        *((f"the base's {cell(name)}", sha) for name, sha in facts.base.weights),
    ]
    return [(name, sha) for name, sha in found if sha]
