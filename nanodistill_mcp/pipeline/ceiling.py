"""How good the teacher is on answers that people gave: the most its student can be expected to reach.

The teacher's first try at each seed counts, training and held-out seeds alike, because it saw the answer to neither.
"""

from typing import Any, Literal

from nanodistill_mcp.pipeline.statistics import wilson
from nanodistill_mcp.runs.records import Trace

Decision = Literal["proceed", "look", "stop"]

PROCEED_FROM = 0.8
"""Agreement from which the teacher is good enough. Source: distil labs' gate before training (.80 proceed, under .60 rethink)."""

STOP_BELOW = 0.5
_HOPELESS_BELOW = 0.7
_SHOWN = 10
_A_MEMORY = (
    " The teacher is the agent of this chat, which may have seen the given answers: the true share can be lower."
)
_UNKNOWN = (
    "No person answered any example, so how good the teacher's answers are is not known: look at them in traces_cot.jsonl before "
    "paying for more."
)


def ceiling(traces: list[Trace], *, may_have_seen_answers: bool = False) -> dict[str, Any]:
    """Agreement with its 95 % interval, on both sides and apart, and what to do about it before more is paid.

    Only seeds that a person answered count: what the teacher answered itself says nothing of how good it is.

    Args:
        traces: One for each seed that was solved.
        may_have_seen_answers: The teacher is the agent that made the run, so its agreement may be a memory.
    """
    traces = [trace for trace in traces if trace.labelled_by == "user" or trace.given_output]
    if not traces:
        return {**_share([]), "decision": "look", "why": _UNKNOWN, "may_have_seen_answers": False, "disagreements": []}
    sides = {side: [t for t in traces if t.split == side] for side in ("train", "held_out")}
    whole = _share(traces)
    decision = decide(whole["agree"], whole["solved"])
    return {
        **whole,
        **{side: _share(mine) for side, mine in sides.items() if mine},
        "decision": decision,
        "why": _words(decision, whole) + (_A_MEMORY if may_have_seen_answers else ""),
        "may_have_seen_answers": may_have_seen_answers,
        "disagreements": [_beside(trace) for trace in traces if not _agreed_at_once(trace)][:_SHOWN],
    }


def decide(agree: int, solved: int) -> Decision:
    """Proceed, look at the rows, or stop.

    Stop when fewer than half agree, or when so many were tried that even the upper end of the interval is under 0.7.
    """
    share = agree / solved if solved else 0.0
    if share < STOP_BELOW or wilson(agree, solved)[1] < _HOPELESS_BELOW:
        return "stop"
    return "proceed" if share >= PROCEED_FROM else "look"


def _share(traces: list[Trace]) -> dict[str, Any]:
    agree = sum(_agreed_at_once(trace) for trace in traces)
    low, high = wilson(agree, len(traces))
    return {"agree": agree, "solved": len(traces), "interval_95": [round(low, 4), round(high, 4)]}


def _agreed_at_once(trace: Trace) -> bool:
    return trace.confidence >= 1.0 and not trace.given_output


def _words(decision: Decision, whole: dict[str, Any]) -> str:
    low, high = whole["interval_95"]
    found = f"Without seeing it, the teacher found {whole['agree']} of {whole['solved']} given answers at once ({low:.0%}-{high:.0%})"
    match decision:
        case "proceed":
            return f"{found}: good enough to teach."
        case "look":
            return f"{found}: look at the disagreements before paying for more; the given answers or the instruction may need a correction."
        case "stop":
            return (
                f"{found}: do not pay for more yet. The instruction does not say what the given answers show, the answers "
                "are wrong, or the task is beyond this teacher."
            )


def _beside(trace: Trace) -> dict[str, Any]:
    """A seed's given answer and the teacher's, side by side."""
    return {
        "id": trace.id,
        "split": trace.split,
        "input": trace.input[:300],
        "given": (trace.given_output or trace.output)[:200],
        "teacher": trace.teacher_output[:200],
        "teacher_solution": (trace.teacher_thinking or trace.thinking)[:400],
        "objection": trace.objection[:300],
        "right_at_second_try": trace.agrees,
        "kept_with_derived_solution": trace.derived,
    }
