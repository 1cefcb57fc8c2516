r"""The student's tokenizer as GGUF keys, from the tokenizer that training used: no sentencepiece, no ``tokenizer.model``.

llama.cpp knows byte-level splitting patterns by name, so the pattern in the tokenizer must be one it has; guessing
would give other token ids. Two things it cannot do at all, and the verification reports: Unicode normalization (NFC)
and, in some patterns, combining marks (``\p{M}``).
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import json
from dataclasses import dataclass, field
from typing import Any

import gguf
from gguf import TokenType

from nanodistill_mcp.student.gguf_rope import refused

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKED_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_UPPER_FIRST = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
_UPPER_MAINLY = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SLASHED_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"

_LLAMA3 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_PUNCTUATION}|{_TAIL}"
_PATTERNS: dict[str, str] = {
    rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_PUNCTUATION}|{_TAIL}": "qwen2",
    rf"{_CONTRACTIONS}|{_MARKED_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_TAIL}": "qwen35",
    rf"{_UPPER_FIRST}|{_UPPER_MAINLY}|\p{{N}}|{_SLASHED_PUNCTUATION}|{_TAIL}": "tekken",
    (
        rf"{_UPPER_FIRST}{_CONTRACTIONS}?|{_UPPER_MAINLY}{_CONTRACTIONS}?"
        rf"|\p{{N}}{{1,3}}|{_SLASHED_PUNCTUATION}|{_TAIL}"
    ): "gpt-4o",
}
_NEVER_MERGED = "ÿ ÿ"
"""llama.cpp insists on a merge, and some tokenizers have none: UTF-8 has no byte 255, so this one never happens."""

_FIXED_DATE = "{%- set date_string = '26 Jul 2024' %}"
_NO_BOS = "{%- set bos_token = '' %}"
_NO_THINKING = "{%- set enable_thinking = false %}"
_PHI3_TOKENS = ("</s>", "<unk>", "<s>", "<|endoftext|>")


@dataclass
class GgufTokenizer:
    """A tokenizer in llama.cpp's terms, complete before anything is written."""

    model: str
    pre: str
    tokens: list[str]
    types: list[TokenType]
    add_bos: bool
    add_eos: bool
    special_ids: dict[str, int]
    chat_template: str | None
    merges: list[str] | None = None
    scores: list[float] | None = None
    add_space_prefix: bool | None = None
    model_name: str = "student"
    stop_texts: list[str] = field(default_factory=list[str])

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add every key to a writer."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        for role, token_id in self.special_ids.items():
            getattr(writer, f"add_{role}_token_id")(token_id)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def gguf_tokenizer(tokenizer: Any, vocab_size: int) -> GgufTokenizer:
    """Read a loaded tokenizer.

    Args:
        tokenizer: As ``mlx_lm.load`` gives it.
        vocab_size: Rows of the embedding. Token ids at or above it are left out: the student has no weights for them.

    Raises:
        ExportError: llama.cpp has no tokenizer that gives the same ids.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spec: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    if spec.get("model", {}).get("type") != "BPE":
        raise refused("The student's tokenizer is not a byte-pair encoding, the kind this export writes.")
    by_bytes = not spec["model"].get("byte_fallback")
    tokens, types = _tokens(spec, vocab_size, by_bytes=by_bytes)
    common: dict[str, Any] = {"tokens": tokens, "types": types} | _special(tokenizer, spec, vocab_size)
    if by_bytes:
        return GgufTokenizer(model="gpt2", pre=_pattern_name(spec), merges=_merges(spec), **common)
    _check_sentencepiece_steps(spec)
    return GgufTokenizer(
        model="llama",
        pre="default",
        scores=_scores(spec, tokens),
        add_space_prefix=_adds_space_prefix(spec),
        **common,
    )


def _tokens(spec: dict[str, Any], vocab_size: int, *, by_bytes: bool) -> tuple[list[str], list[TokenType]]:
    vocab: dict[str, int] = spec["model"]["vocab"]
    if max(vocab.values(), default=0) >= vocab_size:
        raise refused("The student's tokenizer has more tokens than the student has embeddings.")
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    unknown = spec["model"].get("unk_token")
    for text, index in vocab.items():
        tokens[index] = text
        is_byte = not by_bytes and len(text) == len("<0x00>") and text.startswith("<0x") and text.endswith(">")
        types[index] = TokenType.BYTE if is_byte else TokenType.NORMAL
    for added in spec["added_tokens"]:
        index, text, special = added["id"], added["content"], added["special"]
        if index < vocab_size:
            types[index] = TokenType.CONTROL if special else TokenType.USER_DEFINED
            # llama.cpp looks for user-defined tokens in the text itself, where a space is still a space.
            tokens[index] = text if special or by_bytes else text.replace("▁", " ")
    if not by_bytes and unknown in vocab:
        types[vocab[unknown]] = TokenType.UNKNOWN
    return tokens, types


def _merges(spec: dict[str, Any]) -> list[str]:
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    return merges or [_NEVER_MERGED]


def _scores(spec: dict[str, Any], tokens: list[str]) -> list[float]:
    """Sentencepiece's scores: minus the rank of the first merge that makes a token."""
    ranks: dict[str, int] = {}
    merges = spec["model"]["merges"]
    for rank, merge in enumerate(merges):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(text, len(merges))) for text in tokens]


def _pattern_name(spec: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits text before it merges."""
    if any(step["type"] != "NFC" for step in _steps(spec.get("normalizer"), "normalizers")):
        raise refused("The student's tokenizer rewrites its text in a way llama.cpp does not.")
    model = spec["model"]
    steps = _steps(spec.get("pre_tokenizer"), "pretokenizers")
    last = steps[-1] if steps else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") or model.get("end_of_word_suffix"):
        raise refused("The student's tokenizer does not split its text in a way llama.cpp has.")
    match steps[:-1]:
        case [] if last["use_regex"]:
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}] if last["use_regex"]:
            return "smollm"
        case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}] if not last[
            "use_regex"
        ]:
            known = "llama-bpe" if model.get("ignore_merges") else "dbrx"
            name = known if pattern == _LLAMA3 else _PATTERNS.get(pattern)
            if name is not None:
                return name
        case _:
            pass
    raise refused("The student's tokenizer splits its text by a pattern that is not one of llama.cpp's.")


def _steps(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return step[key] if step["type"] == "Sequence" else [step]


def _check_sentencepiece_steps(spec: dict[str, Any]) -> None:
    """Only what sentencepiece itself does: spaces become ``▁``, one may be put first."""
    normalizers = {step["type"] for step in _steps(spec.get("normalizer"), "normalizers")}
    splitters = [step for step in _steps(spec.get("pre_tokenizer"), "pretokenizers") if step["type"] != "Metaspace"]
    spaces_only = all(step["type"] == "Split" and step["pattern"] == {"String": " "} for step in splitters)
    if not normalizers <= {"Prepend", "Replace"} or not spaces_only:
        raise refused("The student's tokenizer prepares its text in a way llama.cpp does not.")


def _adds_space_prefix(spec: dict[str, Any]) -> bool:
    """Whether a space goes before every piece of text, as llama.cpp has it.

    Before the first piece alone is not that: a conversation begins with a special token, so no piece gets one.
    """
    prepends = any(step["type"] == "Prepend" for step in _steps(spec.get("normalizer"), "normalizers"))
    splitters = _steps(spec.get("pre_tokenizer"), "pretokenizers")
    return prepends or any(step.get("prepend_scheme") == "always" for step in splitters)


def _special(tokenizer: Any, spec: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    roles = ("bos", "eos", "unk", "sep", "pad", "mask")
    ids = {role: getattr(tokenizer, f"{role}_token_id", None) for role in roles}
    stops = sorted(stop for stop in tokenizer.eos_token_ids if stop < vocab_size)
    if ids["eos"] not in stops and stops:
        ids["eos"] = stops[0]
    ids |= dict(zip(("eot", "eom"), [stop for stop in stops if stop != ids["eos"]], strict=False))
    plain, dressed = tokenizer.encode("a b", add_special_tokens=False), tokenizer.encode("a b")
    return {
        "special_ids": {role: index for role, index in ids.items() if index is not None and index < vocab_size},
        # Said outright, because llama.cpp's own default depends on the splitting pattern.
        "add_bos": dressed[0] != plain[0] and dressed[0] == ids["bos"],
        "add_eos": dressed[-1] != plain[-1] and dressed[-1] == tokenizer.eos_token_id,
        "chat_template": _chat_template(tokenizer),
        "model_name": _model_name(spec),
        "stop_texts": tokenizer.convert_ids_to_tokens(stops),
    }


def _chat_template(tokenizer: Any) -> str | None:
    """The template, with what training always gave it written into it, so that every program renders the same prompts."""
    template: str | dict[str, str] | None = tokenizer.chat_template
    text = template.get("default") if isinstance(template, dict) else template
    if text is None:
        return None
    settings = ""
    if "date_string" in text:  # Llama 3 puts today's date before every conversation
        settings += _FIXED_DATE
    if "enable_thinking" in text and not tokenizer.has_thinking:  # llama.cpp would say true
        settings += _NO_THINKING
    if "bos_token" in text and tokenizer.bos_token_id is None:  # llama.cpp would put token 11 there
        settings += _NO_BOS
    return settings + text


def _model_name(spec: dict[str, Any]) -> str:
    """A neutral name: llama.cpp reads meaning into "phi-3" in it and then insists on four tokens.

    What it means is wanted where special tokens swallow the space after them, as Phi-3's do.
    """
    vocab = {token["content"] for token in spec["added_tokens"]} | set(spec["model"]["vocab"])
    swallows = any(token["rstrip"] and token["special"] for token in spec["added_tokens"])
    return "student with a phi-3 tokenizer" if swallows and vocab.issuperset(_PHI3_TOKENS) else "student"
