"""The local teacher of a white-box distillation: asked once what it holds likely at each token, and kept on disk.

It is loaded, frozen, reads every training row and is let go before the student is loaded, so that the two are never in memory
together. What it said is kept in parts of some rows each, under a name made of all that decides it: the teacher's weights, the
rows, k and its quantization. A part counts once its manifest is there and its hash is right; a training that goes on reads it.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import gc
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import read_object, sha256_of, write_atomic, write_json
from nanodistill_mcp.student import models
from nanodistill_mcp.student.chat import Row
from nanodistill_mcp.student.distill import TaughtRow, kept_form
from nanodistill_mcp.student.folder import StudentFolder
from nanodistill_mcp.student.requests import Distilling, Taught
from nanodistill_mcp.student.shared_tokenizer import check_same_tokenizer

_SCHEMA = 1
_ROWS_IN_PART = 32
_TOKENS_AT_ONCE = 512
_PREDICTIONS_AT_ONCE = 256
_LEAST_LOGPROB = -80.0
"""A token of less is as good as impossible, and single precision has no number for its probability."""
_GROUP = 64
"""Weights that share a scale when they are quantized, as in mlx_lm.convert."""

Kept = np.ndarray[Any, np.dtype[Any]]


class LocalTeacher:
    """A frozen model that says what it holds likely at each token of a row."""

    def __init__(self, folder: Path, how: Distilling, vocabulary: int) -> None:
        """Load it.

        Args:
            folder: Of the model, checked.
            how: Its quantization, and how many tokens are kept.
            vocabulary: How many tokens the tokenizer knows: models have more, for round numbers.

        Raises:
            UserInputError: Its files do not fit together, or it is quantized already.
            TrainingError: Not enough memory.
        """
        from mlx_lm import load

        with models.memory_errors(), models.loading_errors():
            # lazily, so that no weight is ever there as it lies on disk and quantized at once
            self._model: nn.Module = load(str(folder), lazy=how.local_teacher_bits is not None)[0]
            if how.local_teacher_bits is not None:
                nn.quantize(
                    self._model,
                    _GROUP,
                    how.local_teacher_bits,
                    class_predicate=_is_quantizable,
                )
            self._model.freeze()
            self._model.eval()
            mx.eval(self._model.parameters())
        self._top_k, self._vocabulary = how.top_k, vocabulary

    def read(self, rows: Sequence[Row]) -> list[Kept]:
        """What is kept of its distributions at the tokens that the loss counts, row by row."""
        found: dict[int, Kept] = {}
        for numbers in _groups(rows):
            some = [rows[number] for number in numbers]
            found |= zip(numbers, self._read_at_once(some), strict=True)
        return [found[number] for number in range(len(rows))]

    def _read_at_once(self, rows: Sequence[Row]) -> Iterator[Kept]:
        tokens = np.zeros((len(rows), max(len(row.tokens) for row in rows) - 1), np.int32)
        for line, row in enumerate(rows):
            tokens[line, : len(row.tokens) - 1] = row.tokens[:-1]
        logits = self._model(mx.array(tokens))
        for line, row in enumerate(rows):
            first, last = max(row.target_start, 1), len(row.tokens)
            spans = [
                (begin, min(begin + _PREDICTIONS_AT_ONCE, last)) for begin in range(first, last, _PREDICTIONS_AT_ONCE)
            ]
            parts = [self._kept(logits[line, begin - 1 : end - 1], row.tokens[begin:end]) for begin, end in spans]
            yield np.concatenate(parts)

    def _kept(self, logits: mx.array, targets: list[int]) -> Kept:
        logits = logits[:, : self._vocabulary].astype(mx.float32)
        logprobs = mx.maximum(logits - mx.logsumexp(logits, axis=-1, keepdims=True), _LEAST_LOGPROB)
        count = min(self._top_k, logprobs.shape[-1])
        ids = mx.argpartition(-logprobs, count - 1, axis=-1)[:, :count]
        kept = np.zeros(len(targets), kept_form(count))
        kept["ids"] = np.array(ids.astype(mx.int32))
        kept["logprobs"] = np.array(mx.take_along_axis(logprobs, ids, axis=-1))
        kept["target"] = np.array(mx.take_along_axis(logprobs, mx.array(targets)[:, None], axis=-1))[:, 0]
        return kept


def _is_quantizable(_path: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module["weight"].shape[-1] % _GROUP == 0


def _groups(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Row numbers, together as many as are read at once, of similar lengths."""
    group: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: len(rows[number].tokens)):
        if group and (len(group) + 1) * len(rows[number].tokens) > _TOKENS_AT_ONCE:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


@dataclass(frozen=True)
class _Part:
    """Some rows' teaching on disk."""

    path: Path
    rows: Sequence[Row]
    top_k: int

    @property
    def _manifest_path(self) -> Path:
        return self.path.with_suffix(".json")

    def kept(self) -> list[Kept] | None:
        """What was kept; None when it is not there, or not whole."""
        manifest = _readable(self._manifest_path)
        if not manifest or not self.path.is_file():
            return None
        if self.path.stat().st_size != manifest.get("bytes") or sha256_of(self.path) != manifest.get("sha256"):
            return None
        every: Kept = np.load(self.path, mmap_mode="r", allow_pickle=False)
        ends = np.cumsum([len(row.tokens) - max(row.target_start, 1) for row in self.rows])
        return np.split(every, ends[:-1])

    def keep(self, found: Sequence[Kept]) -> None:
        """Write it, its manifest last."""
        self._manifest_path.unlink(missing_ok=True)
        written = io.BytesIO()
        np.save(written, np.concatenate(found), allow_pickle=False)
        data = written.getvalue()
        write_atomic(self.path, data)
        fault("teaching.manifest")
        write_json(self._manifest_path, {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        fault("teaching.done")


def taught(
    rows: Sequence[Row],
    directory: Path,
    how: Distilling,
    folder: Path,
    tokenizer: Any,
    told: Callable[[int, int], None],
) -> tuple[list[TaughtRow], Taught, str]:
    """The training rows with what the teacher says of them. It is loaded only if something is missing on disk.

    Args:
        rows: The training rows.
        directory: Of this run alone.
        how: How it takes part.
        folder: Where the teacher lies, checked.
        tokenizer: The student's.
        told: Called with the number of rows that are there and their number in all, before and after each part is made.

    Returns:
        The rows, what is to be told of them, and the key of all that decided them.

    Raises:
        UserInputError: The teacher has another tokenizer, or cannot be loaded.
        TrainingError: Not enough memory.
    """
    check_same_tokenizer(tokenizer, models.load_tokenizer(StudentFolder(folder)))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = _key(rows, how, _weights_hash(folder, directory))
    home = directory / key
    for entry in directory.iterdir():
        if entry.is_dir() and entry != home:
            shutil.rmtree(entry)  # of other rows or another teacher: large, and of no more use
    home.mkdir(mode=0o700, exist_ok=True)
    vocabulary = 1 + max(tokenizer.get_vocab().values())
    teacher: LocalTeacher | None = None
    done, read = 0, 0
    every: list[Kept] = []
    for number, first in enumerate(range(0, len(rows), _ROWS_IN_PART)):
        part = _Part(home / f"{number:05d}.npy", rows[first : first + _ROWS_IN_PART], how.top_k)
        kept = part.kept()
        if kept is None:
            told(done, len(rows))
            teacher = teacher or LocalTeacher(folder, how, vocabulary)
            part.keep(teacher.read(part.rows))
            read += len(part.rows)
            kept = part.kept()
            assert kept is not None  # noqa: S101 - it was written, and flushed, just now
        every += kept
        done += len(part.rows)
    told(done, len(rows))
    del teacher
    gc.collect()
    mx.clear_cache()
    found = [TaughtRow(row.tokens, row.target_start, kept) for row, kept in zip(rows, every, strict=True)]
    return found, _told(found, how, read), key


def _readable(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where it is missing or damaged, as everything here can be made again."""
    try:
        return read_object(path) or {}
    except DamagedRunError:
        return {}


def _told(rows: Sequence[TaughtRow], how: Distilling, read: int) -> Taught:
    tokens = sum(len(row.taught) for row in rows)
    covered = sum(float(np.exp(row.taught["logprobs"], dtype=np.float64).sum()) for row in rows)
    loss = -sum(float(row.taught["target"].sum(dtype=np.float64)) for row in rows)
    return Taught(
        **how.model_dump(include={"local_teacher", "alpha", "temperature"}),
        top_k=rows[0].taught["ids"].shape[-1],
        covered=round(min(1.0, covered / tokens), 6),
        teacher_loss=round(loss / tokens, 6),
        tokens=tokens,
        rows=len(rows),
        rows_read=read,
    )


def _key(rows: Sequence[Row], how: Distilling, weights: str) -> str:
    parts = [_SCHEMA, weights, how.local_teacher_bits, how.top_k, [[row.target_start, row.tokens] for row in rows]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _weights_hash(folder: Path, directory: Path) -> str:
    """A hash of a model's configuration and weights. That of a file is kept while its size and its time stay the same."""
    known_path = directory / "teacher.json"
    known = _readable(known_path)
    hashes: dict[str, list[Any]] = {}
    for path in StudentFolder(folder).weight_paths:
        stat = path.stat()
        seen = known.get(path.name)
        now = [stat.st_size, stat.st_mtime_ns]
        if not isinstance(seen, list) or seen[:2] != now:
            seen = [*now, sha256_of(path)]
        hashes[path.name] = seen
    if hashes != known:
        write_json(known_path, hashes)
    parts = [StudentFolder(folder).config, [each[2] for each in hashes.values()]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
