"""Writes docs/scale.md, what a million rows and a hundred million take, from the constants bench/scale.py kept: ``python docs/make_scale.py``."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

from nanodistill_mcp.pipeline import estimate
from nanodistill_mcp.pipeline.clone import MOST_PER_SEED
from nanodistill_mcp.pipeline.seeds import MAX_ROWS

PAGE = Path(__file__).with_name("scale.md")
CONSTANTS = Path(__file__).with_name("scale.json")
COSTS = Path(__file__).with_name("costs.md")

ROWS = (10**4, 10**6, 10**8)
ANSWERS_A_SECOND = {32: 59.9, 128: 171.4}
"""docs/benchmarks.md, at 500 ms a call, by calls in flight."""
STATUS_US_A_CALL = 17.7
"""docs/reliability.md: the first status of 100,000 calls took 1.767 s."""
TEACHERS = ("gpt-4.1-mini", "claude-haiku-4-5", "claude-sonnet-5-5")
STUDENT = 4.0e9
BYTES_A_TOKEN = 4
FLOPS_A_WEIGHT = 4.0
"""Of LoRA, for a weight and a token: forward, and backward through what is not trained."""
MEMORY_BYTES = 16e9
_DAY_S = 86_400
_LONGEST_CALL_S = 45

_UNITS = (
    ("s", 1.0, 120),
    ("min", 60.0, 120),
    ("h", 3600.0, 72),
    ("days", 86_400.0, 730),
    ("years", 31_557_600.0, math.inf),
)
_SIZES = (("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))
_COMMAND = "`python bench/scale.py`"

Formula = Callable[[float], str]


class Scale:
    """The arithmetic, over the constants as they were measured."""

    def __init__(self, measured: dict[str, float]) -> None:
        self.of = measured
        self.slope_us = (self.of["duplicates_us_last_thousand"] - self.of["duplicates_us_first_thousand"]) / (
            self.of["duplicates_rows"] - 1000
        )

    def calls(self, rows: float) -> float:
        """Calls of the teacher."""
        return rows * self.of["calls_a_row"]

    def tokens(self, rows: float) -> tuple[float, float]:
        """Tokens in and out."""
        return rows * self.of["input_tokens_a_row"], rows * self.of["output_tokens_a_row"]

    def disk_bytes(self, rows: float) -> float:
        """Journal, accepted and rejected rows, dataset."""
        each = self.of["example_bytes_a_row"] + self.of["rejected_bytes_a_row"] + self.of["dataset_bytes_a_row"]
        return self.calls(rows) * self.of["journal_bytes_a_call"] + rows * each

    def journal_bytes(self, rows: float) -> float:
        """The journal in a worker's memory."""
        return self.calls(rows) * self.of["journal_memory_a_call"]

    def amplify_bytes(self, rows: float) -> float:
        """What amplify's worker holds: the journal, the accepted rows, the index of near copies."""
        return self.journal_bytes(rows) + rows * (self.of["example_memory_a_row"] + self.of["duplicates_memory_a_row"])

    def training_bytes(self, rows: float) -> float:
        """The tokenized rows in a trainer's memory, beside the student."""
        return rows * self.of["tokenized_memory_a_row"]

    def duplicates_s(self, rows: float) -> float:
        """Looking each row up among those before it: what a lookup takes grows with how many there are."""
        first_us = self.of["duplicates_us_first_thousand"]
        return (rows * first_us + self.slope_us * rows * rows / 2) / 1e6

    def resume_s(self, rows: float) -> float:
        """Reading the journal."""
        return self.calls(rows) * self.of["journal_read_us_a_call"] / 1e6

    def held_out_s(self, rows: float) -> float:
        """Holding each row against a hundred held-out ones."""
        return rows * 100 * self.of["held_out_us_a_row_and_one"] / 1e6

    def prepared_s(self, rows: float) -> float:
        """The dataset written and tokenized."""
        return rows * (self.of["dataset_us_a_row"] + self.of["tokenize_us_a_row"]) / 1e6

    def trained_tokens(self, rows: float) -> float:
        """Tokens of one epoch."""
        return rows * self.of["dataset_bytes_a_row"] / BYTES_A_TOKEN

    def trained_s(self, rows: float, speed: float) -> float:
        """One epoch of LoRA at so many operations a second."""
        return self.trained_tokens(rows) * FLOPS_A_WEIGHT * STUDENT / speed


def page() -> str:
    """The whole page."""
    scale = Scale(json.loads(CONSTANTS.read_text(encoding="utf-8")))
    return "\n".join([_HEAD, *_constants(scale), *_table(scale), *_stops(scale), _TAIL])


_HEAD = """\
# What a million rows take, and a hundred million

This program is made for hundreds to some ten thousand rows on one machine; nobody has run a million. This page works out on paper what they
would cost, with constants that were measured, and says where each part stops. The rows are word problems with worked solutions (GSM8K, a
median of a few sentences), solved twice each; longer ones take more, in proportion. Made by

```sh
python docs/make_scale.py
```
"""

_TAIL = """\
What would have to change for a million: the journal read through an index and not as a whole, near copies looked for by MinHash in
bounded memory, and training rows streamed from disk. For a hundred million: many workers and machines for one run, which the lease on a
run's journal forbids today. None of it is built. Within the limits above, a large set is made as several runs; rows that exist
already are taken over by `import-data`, up to the same limits ([data.md](data.md)), and written for trainers that stream
by `export-data`.
"""


def _constants(scale: Scale) -> list[str]:
    of = scale.of
    measured = [
        ("calls of the teacher for an accepted row", f"{of['calls_a_row']:g}", "`python bench/recorded.py gsm8k`"),
        (
            "tokens for an accepted row, in and out, at four bytes each",
            f"{of['input_tokens_a_row']:,.0f} and {of['output_tokens_a_row']:,.0f}",
            "the same",
        ),
        ("a call in `calls.jsonl`: intent, answer, verdict", f"{of['journal_bytes_a_call']:,.0f} bytes", _COMMAND),
        ("the same in memory", f"{of['journal_memory_a_call']:,.0f} bytes", _COMMAND),
        ("reading it again", f"{of['journal_read_us_a_call']:g} µs", _COMMAND),
        (
            "an accepted row on disk, with its share of rejected ones; in the dataset",
            f"{of['example_bytes_a_row'] + of['rejected_bytes_a_row']:,.0f} and {of['dataset_bytes_a_row']:,.0f} bytes",
            _COMMAND,
        ),
        (
            "an accepted row in memory; in the index of near copies",
            f"{of['example_memory_a_row']:,.0f} and {of['duplicates_memory_a_row']:,.0f} bytes",
            _COMMAND,
        ),
        (
            "looking up near copies: among a thousand rows, among ten thousand",
            f"{of['duplicates_us_first_thousand']:,.0f} and {of['duplicates_us_last_thousand']:,.0f} µs",
            _COMMAND + " (BANKING77)",
        ),
        ("holding a row against one held-out row", f"{of['held_out_us_a_row_and_one']:g} µs", _COMMAND),
        (
            "writing a row into the dataset; tokenizing it",
            f"{of['dataset_us_a_row']:g} and {of['tokenize_us_a_row']:,.0f} µs",
            _COMMAND,
        ),
        ("a tokenized row in the trainer's memory", f"{of['tokenized_memory_a_row']:,.0f} bytes", _COMMAND),
        *(
            (
                f"answers a second at 500 ms a call, {at_once} in flight",
                f"{rate:g}",
                "`python bench/teacher.py --latency 500`",
            )
            for at_once, rate in ANSWERS_A_SECOND.items()
        ),
        (
            "the first status of a running stage after a server's start, for each call",
            f"{STATUS_US_A_CALL:g} µs",
            "`python -m pytest -m 'crash and slow' tests/crash/test_size.py`",
        ),
    ]
    return [
        "## Constants",
        "",
        "| what | measured | command |",
        "|---|---|---|",
        *(f"| {what} | {value} | {command} |" for what, value, command in measured),
        "",
        "Measured on two CPU cores that other work kept busy; times are CPU time. `docs/scale.json` has the figures of bench/scale.py.",
        "Not measured: training speed of real students. It is reckoned as in `create_run`'s estimate, from the operations a second such",
        "machines reach.",
        "",
    ]


def _table(scale: Scale) -> list[str]:
    prices = _prices()
    mac, card = estimate.MAC, estimate.NVIDIA
    lines: list[tuple[str, Formula]] = [
        ("calls of the teacher", lambda n: _count(scale.calls(n))),
        ("tokens, in and out", lambda n: " and ".join(map(_count, scale.tokens(n)))),
        *((f"dollars, `{teacher}`", _dollars_of(scale, prices[teacher])) for teacher in TEACHERS),
        *(
            (f"time of the calls, {at_once} in flight", _time_of_calls(scale, rate))
            for at_once, rate in ANSWERS_A_SECOND.items()
        ),
        ("near copies looked up", lambda n: _time(scale.duplicates_s(n))),
        ("held against 100 held-out rows", lambda n: _time(scale.held_out_s(n))),
        ("reading the journal again, to resume", lambda n: _time(scale.resume_s(n))),
        ("disk: journal, rows, dataset", lambda n: _size(scale.disk_bytes(n))),
        ("memory of amplify's worker, beside some 220 MB", lambda n: _size(scale.amplify_bytes(n))),
        ("memory of the trainer, beside the student", lambda n: _size(scale.training_bytes(n))),
        ("dataset written and tokenized", lambda n: _time(scale.prepared_s(n))),
        ("tokens of an epoch", lambda n: _count(scale.trained_tokens(n))),
        *(
            (f"an epoch of a 4B student, {machine.words} (reckoned)", _span_of(scale, machine))
            for machine in (mac, card)
        ),
    ]
    return [
        "## What they add up to",
        "",
        f"| | {' | '.join(f'{rows:,} rows' for rows in ROWS)} |",
        f"|---|{'---|' * len(ROWS)}",
        *(f"| {what} | {' | '.join(formula(rows) for rows in ROWS)} |" for what, formula in lines),
        "",
        'Dollars are list prices for the tokens counted, without thinking tokens, which some teachers bill besides; `amplify(mode="batch")` halves',
        "them where there is a batch endpoint. A lookup among n rows is taken to grow in proportion to n, as it did up to ten thousand short",
        "texts without numbers, its worst case: texts with numbers are only held against those with the same ones.",
        "",
    ]


def _stops(scale: Scale) -> list[str]:
    def rows_in(memory: Callable[[float], float]) -> str:
        return _count(MEMORY_BYTES / memory(1.0))

    first_us, slope_us = scale.of["duplicates_us_first_thousand"], scale.slope_us
    in_a_day = (math.sqrt(first_us**2 + 2 * slope_us * _DAY_S * 1e6) - first_us) / slope_us
    stops = [
        ("seeds", f"a rule: {MAX_ROWS:,} rows or 10 MB", _count(MAX_ROWS)),
        ("examples wanted", f"a rule: {MOST_PER_SEED:,} a seed", _count(MAX_ROWS * MOST_PER_SEED)),
        (
            "budget",
            "$20 a run by default; the configuration raises it",
            f"{_count(20 / scale.of['usd_a_row'])} of `gpt-4.1-mini`",
        ),
        (
            "journal",
            "held in memory as a whole, by the worker",
            f"{rows_in(scale.journal_bytes)} in 16 GB",
        ),
        (
            "amplify's worker",
            "journal, rows and index of near copies in memory",
            f"{rows_in(scale.amplify_bytes)} in 16 GB",
        ),
        ("index of near copies", "time that grows with the square", f"{_count(in_a_day)} in a day"),
        (
            "first status of a running stage",
            "reads the journal within a call of 45 s; the next ones what is new",
            _count(_LONGEST_CALL_S / STATUS_US_A_CALL * 1e6 / scale.of["calls_a_row"]),
        ),
        ("training", "all tokenized rows in memory", f"{rows_in(scale.training_bytes)} in 16 GB"),
        ("machines", "one worker a run, on one machine; training alone runs on several", "–"),
    ]
    return [
        "## Where each part stops",
        "",
        "| part | what stops it | at about so many rows |",
        "|---|---|---|",
        *(f"| {part} | {what} | {rows} |" for part, what, rows in stops),
        "",
    ]


def _prices() -> dict[str, tuple[float, float]]:
    """Dollars a million tokens, as docs/costs.md has them."""
    found = re.findall(r"^\| `([^`]+)`[^|]*\| ([\d.]+) / ([\d.]+) \|", COSTS.read_text(encoding="utf-8"), re.MULTILINE)
    return {teacher: (float(usd_in), float(usd_out)) for teacher, usd_in, usd_out in found}


def _dollars_of(scale: Scale, prices: tuple[float, float]) -> Formula:
    return lambda n: f"{sum(each * price for each, price in zip(scale.tokens(n), prices, strict=True)) / 1e6:,.0f}"


def _time_of_calls(scale: Scale, rate: float) -> Formula:
    return lambda n: _time(scale.calls(n) / rate)


def _span_of(scale: Scale, machine: estimate.Machine) -> Formula:
    return lambda n: f"{_time(scale.trained_s(n, machine.fast))} to {_time(scale.trained_s(n, machine.slow))}"


def _count(number: float) -> str:
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{float(f'{number:.3g}'):,.0f}"


def _time(seconds: float) -> str:
    name, size, _ = next(unit for unit in _UNITS if seconds / unit[1] < unit[2])
    return f"{seconds / size:.2g} {name}" if seconds / size < 10 else f"{seconds / size:,.0f} {name}"  # noqa: PLR2004


def _size(size: float) -> str:
    name, unit = next((each for each in reversed(_SIZES) if size >= each[1]), _SIZES[0])
    return f"{size / unit:.3g} {name}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
