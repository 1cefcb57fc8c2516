"""What the page and the model card both say, in the same words."""

from typing import Any

from nanodistill_mcp.pipeline.report import numbers
from nanodistill_mcp.pipeline.report.facts import Facts
from nanodistill_mcp.pipeline.report.markdown import code, prose
from nanodistill_mcp.pipeline.report.provenance import Base
from nanodistill_mcp.runs.records import Stage

DECISIONS = {
    "ship": "Worth using.",
    "iterate": "Worth another round.",
    "stop": "Not worth going on like this.",
    "too_few": "Too early to say.",
}
"""What the evaluation's one word means to a reader."""


def verdict_of(evaluation: dict[str, Any]) -> tuple[str, str]:
    """The decision as a reader understands it, and its reason. An evaluation of an early version has no decision."""
    return DECISIONS.get(evaluation.get("decision", ""), "Evaluated."), prose(evaluation["verdict"])


STAGES: dict[Stage, str] = {
    "synthesize_cot": "the teacher solves the examples",
    "extract_policy": "the task's policy",
    "amplify": "new examples, verified",
    "train": "training",
    "evaluate": "evaluation",
    "export_gguf": "export",
}

PRODUCTS = {name: f"dataset/{name}.jsonl" for name in ("train", "valid", "test")}

REJECTED = {
    "duplicate": "a copy of another example",
    "seed_copy": "a copy of a given example",
    "near_duplicate": "nearly a copy of another example",
    "held_out": "too like a held-out example",
    "disagreement": "the teacher's solutions disagreed",
    "refused": "the teacher refused to answer",
    "truncated": "the teacher's answer was cut off",
    "filtered": "the provider's filter stopped the answer",
    "empty": "the answer was empty",
    "wrong_language": "in another language",
    "invalid": "the answer was not of the wanted form",
    "context": "too long for the teacher",
    "not_a_choice": "the answer was none of the choices",
    "unfit": "the answer is not of this task's form",
    "schema": "the answer does not keep the schema",
    "unfinished": "not solved yet when a cap or a stop came",
    "surplus": "more than were wanted",
    "too_long": "too long",
    "dropped": "like one that the user dropped",
}


def made_with(facts: Facts) -> str:
    """Who made it, and what the reader needs of that."""
    parent = facts.manifest.refined_from
    further = f" It goes on from the model of the run {code(parent)}." if parent else ""
    return f"Made by nanodistill-mcp on {facts.manifest.created_at[:10]}.{further}"


def licence_of_base(base: Base) -> str:
    """The base's licence, as its folder states it."""
    name = code(base.name)
    if base.licence:
        return f"The base {name}: its folder states the licence {code(base.licence)}, which holds for the trained model too."
    if base.licence_file:
        return f"The base {name}: its folder has a licence file that begins {code(base.licence_file)}. Read it: it holds for the trained model too."
    return f"The base {name}: a licence is not stated by its folder. Find it out before you pass the model on."


def terms_of_teacher(facts: Facts) -> str:
    """Who the teacher was, and that somebody's terms hold for what it wrote."""
    who = (
        "The teacher was the agent of the chat in which this model was made; which model that is, is not recorded"
        if facts.teacher_is_host
        else f"The teacher was {code(facts.manifest.teacher_model)}"
    )
    return (
        f"{who}. The terms of whoever provides it say whether a model may be trained on its answers and what for; this tool does "
        "not know them. Read them before you use or pass on the model."
    )


def how_to_run(facts: Facts) -> list[str]:
    """The commands, in the run's folder."""
    if facts.training is None:
        return ["There is no model yet."]
    said = "The task's instruction goes in as the system message and the input as the user's message: that is how it was trained, and the Modelfile for Ollama says so. "
    asked = '--system-prompt "THE INSTRUCTION" --prompt "AN INPUT"'
    if facts.export is None:
        base = facts.base.name if facts.base.on_hub else "FOLDER-OF-THE-BASE"
        command = f"python -m mlx_lm generate --model {base} --adapter-path model/adapters {asked}"
        return [
            f"{said}It was not exported to GGUF yet (`export_gguf`). With MLX, in the run's folder:",
            "",
            "```sh",
            command,
            "```",
        ]
    name = facts.run_id.lower()
    size = numbers.size(facts.export["gguf_bytes"])
    old = " It is of the training before the last one." if facts.export_is_old else ""
    checked = "" if facts.export.get("verified", True) else " It was not checked in llama.cpp."
    return [
        f"{said}`model.gguf` ({prose(facts.export['quantization'])}, {size}) runs in Ollama, LM Studio and llama.cpp.{old}{checked} In the run's folder:",
        "",
        "```sh",
        f"ollama create {name} -f Modelfile && ollama run {name}",
        f"python -m mlx_lm generate --model model {asked}   # the same model in MLX",
        "```",
    ]
