"""What a finished stage found, in a sentence or a few that can be passed on to the user."""

import json
from typing import Any

from nanodistill_mcp.runs.records import Stage
from nanodistill_mcp.runs.texts import clean

_HOURS_FROM = 2.0
_PROMPTS_SHOWN = 3
_CHARS_QUOTED = 80


def in_words(stage: Stage, result: dict[str, Any]) -> str:  # noqa: C901 - one case a stage
    """What a finished stage found, in a sentence that can be passed on to the user."""
    match stage:
        case "synthesize_cot":
            held_out = (
                f", and on {result['held_out_agree']} of {result['held_out_solved']} held-out ones"
                if result["held_out_solved"]
                else ""
            )
            ceiling: dict[str, Any] = result.get("ceiling", {})  # runs of the first release have none
            told = ceiling.get("why", "")
            labels = [
                *([f"it answered {result['labelled']} that had no output"] if result.get("labelled") else []),
                *([f"replaced {result['relabelled']} given outputs"] if result.get("relabelled") else []),
                *([f"{result['set_aside']} are set aside, answered in two ways"] if result.get("set_aside") else []),
            ]
            labelled = f" ({'; '.join(labels)})" if labels else ""
            return f"The teacher agrees on {result['train_agree']} of {result['train_solved']} examples{held_out}{labelled}. {told}".strip()
        case "extract_policy":
            return f"Policy version {result['version']} is written; answers are compared by the checker {result['checker']}."
        case "amplify":
            missing = f", {result['missing']} missing: {_STOPPED[result['stopped_by']]}" if result["missing"] else ""
            if short := result.get("at_the_cap"):
                return f"Stopped by the budget: {short['what']} {short['next_step']}"
            told = f"{result['accepted']} examples are accepted{missing}; {sum(result['rejected'].values())} were rejected{_saved(result.get('batch'))}."
            if revised := result.get("revised"):
                changes = f"{revised['dropped']} dropped, {revised['edited']} edited, {revised['approved']} approved"
                return f"{told} With the user's revisions ({changes}), {revised['examples']} are trained on."
            return told
        case "train":
            losses = f"loss {result['first_train_loss']:.3f} to {result['final_train_loss']:.3f}"
            told = f"Trained {result['iterations']} iterations in {result['elapsed_s']:.0f} s, {losses}; the best checkpoint is of iteration {result['best_iteration']}."
            if taught := result.get("taught"):
                share = f"{100 * taught['covered']:.1f} % of its probability"
                told += f" It was taught by the local teacher too (alpha {taught['alpha']:g}, T {taught['temperature']:g}, {share})."
            return told + _gave_way(result.get("gave_way", {}))
        case "plan_training":
            return _plan_in_words(result)
        case "evaluate":
            general = result.get("general", {})
            return f"{result['verdict']} {general['verdict']}" if general.get("forgot") else str(result["verdict"])
        case "export_gguf":
            return _export_in_words(result)
        case "compare_models":
            return _compared_in_words(result)


def _compared_in_words(result: dict[str, Any]) -> str:
    """Who answered, how fast, and the first answers; the rows hold them whole."""
    rows: list[dict[str, Any]] = result["rows"]
    how = {"direct": " without reasoning", "reasoning": " with reasoning"}.get(result.get("mode", ""), "")
    who: list[str] = []
    for model in result["models"]:
        took = [row[model]["seconds"] for row in rows if "seconds" in row[model]]  # older comparisons have none
        who.append(f"{model} ({sum(took) / len(took):.2g} s each)" if any(took) else model)
    shown = [
        f"To {_quoted(row['prompt'])}: " + "; ".join(f"{m} says {_quoted(row[m]['answer'])}" for m in result["models"])
        for row in rows[:_PROMPTS_SHOWN]
    ]
    counted = "1 prompt is" if len(rows) == 1 else f"{len(rows)} prompts are"
    told = f"{counted} answered{how} by {', '.join(who)}."
    return " ".join([told, *result.get("notes", []), *(f"{each}." for each in shown)])


def _quoted(text: str) -> str:
    """What a user or a model wrote, as data: on one line, in quotes, cut."""
    line = clean(" ".join(text.split()))
    return json.dumps(line if len(line) <= _CHARS_QUOTED else f"{line[:_CHARS_QUOTED]}...", ensure_ascii=False)


def _export_in_words(result: dict[str, Any]) -> str:
    parity, accuracy = result["parity"], result.get("accuracy", {})
    checked = (
        f"llama.cpp loads it and agrees on {parity['strings_equal']} of {parity['strings_checked']} tokenized texts"
        if result.get("verified", True)
        else f"it is NOT checked: {parity['warnings'][0]}"
    )
    answered = f"; it answers {accuracy['correct']} of {accuracy['rows']} held-out examples rightly" if accuracy else ""
    forms = [f"{form} in {path}" for form, path in result.get("forms", {}).items()]
    without = [f"{form} is left out: {why}" for form, why in result.get("forms_left_out", {}).items()]
    told = [
        f"model.gguf is written ({result['gguf_bytes'] / 1e6:.1f} MB, {result['quantization']}); {checked}{answered}.",
        accuracy.get("verdict", ""),
        f"Also written: {', '.join(forms)}." if forms else "",
        *without,
        f"In the run's folder: {result['ollama']}",
    ]
    return " ".join(part for part in told if part)


def _saved(batch: dict[str, Any] | None) -> str:
    return f"; {batch['answers']} answers at half price saved ${batch['saved_usd']:.2f}" if batch else ""


_STOPPED = {
    "target": "the target was met",
    "budget": "the budget came first",
    "inputs": "all given inputs were answered, and options.inputs_only allows no others",
    "novelty": "the teacher repeats itself, so more would be paid for copies; another policy or further seeds would help",
    "saturation": "nearly nothing new was accepted any more",
    "disagreement": "the teacher's solutions hardly ever agree; the policy or the instruction leaves too much open",
}


def _gave_way(gave_way: dict[str, int]) -> str:
    """How a training rested for other programs, and came back from deaths."""
    rested_s = gave_way.get("paused_s", 0) + gave_way.get("unloaded_s", 0)
    times = gave_way.get("pauses", 0) + gave_way.get("unloads", 0)
    rested = (
        f" It rested {times} times, {rested_s} s in all, because other programs needed the machine." if times else ""
    )
    restarts = gave_way.get("restarts", 0)
    times_again = "once" if restarts == 1 else "twice"
    return rested + (f" Its process died, and was started again {times_again}." if restarts else "")


def _plan_in_words(result: dict[str, Any]) -> str:
    rows, hours = result["rows"], result["hours"]
    dropped = f", {rows['too_long']} too long and dropped" if rows["too_long"] else ""
    took = f"{hours['low'] * 60:.1f}-{hours['high'] * 60:.1f} minutes"
    if hours["high"] > _HOURS_FROM:
        took = f"{hours['low']:.1f}-{hours['high']:.1f} hours"
    given_up = f" Given up to fit: {', '.join(result['changes'])}." if result["changes"] else ""
    return (
        f"Planned, nothing is trained: {rows['train']} rows{dropped}, {result['updates']} updates, about {took}, peak memory "
        f"{result['peak_memory_gb']:.3g} of {result['memory_limit_gb']:.3g} GB on the {result['device']}.{given_up}"
    )
