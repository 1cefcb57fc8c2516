"""Writes docs/costs.md, what runs cost and how long they take, from the estimate create_run itself gives: ``python docs/make_costs.py``."""

import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from nanodistill_mcp.demo import task
from nanodistill_mcp.pipeline import estimate, plan
from nanodistill_mcp.runs.records import Plan, Range
from nanodistill_mcp.settings import Settings, load_settings
from nanodistill_mcp.student.requests import StudentFacts
from nanodistill_mcp.teacher.preflight import TeacherFacts, look_at, teacher_facts

PAGE = Path(__file__).with_name("costs.md")

TEACHERS = (
    *("claude-sonnet-5-5", "claude-haiku-4-5", "claude-opus-5-5"),
    *("gpt-5.6", "gpt-5.6-luna", "gpt-5.4-mini", "gpt-4.1-mini"),
    *("gemini/gemini-3.8-flash", "gemini/gemini-3.1-flash-lite"),
    *("deepseek/deepseek-chat", "mistral/mistral-large-latest", "mistral/mistral-small-latest", "xai/grok-4.7"),
)
FACTORS = (10, 50, 200)
STUDENTS = {"0.6B": (0.6e9, 28), "1.7B": (1.7e9, 28), "4B": (4.0e9, 36), "8B": (8.2e9, 36)}
MACHINES = (estimate.MAC, estimate.NVIDIA)
_CENTS_BELOW_USD, _HOURS_FROM_MINUTES = 10, 120
_BYTES_A_WEIGHT = 0.56
"""Of a hub's 4-bit student: its scales and its embeddings are wider."""


def page() -> str:
    """The whole page."""
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(Path(home), env={})
        return "\n".join([_head(settings), *_teachers(settings), *_students(settings), *_others()])


def _head(settings: Settings) -> str:
    request = _request(settings, TEACHERS[0], 50)
    train = sum(seed.split == "train" for seed in request.seeds)
    return f"""\
# What a run costs, and how long it takes

`create_run` works this out for *your* examples, teacher and student before anything is spent, and a budget is never passed. The tables
are its estimate for the demo's task: {len(request.seeds)} support tickets of a sentence, of which {train} are trained on, four teams to choose
from. The low end is a task that goes well; at the high end half of the new examples are rejected and solutions are long. Prices are
those LiteLLM {metadata.version("litellm")} knows, without discounts. Made by

```sh
python docs/make_costs.py
```
"""


def _teachers(settings: Settings) -> list[str]:
    heads = [
        f"{_request(settings, TEACHERS[0], factor).spec.augment_factor * _train(settings):,} examples"
        for factor in FACTORS
    ]
    lines = [
        "## Dollars, by teacher and number of training examples",
        "",
        f"| teacher | $ a million tokens, in / out | {' | '.join(heads)} |",
        f"|---|---|{'---|' * len(FACTORS)}",
    ]
    minutes: list[Range] = []
    for teacher in TEACHERS:
        plans = [_plan(settings, teacher, factor) for factor in FACTORS]
        facts = plans[0][1]
        prices = " / ".join(f"{each:g}" for each in facts.usd_per_mtok or ())
        thinks = " (thinks unasked, billed)" if facts.thinks_unasked else ""
        cells = " | ".join(_span(made.cost_usd, _dollars) for made, _ in plans)
        lines.append(f"| `{teacher}`{thinks} | {prices} | {cells} |")
        minutes = (
            minutes if facts.thinks_unasked else [made.teacher_minutes for made, _ in plans if made.teacher_minutes]
        )
    times = [_span(each, _minutes) for each in minutes]
    return [
        *lines,
        f"| *time, 32 calls in flight* | | {' | '.join(times)} |",
        "",
        "A teacher that thinks unasked is estimated at 100 to 2,000 tokens of thinking a call, which is most of its range. More than $20 a run",
        "needs `budget.usd_per_run` in the configuration ([configuration.md](configuration.md)). A model on your own machine or network",
        '(`api_base`, Ollama, LM Studio, vLLM) and `teacher="host"` cost this run nothing; `amplify(mode="batch")` costs half where the provider',
        'has a batch endpoint; `reasoning="direct"` takes a fraction of the tokens, and long documents take more, in proportion.',
        "",
    ]


def _students(settings: Settings) -> list[str]:
    made = _plan(settings, TEACHERS[0], 50)[0]
    lines = [
        f"## Minutes of training, for {made.target_examples:,} examples of this task",
        "",
        f"| student | {' | '.join(machine.words for machine in MACHINES)} | disk |",
        f"|---|{'---|' * (len(MACHINES) + 1)}",
    ]
    for name in STUDENTS:
        plans = [_plan(settings, TEACHERS[0], 50, name, machine)[0] for machine in MACHINES]
        cells = [_span(each.training_minutes, _minutes) for each in plans]
        lines.append(f"| {name}, 4 bits | {' | '.join(cells)} | {plans[0].disk_gb:g} GB |")
    return [
        *lines,
        "",
        "These are rough, and not yet measured on such machines: they know the student's size and the kind of machine alone, and the range",
        "spans the slowest and the fastest of the kind. `train(dry_run=true)` takes two real steps on your machine and says minutes that hold.",
        "",
    ]


def _others() -> list[str]:
    return [
        "## Measured, not estimated",
        "",
        "| what | figure | command |",
        "|---|---|---|",
        "| dollars and calls against the plan, over recorded teachers | inside the planned range in all four runs ([benchmarks.md](benchmarks.md)) | `python bench/recorded.py banking77 train.csv --seeds-per-class 10 3 1` |",
        "| answers a second from a teacher, against the bare libraries | [benchmarks.md](benchmarks.md) | `python bench/teacher.py` |",
        "| training speed against bare MLX-LM | [benchmarks.md](benchmarks.md) | `python bench/training.py` |",
        "| a million rows, and a hundred million, on paper | [scale.md](scale.md) | `python docs/make_scale.py` |",
        "| tokens the tools cost a conversation | [tokens.md](tokens.md) | `python bench/tool_tokens.py` |",
        "",
    ]


def _request(settings: Settings, teacher: str, factor: int) -> plan.Request:
    return plan.check_request(
        settings,
        name="costs",
        instruction=task.INSTRUCTION,
        seed=task.seeds(),
        seed_path="",
        teacher=teacher,
        student="org/student",
        augment_factor=factor,
        reasoning="cot",
        response_schema={},
        preset="recommended",
        options={},
        budget_usd=20,
    )


def _train(settings: Settings) -> int:
    return sum(seed.split == "train" for seed in _request(settings, TEACHERS[0], 1).seeds)


def _plan(
    settings: Settings, teacher: str, factor: int, student: str = "1.7B", machine: estimate.Machine = estimate.MAC
) -> tuple[Plan, TeacherFacts]:
    request = _request(settings, teacher, factor)
    looked = look_at(request.endpoint.model, estimate.texts_to_count(request))
    facts = teacher_facts(request.endpoint, looked)
    return estimate.make_plan(request, facts, _student(student), machine), facts


def _student(name: str) -> StudentFacts:
    parameters, layers = STUDENTS[name]
    stored = int(_BYTES_A_WEIGHT * parameters)
    return StudentFacts(
        student=name,
        student_path=None,
        model_type="qwen3",
        parameters=int(parameters),
        bytes_on_disk=stored,
        bytes_to_download=stored,
        layers=layers,
        max_position_embeddings=32768,
        has_chat_template=True,
        thinks_natively=True,
        quantized_bits=4,
    )


def _span(span: Range | None, shown: Callable[[float], str]) -> str:
    return f"{shown(span.low)} to {shown(span.high)}" if span else "–"


def _dollars(usd: float) -> str:
    return f"{usd:.2f}" if usd < _CENTS_BELOW_USD else f"{usd:.0f}"


def _minutes(minutes: float) -> str:
    return f"{max(1, minutes):.0f} min" if minutes < _HOURS_FROM_MINUTES else f"{minutes / 60:.0f} h"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
