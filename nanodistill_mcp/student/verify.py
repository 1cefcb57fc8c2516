"""Prove a GGUF file with llama.cpp itself, and answer prompts with it.

The gates follow what was measured over twelve families: a file in F16 differs from the fused model by rounding only, so
anything more is a fault of the conversion. In fewer bits the weights themselves differ; there the layout is proved
first, by the file itself when it is close, else by a temporary F16 file, and what the rounding does is judged after.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_model, load_tokenizer

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.runs.files import append_line, drop_torn_line, read_lines
from nanodistill_mcp.student.answer_requests import AskGgufRequest, Done, Generated
from nanodistill_mcp.student.chat import ChatForm
from nanodistill_mcp.student.export_requests import VerifyRequest, VerifyResult
from nanodistill_mcp.student.gguf import write_gguf
from nanodistill_mcp.student.gguf_header import GgufFacts, read_facts
from nanodistill_mcp.student.gguf_quantizations import QUANTIZATIONS, Quantization
from nanodistill_mcp.student.llama_cpp import LlamaCpp, LlamaCppMissingError
from nanodistill_mcp.student.models import resolve
from nanodistill_mcp.student.parity import (
    ANSWER_TOKENS_COMPARED,
    Case,
    FusingParity,
    LogitParity,
    Reference,
    TextParity,
    answered,
    compare_fusing,
    compare_logits,
    compare_texts,
    distributions,
)
from nanodistill_mcp.student.requests import Message

_TWIN = QUANTIZATIONS["F16"]
_TWIN_TOP1 = 0.99
_PROVEN_KL = {"F16": 1e-3, "BF16": 5e-3}
_PROVEN_KL_IN_FEWER_BITS = 0.02
"""A wrong layout gives more: from 0.4 to 5 nats where it was seen."""

_WARNING_KL = {"F16": 1e-3, "BF16": 5e-3, "Q8_0": 0.02}
_WARNING_KL_IN_FEWER_BITS = 0.3
_ABSURD_KL = {"BF16": 0.3, "Q8_0": 0.3}
_ABSURD_KL_IN_FEWER_BITS = 2.0
_ABSURD_TOP1 = 0.2

_FUSING_KL = 0.02
"""Rounding merged weights to bfloat16 gave at most 0.001 where it was measured."""

_FUSING_SHARE = 0.25
"""Of what training changed; an adapter that vanishes in fusing gives 1."""

_FUSING_NOISE = 1e-3
_TEXTS_FROM_PROMPTS = 20
_UNEQUAL_TOLERATED = 2
"""Of the unusual texts; not one of the run's own prompts."""

_TEMPLATE_TOKENS = 1024
"""More than a template adds around the words of a conversation, a default system message included."""

_TWIN_BYTES_PER_BYTE = 4
"""An F16 file is at most this much larger than one in four bits."""

_GREETING: list[Message] = [{"role": "user", "content": "Hello"}]


def verify(request: VerifyRequest) -> VerifyResult:
    """Check a GGUF file against the fused model, that against the adapter, then answer every prompt with the file.

    Answers go to ``output_path`` as variant "gguf"; prompts that have a row there are not asked again. Where llama.cpp is
    not usable nothing is checked, and the result says so.

    Raises:
        ExportError: The file does not load, gives other token ids, or answers otherwise than rounding explains.
    """
    facts = read_facts(request.gguf_path)
    drop_torn_line(request.output_path)
    rows = list(read_lines(request.prompts_path))
    prompts: list[list[Message]] = [row["messages"] for row in rows]
    context_tokens = _context_tokens([*prompts, _GREETING], request.max_tokens, facts)
    try:
        llama = LlamaCpp(request.gguf_path, context_tokens=context_tokens)
    except LlamaCppMissingError as error:
        return _unchecked(f"{error.what} {error.next_step}")
    warnings: list[str] = []
    with llama:
        _tell(request, "loaded")
        texts = compare_texts(llama, ChatForm(load_tokenizer(request.fused_dir)), prompts[:_TEXTS_FROM_PROMPTS])
        _judge_texts(texts, warnings)
        _tell(request, "texts compared")
        prompt_ids = [llama.prompt_ids(messages) for messages in prompts[: request.parity_prompts]]
        cases = answered(llama, [ids for ids in prompt_ids if len(ids) + ANSWER_TOKENS_COMPARED <= context_tokens])
        logits, proven_by, fusing = _check_logits(request, llama, cases, facts, context_tokens, warnings)
        _answer(llama, rows, request, variant="gguf", context_tokens=context_tokens)
        stops = _stops(llama, rows, request)
        runtime = llama.runtime
    if not stops:
        warnings.append(f"Most answers ran on to max_tokens ({request.max_tokens}) without stopping by themselves.")
    return VerifyResult(
        loads=True,
        runtime=runtime,
        strings_checked=texts.checked,
        strings_equal=texts.equal,
        prompt_ids_equal=texts.prompts_equal,
        positions_compared=logits.positions,
        top1_agreement=logits.top1_agreement,
        mean_kl=logits.mean_kl,
        fused_kl=fusing.mean_kl if fusing else None,
        fused_top1_agreement=fusing.top1_agreement if fusing else None,
        trained_kl=fusing.trained_kl if fusing else None,
        layout_proven_by=proven_by,
        stops_by_itself=stops,
        warnings=warnings,
    )


def _unchecked(why: str) -> VerifyResult:
    return VerifyResult(
        loads=False,
        runtime="",
        strings_checked=0,
        strings_equal=0,
        prompt_ids_equal=False,
        positions_compared=0,
        top1_agreement=None,
        mean_kl=None,
        stops_by_itself=False,
        warnings=[why],
    )


def _tell(request: VerifyRequest, step: str) -> None:
    """Show that the check goes on: whoever waits ends a process that says nothing for long."""
    append_line(request.metrics_path, {"event": "check", "step": step})


def ask(request: AskGgufRequest) -> Done:
    """Answer prompts with a GGUF file in llama.cpp; prompts that have a row in ``output_path`` are not asked again.

    Raises:
        ExportError: The file does not load.
    """
    facts = read_facts(request.gguf_path)
    drop_torn_line(request.output_path)
    rows = list(read_lines(request.prompts_path))
    context_tokens = _context_tokens([row["messages"] for row in rows], request.max_tokens, facts)
    with LlamaCpp(request.gguf_path, context_tokens=context_tokens) as llama:
        _answer(llama, rows, request, variant=request.variant, context_tokens=context_tokens)
    return Done(rows=len(rows))


def _quantization_of(facts: GgufFacts) -> Quantization:
    for quantization in QUANTIZATIONS.values():
        if quantization.file_type == facts.file_type:
            return quantization
    raise ExportError(
        "The GGUF file is of a quantization this export does not write.",
        next_step="Call export_gguf with restart=true.",
    )


def _context_tokens(prompts: Iterable[list[Message]], max_tokens: int, facts: GgufFacts) -> int:
    """Room for the longest prompt and its answer: a token is at least one byte, so bytes bound tokens."""
    longest = max((sum(len(message["content"].encode()) for message in messages) for messages in prompts), default=0)
    return min(facts.context_length, longest + _TEMPLATE_TOKENS + max_tokens)


def _judge_texts(texts: TextParity, warnings: list[str]) -> None:
    unequal = len(texts.unequal_plain)
    if unequal > _UNEQUAL_TOLERATED or not texts.prompts_equal:
        raise ExportError(
            f"{unequal} of {texts.checked} texts become other tokens in llama.cpp than in training.",
            next_step="Use the fused model in mlx_lm or LM Studio; the GGUF file would answer differently.",
        )
    if unequal:
        warnings.append(f"{unequal} of {texts.checked} texts, all unusual, become other tokens in llama.cpp.")
    if texts.unequal_marked:
        warnings.append(
            f"{len(texts.unequal_marked)} of {texts.checked} texts, all with combining marks, become other tokens in "
            "llama.cpp: it does not normalize Unicode."
        )


def _check_logits(
    request: VerifyRequest,
    llama: LlamaCpp,
    cases: list[Case],
    facts: GgufFacts,
    context_tokens: int,
    warnings: list[str],
) -> tuple[LogitParity, str, FusingParity | None]:
    """Compare distributions and apply the gates; one MLX model at a time is in memory, and only meanwhile."""
    quantization = _quantization_of(facts)
    reference = Reference(load_model(request.fused_dir, lazy=True)[0])
    logits = compare_logits(llama, reference, cases)
    _tell(request, "distributions compared")
    proven_by = _prove(logits, quantization)
    if logits.positions and not proven_by:
        proven_by = _prove_by_twin(request, reference, cases, context_tokens, warnings)
    _judge_damage(logits, quantization, warnings)
    fusing: FusingParity | None = None
    if cases and request.adapter_dir is not None:
        fused = distributions(reference, cases)
        del reference
        fusing = compare_fusing(fused, resolve(request.student), request.adapter_dir, cases)
        _judge_fusing(fusing, warnings)
        _tell(request, "adapter compared")
    return logits, proven_by, fusing


def _judge_fusing(fusing: FusingParity, warnings: list[str]) -> None:
    lost = fusing.mean_kl / fusing.trained_kl if fusing.trained_kl > 0 else 0.0
    differs, vanishes = fusing.mean_kl > _FUSING_KL, lost > _FUSING_SHARE and fusing.mean_kl > _FUSING_NOISE
    if differs and vanishes:
        raise ExportError(
            f"The fused model is not what was trained: it differs from the adapter by {fusing.mean_kl:.3f} nats, where "
            f"training had changed the base by {fusing.trained_kl:.3f}.",
            next_step="Use the adapter in model/adapters with mlx_lm, and report the student's family.",
        )
    if differs or vanishes:
        warnings.append(
            f"Fusing changes the student noticeably (KL {fusing.mean_kl:.3f} nats; training changed it by "
            f"{fusing.trained_kl:.3f}): its weights are rounded to the base's precision."
        )


def _prove(logits: LogitParity, quantization: Quantization) -> str:
    """What proves the layout: the quantization itself, or "" when it is too coarse to tell."""
    if logits.mean_kl is None or logits.top1_agreement is None:
        return ""
    close = logits.mean_kl <= _PROVEN_KL.get(quantization.name, _PROVEN_KL_IN_FEWER_BITS)
    if quantization == _TWIN and not (close and logits.top1_agreement >= _TWIN_TOP1):
        raise ExportError(
            f"The GGUF file answers differently from the fused model (KL {logits.mean_kl:.3f} nats): the conversion is "
            "wrong.",
            next_step="Use the fused model in mlx_lm or LM Studio, and report the student's family.",
        )
    return quantization.name if close else ""


def _prove_by_twin(
    request: VerifyRequest, reference: Reference, cases: list[Case], context_tokens: int, warnings: list[str]
) -> str:
    """Write the same student in F16, fine enough to tell rounding from a wrong layout, and compare that."""
    directory = request.gguf_path.parent
    if shutil.disk_usage(directory).free < _TWIN_BYTES_PER_BYTE * request.gguf_path.stat().st_size:
        warnings.append("The disk has no room for a finer file to compare: the layout of the weights was not proved.")
        return ""
    for abandoned in directory.glob(".twin-*"):
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix=".twin-", dir=directory) as name:
        path = Path(name) / "twin.gguf"
        write_gguf(request.fused_dir, path, _TWIN)
        with LlamaCpp(path, context_tokens=context_tokens) as twin:
            return _prove(compare_logits(twin, reference, cases), _TWIN)


def _judge_damage(logits: LogitParity, quantization: Quantization, warnings: list[str]) -> None:
    """What the rounding itself does to the student."""
    name = quantization.name
    if logits.mean_kl is None or logits.top1_agreement is None:
        warnings.append("No prompt was compared with the fused model.")
    elif logits.mean_kl > _ABSURD_KL.get(name, _ABSURD_KL_IN_FEWER_BITS) or logits.top1_agreement < _ABSURD_TOP1:
        raise ExportError(
            f"In {name} the student no longer answers as it was trained "
            f"(KL {logits.mean_kl:.2f} nats, same first choice in {logits.top1_agreement:.0%}).",
            next_step="Call export_gguf with quantization F16 or Q8_0.",
        )
    elif logits.mean_kl > _WARNING_KL.get(name, _WARNING_KL_IN_FEWER_BITS):
        warnings.append(
            f"{name} changes the student's answers noticeably (KL {logits.mean_kl:.2f} nats); "
            "F16 would change them less."
        )


def _answer(
    llama: LlamaCpp,
    rows: list[dict[str, Any]],
    request: VerifyRequest | AskGgufRequest,
    *,
    variant: str,
    context_tokens: int,
) -> None:
    answered = {row["id"] for row in read_lines(request.output_path, appended=True) if row["variant"] == variant}
    done = len([row for row in rows if row["id"] in answered])
    for row in rows:
        if row["id"] in answered:
            continue
        started = time.monotonic()
        opening = row.get("opening", "")
        ids = llama.prompt_ids(row["messages"], opening)
        room = min(request.max_tokens, context_tokens - len(ids))
        answer = llama.complete(ids, room) if room > 0 else None  # no room: an empty answer, cut short at once
        generated = Generated(
            id=row["id"],
            variant=variant,
            text=opening + (answer.text if answer else ""),
            prompt_tokens=len(ids),
            completion_tokens=answer.completion_tokens if answer else 0,
            elapsed_s=round(time.monotonic() - started, 3),
            finish_reason=answer.finish_reason if answer else "length",
        )
        append_line(request.output_path, generated.model_dump())
        done += 1
        append_line(request.metrics_path, {"event": "rows", "done": done, "total": len(rows)})


def _stops(llama: LlamaCpp, rows: list[dict[str, Any]], request: VerifyRequest) -> bool:
    """Whether most answers ended by themselves; a greeting is asked where there are none."""
    asked = {row["id"] for row in rows}
    given = [row for row in read_lines(request.output_path, appended=True) if row["variant"] == "gguf"]
    reasons = [row["finish_reason"] for row in given if row["id"] in asked]
    if not reasons:
        reasons = [llama.complete(llama.prompt_ids(_GREETING), request.max_tokens).finish_reason]
    return reasons.count("stop") * 2 >= len(reasons)
