"""The accepted examples as the chat rows MLX-LM reads, split by a hash of their text; the manifest is written last."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.pipeline import thinking
from nanodistill_mcp.pipeline.inherited import inherited
from nanodistill_mcp.pipeline.revisions import revisions_of
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import sha256_of, write_json, write_lines
from nanodistill_mcp.runs.records import EffectiveExample, Example, RunSpec, ThinkingFormat
from nanodistill_mcp.runs.store import Run, read_records

_FEWEST_FOR_A_SPLIT = 20
_TEST_SHARE = 0.1
_MOST_TEST_ROWS = 200
_FEWEST_VALID = 4

COT_SHARE = 0.5
"""Share of the examples taught with their reasoning when ``reasoning`` is mixed and nothing else was asked for."""

Message = dict[str, str]


def prompt_messages(instruction: str, text: str) -> list[Message]:
    """What a student is asked, in training, in evaluation and when it is used."""
    return [{"role": "system", "content": instruction}, {"role": "user", "content": text}]


def target_text(example: Example, mode: Literal["cot", "direct"], form: ThinkingFormat) -> str:
    """What the student is taught to write."""
    return thinking.join(example.thinking if mode == "cot" else "", example.output, form)


def mode_of(text: str, spec: RunSpec) -> Literal["cot", "direct"]:
    """Whether an input is taught with its reasoning or with the answer alone; ``mixed`` decides by a hash of its text."""
    if spec.reasoning == "mixed":
        share = spec.options.get("cot_share")
        return "cot" if _hash("mode", text) < (COT_SHARE if share is None else share) * 2**64 else "direct"
    return spec.reasoning


def build_dataset(run: Run, val_split: float, folder: Path | None = None) -> dict[str, Any]:
    """Write ``dataset/train.jsonl``, ``valid.jsonl`` and ``test.jsonl`` of the examples as the user left them, and their manifest.

    Rows of a refined run's parent stay on the side they were on. With fewer than 20 examples all are trained on: a
    validation set of one or two rows says nothing. Rows of one group are
    all on one side, or what is measured would have been seen: rows that go back to the same seeds, or, where the seeds are so
    mixed that all do, rows that were written in the same call.

    Raises:
        TrainingError: There are no accepted examples.
    """
    revisions = revisions_of(run)
    examples = revisions.effective(read_records(run.paths.traces_amplified, Example))
    if not examples:
        raise TrainingError("There are no accepted examples to train on.", next_step="Call amplify first.")
    ordered = sorted(examples, key=lambda example: _hash("split", example.input))
    before = inherited(run)
    folds = before.folds if before else {}
    fresh = [example for example in ordered if example.id not in folds]
    groups, grouped_by = _groups(fresh) if fresh else ([], "call")
    test = [example for example in ordered if folds.get(example.id) == "test"]
    valid = [example for example in ordered if folds.get(example.id) == "valid"]
    if len(fresh) >= _FEWEST_FOR_A_SPLIT:
        # Mixed as they are by call, the seeds themselves are worth more in training.
        open_ = [group for group in groups if grouped_by == "seed" or group[0].origin != "seed"]
        synthetic = sum(example.origin != "seed" for example in fresh)
        further = _take(open_, min(_MOST_TEST_ROWS, round(_TEST_SHARE * synthetic)), len(fresh))
        tested = {example.id for example in further}
        left = [group for group in open_ if group[0].id not in tested]
        rest = len(fresh) - len(further)
        test += further
        valid += _take(left, max(_FEWEST_VALID, round(val_split * rest)), rest) if val_split > 0 else []
    kept_apart = {example.id for example in test + valid}
    train = [example for example in ordered if example.id not in kept_apart]
    folder = folder or run.paths.dataset
    fault("dataset.clear")
    shutil.rmtree(folder, ignore_errors=True)
    fault("dataset.mkdir")
    folder.mkdir(mode=0o700)
    counts: dict[str, Any] = {}
    form = thinking.format_of(run.manifest)
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        path = folder / f"{name}.jsonl"
        write_lines(path, [_row(example, run.manifest.spec, form) for example in part])
        with_reasoning = sum(bool(each.thinking) and mode_of(each.input, run.manifest.spec) == "cot" for each in part)
        counts[name] = {"rows": len(part), "with_reasoning": with_reasoning, "sha256": sha256_of(path)}
    written = {"files": counts, "examples": len(examples), "revisions": revisions.moved, "thinking_format": form}
    written["split_by"] = grouped_by
    written["examples_sha256"] = sha256_of(run.paths.traces_amplified)
    write_json(folder / "manifest.json", written)
    return counts


def _groups(ordered: list[EffectiveExample]) -> tuple[list[list[EffectiveExample]], Literal["seed", "call"]]:
    """Rows that belong together, in the order of their hashes, and by what."""
    by_seed = _joined(ordered, lambda example: example.parents or [example.id])
    if max(map(len, by_seed)) <= len(ordered) / 2:
        return by_seed, "seed"
    return _joined(ordered, lambda example: example.call_ids[:1] if example.origin == "synthetic" else []), "call"


def _joined(
    ordered: list[EffectiveExample], keys_of: Callable[[EffectiveExample], list[str]]
) -> list[list[EffectiveExample]]:
    """Rows that share a key, or share one with a row that does, and so on; a row without a key stands alone."""
    root: dict[str, str] = {}

    def find(key: str) -> str:
        while (above := root.setdefault(key, key)) != key:
            key = above
        return key

    keys = [[f"key {key}" for key in keys_of(example)] or [f"row {example.id}"] for example in ordered]
    for first, *others in keys:
        for other in others:
            root[find(other)] = find(first)
    groups: dict[str, list[EffectiveExample]] = {}
    for example, (first, *_) in zip(ordered, keys, strict=True):
        groups.setdefault(find(first), []).append(example)
    return list(groups.values())


def _take(groups: list[list[EffectiveExample]], wanted: int, of: int) -> list[EffectiveExample]:
    """Whole groups, of as many rows as are wanted and about half as many more at most; never more than half of all."""
    taken: list[EffectiveExample] = []
    most = min(wanted + max(1, wanted // 2), of // 2)
    for group in groups:
        if len(taken) < wanted and len(taken) + len(group) <= most:
            taken += group
    if not taken and groups and len(smallest := min(groups, key=len)) <= of // 2:
        return list(smallest)
    return taken


def _row(example: Example, spec: RunSpec, form: ThinkingFormat) -> dict[str, Any]:
    target = target_text(example, mode_of(example.input, spec), form)
    messages = [*prompt_messages(spec.instruction, example.input), {"role": "assistant", "content": target}]
    return {"id": example.id, "messages": messages}


def _hash(purpose: str, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{text}".encode()).digest()[:8])
