"""What one call, one row and one text more take: bytes on disk, bytes in memory, and time. docs/scale.md reckons with them.

    python bench/recorded.py gsm8k DATA/gsm8k/train_1500.jsonl --home KEPT
    python bench/scale.py KEPT/runs/gsm8k DATA/banking77/train.csv [--write docs/scale.json]

The first command makes a run over a recording of GSM8K and keeps it; calls, tokens and bytes are its own. Each part of the second is
measured in a process of its own: the growth of what the process holds, and CPU time, which other work on the machine hardly moves.
"""
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false

import argparse
import csv
import json
import multiprocessing
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.pipeline.dataset import build_dataset
from nanodistill_mcp.pipeline.quality import HeldOut, NearDuplicates
from nanodistill_mcp.runs.files import read_lines, write_lines
from nanodistill_mcp.runs.journal import parse
from nanodistill_mcp.runs.records import Example
from nanodistill_mcp.runs.store import Run, RunStore

COPIES = 40
"""So often are the run's own lines repeated for a measure of memory: a process grows by whole pages."""
HELD_OUT = 100

Measured = dict[str, float]


def main() -> None:
    """Measure, print and, where asked, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run that bench/recorded.py kept")
    parser.add_argument("texts", type=Path, help="BANKING77's train.csv: short texts without numbers")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    run: Path = arguments.run.absolute()
    measured = _of_the_run(run)
    parts: list[tuple[Callable[..., Measured], Path]] = [
        (_journal, run),
        (_examples, run),
        (_dataset, run),
        (_tokens, run),
        (_duplicates, arguments.texts),
        (_held_out, arguments.texts),
    ]
    context = multiprocessing.get_context("spawn")
    for measure, path in parts:
        with context.Pool(1) as alone:
            measured |= alone.apply(measure, (path,))
    told = json.dumps({name: float(f"{value:.3g}") for name, value in measured.items()}, indent=1)
    print(told)
    if arguments.write:
        arguments.write.write_text(told + "\n", encoding="utf-8")


def _of_the_run(run: Path) -> Measured:
    records = parse((run / "calls.jsonl").read_bytes()).records
    answers = [record for record in records if record["kind"] == "answer"]
    rows = sum(1 for _ in read_lines(run / "traces_amplified.jsonl"))
    size = {name: (run / name).stat().st_size for name in ("calls.jsonl", "traces_amplified.jsonl", "rejected.jsonl")}
    return {
        "calls_a_row": len(answers) / rows,
        "input_tokens_a_row": sum(record["input_tokens"] for record in answers) / rows,
        "output_tokens_a_row": sum(record["output_tokens"] for record in answers) / rows,
        "usd_a_row": sum(record["cost_usd"] for record in answers) / rows,
        "journal_bytes_a_call": size["calls.jsonl"] / len(answers),
        "example_bytes_a_row": size["traces_amplified.jsonl"] / rows,
        "rejected_bytes_a_row": size["rejected.jsonl"] / rows,
    }


def _held_bytes() -> int:
    return psutil.Process().memory_info().rss


def _journal(run: Path) -> Measured:
    data = (run / "calls.jsonl").read_bytes() * COPIES
    calls = data.count(b'"kind":"answer"')
    before, began_s = _held_bytes(), time.process_time()
    records = parse(data).records
    took_s = time.process_time() - began_s
    return {
        "journal_memory_a_call": (_held_bytes() - before) / calls,
        "journal_read_us_a_call": took_s / calls * 1e6,
        "journal_records_a_call": len(records) / calls,
    }


def _examples(run: Path) -> Measured:
    rows = list(read_lines(run / "traces_amplified.jsonl"))
    before = _held_bytes()
    examples = [Example.model_validate(json.loads(json.dumps(row))) for _ in range(COPIES) for row in rows]
    return {"example_memory_a_row": (_held_bytes() - before) / len(examples)}


def _dataset(run: Path) -> Measured:
    rows = list(read_lines(run / "traces_amplified.jsonl"))
    with tempfile.TemporaryDirectory() as home:
        manifest = Run(RunStore(run.parent.parent).open(run.name).paths).manifest
        made, _ = RunStore(Path(home)).create(manifest, [])
        many = [
            {**row, "id": f"{row['id']}-{copy}", "input": f"{row['input']} {copy}", "parents": [f"{row['id']}-{copy}"]}
            for copy in range(COPIES)
            for row in rows
        ]
        write_lines(made.paths.traces_amplified, many)
        before, began_s = _held_bytes(), time.process_time()
        build_dataset(made, 0.1)
        took_s = time.process_time() - began_s
        size = sum(path.stat().st_size for path in made.paths.dataset.glob("*.jsonl"))
        return {
            "dataset_memory_a_row": max(0, _held_bytes() - before) / len(many),
            "dataset_us_a_row": took_s / len(many) * 1e6,
            "dataset_bytes_a_row": size / len(many),
        }


def _tokens(run: Path) -> Measured:
    from mlx_lm.utils import load_tokenizer

    from nanodistill_mcp.student.chat import ChatForm

    chat = ChatForm(load_tokenizer(student_path()))  # pyright: ignore[reportArgumentType]
    rows = list(read_lines(run / "traces_amplified.jsonl"))
    lines: list[list[dict[str, str]]] = [
        [
            {"role": "user", "content": row["input"]},
            {"role": "assistant", "content": f"<think>\n{row['thinking']}\n</think>\n{row['output']}"},
        ]
        for row in rows
    ] * 10
    chat.row(lines[0])
    before, began_s = _held_bytes(), time.process_time()
    tokenized = [chat.row(each) for each in lines]
    took_s = time.process_time() - began_s
    return {
        "tokenize_us_a_row": took_s / len(lines) * 1e6,
        "tokenized_memory_a_row": max(0, _held_bytes() - before) / len(tokenized),
    }


def _texts(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(stream)]
    random.Random(0).shuffle(rows)
    return rows


def _duplicates(path: Path) -> Measured:
    rows = _texts(path)
    index, before = NearDuplicates(), _held_bytes()
    held: list[int] = []
    took: list[float] = []
    for start in range(0, len(rows), 1000):
        began_s = time.process_time()
        for text, output in rows[start : start + 1000]:
            if not index.is_near(text, output):
                index.add(text, output)
                held.append(len(text))
        took.append((time.process_time() - began_s) / len(rows[start : start + 1000]) * 1e6)
    return {
        "duplicates_memory_a_row": (_held_bytes() - before) / len(held),
        "duplicates_us_first_thousand": took[0],
        "duplicates_us_last_thousand": took[len(rows) // 1000 - 1],
        "duplicates_rows": len(rows),
    }


def _held_out(path: Path) -> Measured:
    rows = [re.sub(r"\s+", " ", text) for text, _ in _texts(path)]
    held = HeldOut(rows[:HELD_OUT])
    began_s = time.process_time()
    for text in rows[HELD_OUT : HELD_OUT + 2000]:
        held.contaminates(text)
    return {"held_out_us_a_row_and_one": (time.process_time() - began_s) / 2000 / HELD_OUT * 1e6}


if __name__ == "__main__":
    main()
