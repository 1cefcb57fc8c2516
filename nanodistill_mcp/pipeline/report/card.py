"""``model/README.md``: the model card that Hugging Face's hub reads, its numbers in the front matter and in words."""

from typing import Any

import yaml

from nanodistill_mcp.pipeline.distilling import in_words
from nanodistill_mcp.pipeline.report import numbers
from nanodistill_mcp.pipeline.report.facts import Facts
from nanodistill_mcp.pipeline.report.markdown import block, code, prose
from nanodistill_mcp.pipeline.report.pictured import NOTHING, SET_NAMES
from nanodistill_mcp.pipeline.report.words import how_to_run, licence_of_base, made_with, terms_of_teacher, verdict_of

_METHODS = {"lora": "trained with LoRA", "dora": "trained with DoRA", "full": "trained in full"}
_TAGS = {"lora": ["lora"], "dora": ["lora", "dora"]}


def card(facts: Facts) -> str:
    """The card. What is not known is left out of the front matter, never guessed."""
    front = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    taught = numbers.count(_rows_trained(facts), "example")
    how = _METHODS.get(_recipe(facts).get("fine_tune_type", ""), "trained")
    local = (facts.training or NOTHING).get("taught")
    also = [prose(in_words(local))] if local else []
    parts = [
        [
            f"# {code(facts.run_id)}",
            "",
            " ".join([f"{code(facts.base.name)}, {how} on {taught} for one task.", *also, made_with(facts)]),
        ],
        ["## The task", "", *block(facts.manifest.spec.instruction)],
        ["## How good it is", "", *_scores(facts)],
        ["## Running it", "", *how_to_run(facts)],
        ["## Limits", "", *_limits(facts)],
        ["## Licence", "", f"- {licence_of_base(facts.base)}", f"- {terms_of_teacher(facts)}"],
    ]
    return f"---\n{front}---\n\n" + "\n\n".join("\n".join(part) for part in parts) + "\n"


def _rows_trained(facts: Facts) -> int:
    return (facts.training or NOTHING).get("rows_trained", len(facts.examples))


def _recipe(facts: Facts) -> dict[str, Any]:
    return (facts.training or NOTHING).get("recipe", {})


def _front_matter(facts: Facts) -> dict[str, Any]:
    front: dict[str, Any] = {}
    if facts.base.on_hub:
        front["base_model"] = facts.base.name
    if facts.base.licence:
        front["license"] = facts.base.licence
    front |= {"library_name": "mlx", "pipeline_tag": "text-generation"}
    front["tags"] = [
        "mlx",
        *_TAGS.get(_recipe(facts).get("fine_tune_type", ""), []),
        "distillation",
        "synthetic-data",
        "nanodistill",
    ]
    part = facts.sets.get("held_out")
    if part is None or facts.evaluation_is_old:
        return front
    student = part["student"]
    result = {
        "task": {"type": "text-generation"},
        "dataset": {
            "type": "private",
            "name": "the user's held-out examples",
            "split": "test",
            "args": {"rows": student["rows"]},
        },
        "metrics": [{"type": "accuracy", "value": student["accuracy"], "name": f"accuracy (n = {student['rows']})"}],
    }
    return {**front, "model-index": [{"name": facts.run_id, "results": [result]}]}


def _scores(facts: Facts) -> list[str]:
    if not facts.sets or facts.evaluation is None:
        return ["It was not evaluated."]
    lines = [" ".join(verdict_of(facts.evaluation))]
    if facts.evaluation_is_old:
        lines.append("It was trained again since: these scores are of the training before.")
    for name, part in facts.sets.items():
        told = [
            f"{model} {part[model]['correct']:,} of {part[model]['rows']:,} "
            f"({numbers.share(part[model]['accuracy'])}, 95% interval {numbers.interval(part[model]['interval_95'])})"
            for model in ("student", "base", "teacher")
            if part.get(model)
        ]
        lines += [*([""] if lines[-1][:2] != "- " else []), f"- {SET_NAMES[name].capitalize()}: {'; '.join(told)}"]
    if gguf := facts.gguf_score:
        lines += [f"- As a GGUF file: {prose(gguf['verdict'])}"]
    return lines


def _limits(facts: Facts) -> list[str]:
    lines = [
        "It was trained for this one task and measured on nothing else: what it does with other inputs is not known."
    ]
    if general := (facts.evaluation or {}).get("general"):
        lines[0] = "It was trained for this one task. " + prose(general.get("verdict", ""))
    return [*lines, "Most of what it learnt from was written by another model, and is no truer than that model."]
