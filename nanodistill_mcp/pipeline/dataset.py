"""The accepted examples as the chat rows MLX-LM reads, split by a hash of their text; the manifest is written last."""

import hashlib
import shutil
from typing import Any, Literal

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.runs.files import sha256_of, write_json, write_lines
from nanodistill_mcp.runs.records import Example, Reasoning, RunManifest
from nanodistill_mcp.runs.store import Run, read_records

_FEWEST_FOR_A_SPLIT = 20
_TEST_SHARE = 0.1
_MOST_TEST_ROWS = 200

Message = dict[str, str]


def prompt_messages(instruction: str, text: str) -> list[Message]:
    """What a student is asked, in training, in evaluation and when it is used."""
    return [{"role": "system", "content": instruction}, {"role": "user", "content": text}]


def target_text(example: Example, mode: Literal["cot", "direct"], *, native_thinking: bool) -> str:
    """What the student is taught to write."""
    if mode == "direct" or not example.thinking:
        return example.output
    tag = "think" if native_thinking else "thinking"
    return f"<{tag}>\n{example.thinking}\n</{tag}>\n{example.output}"


def mode_of(example: Example, reasoning: Reasoning) -> Literal["cot", "direct"]:
    """Reasoning or the answer alone; ``mixed`` gives half of the examples each, by a hash of their text."""
    if reasoning == "mixed":
        return "direct" if _hash("mode", example.input) % 2 else "cot"
    return reasoning


def build_dataset(run: Run, val_split: float) -> dict[str, Any]:
    """Write ``dataset/train.jsonl``, ``valid.jsonl`` and ``test.jsonl``, and their manifest.

    With fewer than 20 examples all are trained on: a validation set of one or two rows says nothing.

    Raises:
        TrainingError: There are no accepted examples.
    """
    examples = list(read_records(run.paths.traces_amplified, Example))
    if not examples:
        raise TrainingError("There are no accepted examples to train on.", next_step="Call amplify first.")
    ordered = sorted(examples, key=lambda example: _hash("split", example.input))
    test: list[Example] = []
    valid: list[Example] = []
    if len(examples) >= _FEWEST_FOR_A_SPLIT:
        synthetic = [example for example in ordered if example.origin == "synthetic"]
        test = synthetic[: min(_MOST_TEST_ROWS, round(_TEST_SHARE * len(synthetic)))]
        rest = [example for example in ordered if example not in test]
        valid = rest[: max(4, round(val_split * len(rest)))] if val_split > 0 else []
    kept_apart = {example.id for example in test + valid}
    train = [example for example in ordered if example.id not in kept_apart]
    shutil.rmtree(run.paths.dataset, ignore_errors=True)
    run.paths.dataset.mkdir(mode=0o700)
    counts: dict[str, Any] = {}
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        path = run.paths.dataset / f"{name}.jsonl"
        write_lines(path, [_row(example, run.manifest) for example in part])
        counts[name] = {"rows": len(part), "sha256": sha256_of(path)}
    write_json(run.paths.dataset / "manifest.json", {"files": counts, "examples": len(examples)})
    return counts


def _row(example: Example, manifest: RunManifest) -> dict[str, Any]:
    target = target_text(
        example, mode_of(example, manifest.spec.reasoning), native_thinking=manifest.student_thinks_natively
    )
    messages = [*prompt_messages(manifest.spec.instruction, example.input), {"role": "assistant", "content": target}]
    return {"id": example.id, "messages": messages}


def _hash(purpose: str, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{text}".encode()).digest()[:8])
