"""What a run will take of the teacher, of time and of disk, computed before anything is spent.

Every number is a low and a high one. The low end is a task that goes well: every new input is accepted, solutions are
short. At the high end half are, solutions are long and answers are asked for again. The prompts are the real ones, rendered
from the seeds and counted by LiteLLM's tokenizer in the process that looks the teacher up.
"""

import json
import math
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from statistics import fmean

from pydantic import BaseModel

from nanodistill_mcp.pipeline import dataset, recipe
from nanodistill_mcp.pipeline.checking import Checking, from_seeds
from nanodistill_mcp.pipeline.plan import (
    CEILING_ROWS,
    EXAMPLES_PER_CALL,
    Request,
    input_warnings,
    target_of,
)
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import Plan, Range, Seed, StageEstimate
from nanodistill_mcp.student.requests import Recipe, StudentFacts
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import NewInputs, PolicyDraft, WorkedSolution
from nanodistill_mcp.teacher.preflight import TeacherFacts

SOLUTIONS_PER_EXAMPLE = 2
SAMPLED_SEEDS = 200
_SAMPLED_CHARS = 1_000_000
_POLICY_SEEDS, _SHOWN, _SOLVED_SHOWN, _AVOIDED = 20, 6, 3, 12
_JUDGE_OUT = 60
_A_CELL = {"topic": "one of the topics", "difficulty": "medium", "length": "40 to 90 characters", "persona": "a person"}
_CHARS_PER_TOKEN = 4.0
_UNCOUNTED_WITHIN = 0.4
_CALLS_AT_ONCE = 32
_BATCHES_PER_ROUND = 8

_LORA_FLOPS, _FULL_FLOPS = 4.0, 6.0
"""Operations for each weight and token: LoRA's backward pass leaves out the gradients of the frozen weights."""
_PADDING = 1.5


@dataclass(frozen=True)
class _Side:
    """What one end of the range assumes."""

    screened_in: float
    """Share of the new inputs that are no copies."""
    accepted: float
    """Share of the solved inputs whose solutions agree."""
    solution_tokens: int
    policy_tokens: int
    draft_tokens: int
    """The policy as it is written, with what the teacher adds around it."""
    stretch: float
    """New inputs and answers against the given ones."""
    second_tries: float
    rederived: float
    """Share of the training seeds solved a second time, and once more from the given answer."""
    asked_again: float
    thinking_tokens: int
    call_s: float
    tokens_per_s: float
    schemas: float
    """Share of the answers' schemas that is billed: some providers take them for free."""
    judged: float
    """Share of the comparisons the teacher is asked for, when it judges answers."""
    at_once: float
    """Share of the allowed calls that is really in flight."""


_LOW = _Side(1.0, 1.0, 30, 300, 300, 0.75, 0.0, 0.0, 0.0, 100, 0.5, 120, 0.0, 0.5, 1.0)
_HIGH = _Side(0.7, 0.55, 250, 900, 1500, 1.5, 0.3, 0.1, 0.05, 2000, 2.0, 40, 1.0, 1.0, 0.2)


@dataclass(frozen=True)
class _Tokens:
    """Mean tokens of what is sent and expected."""

    solve: float
    input: float
    output: float
    policy: float
    generate: float
    within: float
    counted: bool


@dataclass(frozen=True)
class _Amount:
    """Calls of one stage at one end of the range."""

    calls: float
    tokens_in: float
    tokens_out: float
    seconds: float


@dataclass(frozen=True)
class Machine:
    """What a machine trains with: its name in words, and the operations a second it reaches in training."""

    words: str
    slow: float
    fast: float


MAC = Machine("a Mac with Apple silicon", 1e12, 12e12)
NVIDIA = Machine("an NVIDIA card", 1.5e13, 3e14)
CPU = Machine("a CPU", 5e8, 6e10)


def this_machine() -> Machine:
    """The kind of machine this is."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return MAC
    for name in ("mlx-cuda-13", "mlx-cuda-12"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return NVIDIA
    return CPU


def texts_to_count(request: Request) -> dict[str, list[str]]:
    """What will be sent and answered, for a tokenizer to count: the real prompts over a sample of the seeds."""
    spec, task = request.spec, _checking(request).task
    train, held_out = _parts(request.seeds)
    sample = _sample(train + held_out)
    inputs = [seed.input for seed in sample] + _spread(request.inputs)
    rows = [{"input": seed.input, "output": seed.output} for seed in _sample(train)]
    worked = [{"input": row["input"], "thinking": "", "output": row["output"]} for row in rows[:_POLICY_SEEDS]]
    per_call = request.options.examples_per_call or EXAMPLES_PER_CALL
    avoid = [row["input"] for row in rows[-_AVOIDED:]]
    generate = prompts.generate(task, "", rows[:_SHOWN], [_A_CELL] * per_call, avoid)

    def sent(prompt: prompts.Prompt) -> str:
        return f"{request.wordings.get(prompt.template, prompt.system)}\n{prompt.user}"

    def solve(text: str) -> prompts.Prompt:
        return prompts.solve(task, text) if dataset.mode_of(text, spec) == "cot" else prompts.answer(task, text)

    return {
        "solve": [sent(solve(text)) for text in inputs],
        "input": inputs,
        "output": [seed.output for seed in sample if seed.labelled] or [""],
        "policy": [sent(prompts.extract_policy(task, worked))],
        "generate": [sent(generate)],
    }


def make_plan(request: Request, teacher: TeacherFacts, student: StudentFacts, machine: Machine | None = None) -> Plan:
    """Calls, tokens, dollars, minutes, updates and disk of a run, before it starts."""
    machine = machine or this_machine()
    train, held_out = _parts(request.seeds)
    target = target_of(request)
    tokens = _measure(request, teacher)
    prices = teacher.usd_per_mtok
    sides = [_amounts(request, side, tokens, teacher) for side in (_LOW, _HIGH)]
    low, high = sides
    by_stage = {stage: _stage(low[stage], high[stage], prices) for stage in low}
    cost = _sum([stage.cost_usd for stage in by_stage.values() if stage.cost_usd], 4) if prices else None
    resolved, reasons = recipe.resolve(
        request.spec.preset, request.options, rows=max(target, 1), layers=student.layers, student=student
    )
    warnings = [*teacher.warnings, *student.warnings]
    if cost is not None and cost.high > request.spec.budget_usd:
        warnings.append(
            f"The high estimate (${cost.high:.2f}) is above the budget of ${request.spec.budget_usd:g}: generation may stop early."
        )
    warnings += input_warnings(request)
    warnings += [f"{name}: {reason}" for name, reason in {**request.translated, **reasons}.items()]
    return Plan(
        train_seeds=len(train),
        held_out=len(request.seeds) - len(train),
        target_examples=target,
        teacher_calls=_sum([stage.calls for stage in by_stage.values()]),
        teacher_tokens=_sum([stage.tokens for stage in by_stage.values()]),
        cost_usd=cost,
        train_updates=math.ceil(resolved.iters / resolved.grad_accumulation_steps),
        disk_gb=_disk_gb(student),
        by_stage=by_stage,
        teacher_minutes=None
        if request.endpoint.is_host
        else Range(
            low=round(sum(part.seconds for part in low.values()) / 60, 1),
            high=round(sum(part.seconds for part in high.values()) / 60, 1),
        ),
        training_minutes=_training_minutes(request, tokens, student, resolved, machine),
        assumptions=_assumptions(request, tokens, teacher, machine, len(held_out)),
        warnings=warnings,
    )


def _amounts(request: Request, side: _Side, tokens: _Tokens, teacher: TeacherFacts) -> dict[str, _Amount]:
    """The three stages that pay the teacher, at one end of the range."""
    train, held_out = _parts(request.seeds)
    unlabelled = sum(bool(request.options.relabel) or not seed.labelled for seed in train)
    wanted = target_of(request) - len(train)
    synthetic = wanted + side.rederived * len(train) if wanted else 0
    given = min(len(request.inputs), synthetic)
    solved = given + (synthetic - given) / side.accepted
    per_call = request.options.examples_per_call or EXAMPLES_PER_CALL
    generations = math.ceil((solved - given) / side.screened_in / per_call)
    solves = solved * solutions_per_example(request.options)
    first = len(train) * (1 + side.second_tries + side.rederived) + unlabelled + len(held_out)
    solution = side.solution_tokens * _reasoned(request)
    solution_out = solution + 12 + side.stretch * tokens.output
    shown_in = _SOLVED_SHOWN * (tokens.input + solution + tokens.output + 20)
    batch_out = per_call * side.stretch * (tokens.input + 10)
    error = 1 + (tokens.within if side is _HIGH else -tokens.within)
    at_once = max(1.0, side.at_once * (request.options.teacher_concurrency or _CALLS_AT_ONCE))
    thinking = side.thinking_tokens if teacher.thinks_unasked else 0

    def amount(calls: list[tuple[float, float, float]], rounds: float) -> _Amount:
        """Of pairs (calls, tokens in, tokens out of one). Rounds end with their slowest call."""
        again = 1 + side.asked_again
        took_s = [side.call_s + (out * error + thinking) / side.tokens_per_s for _, _, out in calls]
        side_by_side = sum(again * count * s for (count, _, _), s in zip(calls, took_s, strict=True)) / at_once
        return _Amount(
            calls=math.ceil(again * sum(count for count, _, _ in calls)),
            tokens_in=again * error * sum(count * each for count, each, _ in calls),
            tokens_out=again * sum(count * (out * error + thinking) for count, _, out in calls),
            seconds=max(side_by_side, *took_s) + rounds * sum(took_s),
        )

    solve_in = tokens.solve + _schema_tokens(WorkedSolution, side)
    judged = side.judged * (solves - solved) if _checking(request).checker == "judge" else 0
    judge_in = tokens.policy / 2 + tokens.input + 2 * tokens.output
    shown = min(len(train), _POLICY_SEEDS) * side.solution_tokens
    policy_in = tokens.policy + _schema_tokens(PolicyDraft, side) + shown
    rounds = math.ceil(generations / _BATCHES_PER_ROUND)
    return {
        "synthesize_cot": amount([(first, solve_in, solution_out)], 1),
        "extract_policy": amount([(1, policy_in, side.draft_tokens)], 0),
        "amplify": amount(
            [
                (generations, tokens.generate + _schema_tokens(NewInputs, side) + side.policy_tokens, batch_out),
                (solved, solve_in + side.policy_tokens, solution_out),
                (solves - solved, solve_in + side.policy_tokens + shown_in, solution_out),
                (judged, judge_in, _JUDGE_OUT),
            ],
            rounds,
        )
        if synthetic
        else _Amount(0, 0, 0, 0),
    }


def solutions_per_example(options: Options) -> int:
    """How often a new input is solved."""
    return options.solutions_per_example or SOLUTIONS_PER_EXAMPLE


def _checking(request: Request) -> Checking:
    return from_seeds(request.spec.instruction, request.seeds, request.spec.response_schema)


def _reasoned(request: Request) -> float:
    """Share of the inputs that are solved with their reasoning written out."""
    train, _ = _parts(request.seeds)
    return fmean(dataset.mode_of(seed.input, request.spec) == "cot" for seed in train)


def _measure(request: Request, teacher: TeacherFacts) -> _Tokens:
    """Mean tokens by the teacher's tokenizer; by characters where there is none."""
    counts = teacher.token_counts
    if not counts:
        texts = texts_to_count(request)
        counts = {name: [math.ceil(len(text) / _CHARS_PER_TOKEN) for text in theirs] for name, theirs in texts.items()}
    mean = {name: fmean(theirs) for name, theirs in counts.items()}
    counted = bool(teacher.token_counts)
    return _Tokens(**mean, within=teacher.tokens_within if counted else _UNCOUNTED_WITHIN, counted=counted)


def _training_minutes(
    request: Request, tokens: _Tokens, student: StudentFacts, resolved: Recipe, machine: Machine
) -> Range:
    """Very rough: weights times tokens over what such a machine computes in a second."""
    question = len(request.spec.instruction) / _CHARS_PER_TOKEN + 20 + tokens.input
    rows = resolved.iters * resolved.batch_size

    def minutes(side: _Side, flops: float, padding: float, speed: float) -> float:
        solution = side.solution_tokens * _reasoned(request)
        row_tokens = min(resolved.max_seq_length, question + solution + tokens.output)
        return rows * row_tokens * padding * flops * student.parameters / speed / 60

    slowest = _FULL_FLOPS if resolved.fine_tune_type == "full" or resolved.grad_checkpoint else _LORA_FLOPS
    early = 0.5 if resolved.patience else 1.0
    return Range(
        low=round(0.1 + early * minutes(_LOW, _LORA_FLOPS, 1.0, machine.fast), 1),
        high=round(2.0 + minutes(_HIGH, slowest, _PADDING, machine.slow), 1),
    )


def _disk_gb(student: StudentFacts) -> float:
    """The download, the fused model at two bytes a weight, the GGUF file at about five bits, checkpoints and logs."""
    dense_gb = student.parameters * 2 / 1e9
    return round(
        student.bytes_to_download / 1e9 + dense_gb + 0.3 * dense_gb + 0.1 * student.bytes_on_disk / 1e9 + 0.05, 2
    )


def _assumptions(
    request: Request, tokens: _Tokens, teacher: TeacherFacts, machine: Machine, held_out: int
) -> list[str]:
    within = f"{tokens.within:.0%}"
    counted = "by LiteLLM's tokenizer" if tokens.counted else "at four characters a token"
    told = [
        f"Tokens of the real prompts over these examples are counted {counted}, right within {within} for this teacher; the range is wider by that.",
        f"The teacher solves the training examples and {held_out} held-out ones once; up to {_HIGH.second_tries:.0%} of the training ones twice.",
        (
            f"Each new input is solved {solutions_per_example(request.options)} times; of those solved {_HIGH.accepted:.0%}-{_LOW.accepted:.0%} "
            f"are accepted, and {_HIGH.screened_in:.0%}-{_LOW.screened_in:.0%} of the generated ones are no copies."
        ),
        f"A worked solution takes {_LOW.solution_tokens}-{_HIGH.solution_tokens} tokens; up to {_HIGH.asked_again:.0%} of the answers are asked for again.",
        (
            f"A call takes {_LOW.call_s:g}-{_HIGH.call_s:g} s and a second for every {_HIGH.tokens_per_s:g}-{_LOW.tokens_per_s:g} tokens it writes, "
            f"with up to {request.options.teacher_concurrency or _CALLS_AT_ONCE} calls at once."
        ),
        f"training_minutes is rough: it takes this machine for {machine.words} and knows only the student's size.",
    ]
    if teacher.thinks_unasked:
        told.append(
            f"The teacher thinks unasked, billed as output: {_LOW.thinking_tokens}-{_HIGH.thinking_tokens} tokens a call."
        )
    if teacher.price_known:
        told.append("Prices are without discounts for cached input.")
    return told


def _stage(low: _Amount, high: _Amount, prices: tuple[float, float] | None) -> StageEstimate:
    def usd(part: _Amount) -> float:
        usd_in, usd_out = prices or (0.0, 0.0)
        return (part.tokens_in * usd_in + part.tokens_out * usd_out) / 1e6

    return StageEstimate(
        calls=Range(low=low.calls, high=high.calls),
        input_tokens=Range(low=math.floor(low.tokens_in), high=math.ceil(high.tokens_in)),
        output_tokens=Range(low=math.floor(low.tokens_out), high=math.ceil(high.tokens_out)),
        cost_usd=Range(low=round(usd(low), 4), high=round(usd(high), 4)) if prices else None,
    )


def _parts(seeds: list[Seed]) -> tuple[list[Seed], list[Seed]]:
    """The training seeds, and the held-out ones the teacher solves."""
    train = [seed for seed in seeds if seed.split == "train"]
    return train, [seed for seed in seeds if seed.split == "held_out"][:CEILING_ROWS]


def _sample(seeds: list[Seed]) -> list[Seed]:
    """Evenly spaced seeds, not so many or so long that counting takes seconds."""
    by_input = {seed.input: seed for seed in seeds}
    return [by_input[text] for text in _spread(list(by_input))]


def _spread(texts: list[str]) -> list[str]:
    step = max(1, math.ceil(len(texts) / SAMPLED_SEEDS))
    taken: list[str] = []
    chars = 0
    for text in texts[::step]:
        if taken and chars > _SAMPLED_CHARS:
            break
        taken.append(text)
        chars += len(text)
    return taken


def _schema_tokens(answer_type: type[BaseModel], side: _Side) -> float:
    return side.schemas * len(json.dumps(answer_type.model_json_schema())) / _CHARS_PER_TOKEN


def _sum(ranges: list[Range], digits: int = 0) -> Range:
    return Range(
        low=round(sum(part.low for part in ranges), digits), high=round(sum(part.high for part in ranges), digits)
    )
