"""Reads a student's folder without loading it: is it safe, is it whole, and what does it hold?

Nothing in the folder is run. Code it brings along (``auto_map``, ``model_file``) is a reason to refuse it.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import importlib.util
import json
import os
import re
import stat
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nanodistill_mcp.errors import UserInputError

_ACCEPTED = (
    "A student is the absolute path of a folder in Hugging Face form (config.json, model*.safetensors, tokenizer.json, "
    "tokenizer_config.json with a chat template), or a hub id like 'mlx-community/Qwen3-0.6B-4bit'."
)
_CODE_KEYS = ("auto_map", "model_file", "custom_pipelines")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json")
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")
_STATE_KEYS = {
    *("linear_num_value_heads", "linear_attn_config", "full_attention_interval", "hybrid_override_pattern"),
    *(
        "mamba_d_state",
        "mamba_num_heads",
        "ssm_state_size",
        "ssm_cfg",
        "state_size",
        "conv_L_cache",
        "lru_width",
        "mamba_d_conv",
    ),
}
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.npz", "*.safetensors")
_MOST_JSON_BYTES = 64_000_000
_REVISION = re.compile(r"[0-9a-f]{40}\Z")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_LICENCE = re.compile(r"^license:\s*['\"]?([A-Za-z0-9][A-Za-z0-9._-]{0,63})", re.MULTILINE)


def not_a_student(what: str, next_step: str = _ACCEPTED) -> UserInputError:
    """The error that says why something is no student, and what one is."""
    return UserInputError(what, next_step=next_step)


@dataclass(frozen=True)
class StudentFolder:
    """A folder in Hugging Face form."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return self._json("config.json")

    @property
    def model_type(self) -> str:
        """The architecture's name, as config.json gives it."""
        value = self.config.get("model_type")
        return value if isinstance(value, str) else ""

    @property
    def quantized_bits(self) -> int | None:
        """Bits of MLX's quantization; None when the weights are not quantized."""
        settings = self.config.get("quantization") or self.config.get("quantization_config") or {}
        bits = settings.get("bits") if isinstance(settings, dict) else None
        return bits if isinstance(bits, int) else None

    @property
    def max_position_embeddings(self) -> int | None:
        """Tokens of context the student was made for; None when config.json does not say."""
        return self._count("max_position_embeddings", "n_positions", "seq_length")

    @property
    def hidden_size(self) -> int | None:
        """Width of the blocks; None when config.json does not say."""
        return self._count("hidden_size", "n_embd", "d_model", "dim")

    @property
    def kind(self) -> Literal["dense", "mixture of experts", "hybrid"]:
        """How the blocks are built: MLX-LM cannot take the gradient of every kind of layer."""
        places = [self.config, self.config.get("text_config") or {}]
        layer_types = {str(kind) for place in places for kind in place.get("layer_types") or ()}
        names = {name for place in places for name, value in place.items() if value}
        if any("attention" not in kind or "linear" in kind for kind in layer_types) or names & _STATE_KEYS:
            return "hybrid"
        return "mixture of experts" if (self._count(*_EXPERT_KEYS) or 0) > 1 else "dense"

    @property
    def bytes_on_disk(self) -> int:
        """Size of all files in the folder itself."""
        return sum(entry.stat().st_size for entry in self.path.iterdir() if entry.is_file())

    @property
    def licence(self) -> str:
        """The licence the model card names; empty when there is none."""
        try:
            with (self.path / "README.md").open("rb") as card:
                match = _LICENCE.search(card.read(8192).decode(errors="replace"))
        except OSError:
            return ""
        return match[1] if match else ""

    @property
    def revision(self) -> str:
        """The commit it was fetched at, when it lies in a hub's cache."""
        return self.path.name if self.path.parent.name == "snapshots" and _REVISION.match(self.path.name) else ""

    @property
    def identity(self) -> str:
        """Tells this student from another, wherever its folder lies: its configuration, and the size of its weights."""
        sizes = [[path.name, path.stat().st_size] for path in self.weight_paths]
        return json.dumps([self.config, sizes], sort_keys=True)

    def check_safe(self) -> None:
        """Refuse what asks to run code of its own, and what MLX-LM has no architecture for.

        Raises:
            UserInputError: Says which.
        """
        for name in ("config.json", "tokenizer_config.json"):
            settings = self._json(name) if name == "config.json" or (self.path / name).exists() else {}
            key = next((key for key in _CODE_KEYS if settings.get(key)), None)
            if key is not None:
                raise not_a_student(
                    f"This student's {name} has '{key}': it asks to run code of its own, which is never done.",
                    "Choose a student whose architecture is built into MLX-LM, such as those of mlx-community.",
                )
        if not _is_supported(self.model_type):
            shown = f"'{self.model_type}'" if re.fullmatch(r"[\w.-]{1,64}", self.model_type) else "it names"
            raise not_a_student(
                f"MLX-LM has no architecture for the model_type {shown} in this student's config.json.",
                "Choose a student of another family, for example Qwen3, Llama, Gemma or Mistral.",
            )

    def check_whole(self) -> None:
        """Refuse a folder that lacks its tokenizer or (a part of) its weights.

        Raises:
            UserInputError: Says what is missing.
        """
        self.check_tokenizer()
        self.tensors  # noqa: B018 - reading the headers is the check

    def check_tokenizer(self) -> None:
        """Refuse a folder without a tokenizer.

        Raises:
            UserInputError: There is none.
        """
        if not any((self.path / name).is_file() for name in _TOKENIZER_FILES):
            raise not_a_student("This student's folder has no tokenizer: tokenizer.json is missing.")

    @property
    def has_weights(self) -> bool:
        """Are all files of the weights here?"""
        return bool(self.weight_paths) and not self._missing_shards()

    @property
    def weight_paths(self) -> list[Path]:
        """The files MLX-LM would load."""
        return sorted(self.path.glob("model*.safetensors"))

    @cached_property
    def tensors(self) -> dict[str, tuple[str, list[int]]]:
        """Type and shape of every tensor, from the headers of the weights.

        Raises:
            UserInputError: A file is missing or cut off.
        """
        if not self.weight_paths:
            other = any(next(self.path.glob(pattern), None) for pattern in _OTHER_WEIGHTS)
            raise not_a_student(
                "This student's folder has no model*.safetensors"
                + (", only weights in another form, which are not loaded." if other else "."),
                "Convert it with 'mlx_lm.convert --hf-path ... --mlx-path ...', or choose a student with safetensors weights.",
            )
        if missing := self._missing_shards():
            raise not_a_student(
                f"This student's weights are incomplete: {len(missing)} files of the index are missing."
            )
        tensors: dict[str, tuple[str, list[int]]] = {}
        for path in self.weight_paths:
            tensors |= _header(path)
        return tensors

    @property
    def parameters(self) -> int:
        """How many parameters the weights hold; packed ones are counted one by one."""
        count = 0
        for name, (dtype, shape) in self.tensors.items():
            base, _, leaf = name.rpartition(".")
            packed = f"{base}.scales" in self.tensors
            if packed and leaf in ("scales", "biases"):
                continue
            size = _product(shape)
            count += size * 32 // (self._bits_of(base) or 32) if packed and dtype == "U32" else size
        return count

    @property
    def layers(self) -> int:
        """How many blocks there are."""
        stated = self._count("num_hidden_layers", "n_layer", "n_layers")
        if stated is not None:
            return stated
        return 1 + max((int(match[1]) for name in self.tensors if (match := _LAYER.search(name))), default=-1)

    def _bits_of(self, module: str) -> int | None:
        own = (self.config.get("quantization") or {}).get(module)
        return own["bits"] if isinstance(own, dict) and "bits" in own else self.quantized_bits

    def _count(self, *names: str) -> int | None:
        places = [self.config, self.config.get("text_config") or {}]
        return next((place[name] for place in places for name in names if isinstance(place.get(name), int)), None)

    def _missing_shards(self) -> set[str]:
        if not (self.path / "model.safetensors.index.json").exists():
            return set()
        shards = self._json("model.safetensors.index.json").get("weight_map")
        wanted = set(shards.values()) if isinstance(shards, dict) else set()
        return wanted - {path.name for path in self.weight_paths}

    def _json(self, name: str) -> dict[str, Any]:
        try:
            fd = os.open(self.path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a hub's cache is made of links
            with os.fdopen(fd, "rb") as stream:
                is_plain = stat.S_ISREG(os.fstat(fd).st_mode)
                data = stream.read(_MOST_JSON_BYTES + 1) if is_plain else b""
            value = json.loads(data) if len(data) <= _MOST_JSON_BYTES else None
        except FileNotFoundError:
            raise not_a_student(f"This student's folder has no {name}.") from None
        except (OSError, ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise not_a_student(f"This student's {name} is not a readable JSON object.")
        return value


def _header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Read a safetensors header and check that the file is as long as it says."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, size)))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        end, size, tensors = 1, 0, {}
    if end > size:
        raise not_a_student(
            f"{path.name} of this student is cut off or no safetensors file.", "Download or copy the student again."
        )
    return tensors


def _product(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _is_supported(model_type: str) -> bool:
    from mlx_lm.utils import MODEL_REMAPPING

    name = MODEL_REMAPPING.get(model_type, model_type)
    return bool(re.fullmatch(r"[A-Za-z0-9_-]+", name)) and importlib.util.find_spec(f"mlx_lm.models.{name}") is not None
