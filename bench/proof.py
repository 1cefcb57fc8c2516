"""Does the interval of an evaluation hold what a far larger test says? On real questions, with a student trained here.

BANKING77's most frequent intents are parted into seeds, a small held-out set, what a recorded teacher writes from, and a
large test set that nothing else sees. A tiny student is trained in full on what the teacher taught, evaluated on the small
set as a user's would be, and then on the large one by ``evaluate(test_path=...)``.

    python bench/proof.py DATA/banking77/train.csv --intents 20 --test-rows 2000

Prints both accuracies, whether the small set's 95 % interval holds the large one's, and how often the intervals of
small sets drawn from the large one do.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.recorded import RecordedTeacher, agent, banking77_rows, banking_task, finish
from nanodistill_mcp.demo.wire import WireServer
from nanodistill_mcp.pipeline.statistics import wilson
from tests.tiny_student import make_tiny

INSTRUCTION = "Name the customer's intent."
OPTIONS: dict[str, Any] = {
    "fine_tune_type": "full",
    "learning_rate": 2e-3,
    "num_train_epochs": 12,
    "batch_size": 16,
    "gradient_accumulation_steps": 1,
    "early_stopping_patience": 0,
    "teacher_concurrency": 32,
}
"""A student that knows no English yet has more to learn than an adapter holds."""
DRAWS = 1000
SEEDS_EACH = 3


@dataclass(frozen=True)
class Parts:
    """Rows of (text, intent), none of them in two parts."""

    seeds: list[tuple[str, str]]
    held_out: list[tuple[str, str]]
    test: list[tuple[str, str]]
    taught: dict[str, str]


def parted(path: Path, intents: int, held_out: int, taught: int, test_rows: int, seed: int) -> Parts:
    """Part the rows of the most frequent intents: seeds of each, the small set, rows to be taught from, the large set."""
    rows = banking77_rows(path)
    chosen = {intent for intent, _ in Counter(rows.values()).most_common(intents)}
    drawn = sorted((text, intent) for text, intent in rows.items() if intent in chosen)
    random.Random(seed).shuffle(drawn)
    seeds: list[tuple[str, str]] = []
    rest: list[tuple[str, str]] = []
    taken: Counter[str] = Counter()
    for text, intent in drawn:
        taken[intent] += 1
        (seeds if taken[intent] <= SEEDS_EACH else rest).append((text, intent))
    first = held_out + taught
    return Parts(seeds, rest[:held_out], rest[first : first + test_rows], dict(seeds + rest[held_out:first]))


async def prove(home: Path, parts: Parts, student: Path, examples: int, refined: int) -> Path:
    """Drive a run to its evaluation on both sets, as an agent does, and a child of it if one is wanted; its folder."""
    for name, rows in (("held_out", parts.held_out), ("test", parts.test)):
        lines = [json.dumps({"input": text, "output": intent}) + "\n" for text, intent in rows]
        (home / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    async with agent(home) as call:
        await call(
            "create_run",
            name="proof",
            seed=[{"input": text, "output": intent} for text, intent in parts.seeds],
            instruction=INSTRUCTION,
            teacher="recorded",
            student=str(student),
            reasoning="direct",
            augment_factor=max(1, round(examples / len(parts.seeds))),
            options={**OPTIONS, "test_path": str(home / "held_out.jsonl")},
        )
        for stage in ("synthesize_cot", "extract_policy", "amplify", "train", "evaluate"):
            reply = await finish(call, "proof", stage, **({"target_size": examples} if stage == "amplify" else {}))
            print(f"- {stage}: {reply['message']}", flush=True)
        print(f"- once more on {len(parts.test)} rows", flush=True)
        await finish(call, "proof", "evaluate", test_path=str(home / "test.jsonl"))
        if refined:
            reply = await call("refine", run_id="proof", name="child", examples=refined)
            print(f"- refine: {reply['message']}")
            for line in reply["focus"]:
                print(f"  - {line['share']:.0%} of them {line['asked_for']}: {line['because']}")
            for stage in ("amplify", "train", "evaluate"):
                reply = await finish(call, "child", stage)
                print(f"- {stage} of the child: {reply['message']}", flush=True)
    return home / "runs" / "proof"


def compared(folder: Path) -> int:
    """Print the small set's interval beside the large set's accuracy; 1 when it does not hold it."""
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    right = {
        name: [bool(row["student"]["correct"]) for row in answers if row["id"].startswith(prefix)]
        for name, prefix in (("small", "t"), ("large", "e"))
    }
    small, large = right["small"], right["large"]
    low, high = wilson(sum(small), len(small))
    truth = sum(large) / len(large)
    print(
        f"\nsmall: {sum(small)} of {len(small)}, {low:.1%} to {high:.1%}; large: {sum(large)} of {len(large)}, {truth:.1%}"
    )
    holds = low <= truth <= high
    print(f"the small set's interval {'holds' if holds else 'does NOT hold'} the large set's accuracy")
    draw = random.Random(0)
    held = 0
    for _ in range(DRAWS):
        sample = draw.choices(large, k=len(small))
        interval = wilson(sum(sample), len(sample))
        held += interval[0] <= truth <= interval[1]
    print(
        f"of {DRAWS} sets of {len(small)} drawn from the large one, {held / DRAWS:.1%} have an interval that holds it"
    )
    return 0 if holds else 1


def main() -> int:
    """Part the rows, make the student, drive the run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--intents", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--test-rows", type=int, default=2000, help="fewer where there are fewer (default 2000)")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the parting and of the student")
    parser.add_argument("--refine", type=int, default=0, help="new examples of a child where the student fails")
    parser.add_argument("--home", type=Path, help="keep the run here")
    arguments = parser.parse_args()
    taught = round(1.3 * (arguments.examples + arguments.refine))  # the filters keep some out
    parts = parted(arguments.data, arguments.intents, arguments.held_out, taught, arguments.test_rows, arguments.seed)
    task = banking_task({**parts.taught, **dict(parts.held_out)}, INSTRUCTION)
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        home.mkdir(mode=0o700, exist_ok=True)
        student = make_tiny(
            home / "student", "qwen3", hidden=128, layers=3, vocab=2000, seed=arguments.seed, corpus=list(parts.taught)
        )
        teacher = RecordedTeacher(task, always_wrong=0.02, now_and_then=0.02, latency_s=0.05)
        teacher.pool = list(parts.taught)  # it may know the held-out answers, and never writes those questions
        os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
        with WireServer(teacher.reply) as server:
            endpoint = {
                "model": "openai/recorded",
                "api_base": server.openai_url,
                "api_key_env": "RECORDED_KEY",
                "usd_per_mtok": [0, 0],
            }
            config = {"teachers": {"recorded": endpoint}, "allowed_paths": [str(home)]}
            (home / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
            folder = anyio.run(prove, home, parts, student, arguments.examples, arguments.refine)
        return compared(folder)


if __name__ == "__main__":
    sys.exit(main())
