"""The header of a GGUF file: what it says it is, and whether every tensor lies inside the file.

gguf's own reader turns every token and merge of a vocabulary into numpy objects, which takes longer than loading the
model; this one steps over them.
"""
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType, GGUFValueType

from nanodistill_mcp.errors import ExportError

_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}
_VERSIONS = (2, 3)


@dataclass(frozen=True)
class GgufFacts:
    """What the header says."""

    architecture: str
    file_type: int
    context_length: int
    state_bytes_per_token: int = 0
    """Of the keys and values that llama.cpp keeps, at two bytes each; 0 where the header does not say."""


def read_facts(gguf_path: Path) -> GgufFacts:
    """Read the header without llama.cpp.

    Raises:
        ExportError: It is not a whole GGUF file with the keys every export writes.
    """
    try:
        with gguf_path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            values = _Header(data).values()
        architecture = values["general.architecture"]
        own = {key.removeprefix(f"{architecture}."): value for key, value in values.items()}
        return GgufFacts(architecture, values["general.file_type"], own["context_length"], _state_bytes(own))
    except (OSError, ValueError, KeyError, struct.error, OverflowError) as error:
        raise ExportError(
            "The GGUF file is missing, cut short or damaged.", next_step="Call export_gguf with restart=true."
        ) from error


def _state_bytes(own: dict[str, Any]) -> int:
    """Of one token, by the architecture's own keys; a list, a number for each block, was stepped over and is None."""
    heads = own.get("attention.head_count") or 0
    width = own.get("embedding_length", 0) // max(1, heads)
    key, value = own.get("attention.key_length") or width, own.get("attention.value_length") or width
    return 2 * own.get("block_count", 0) * (own.get("attention.head_count_kv") or heads) * (key + value)


class _Header:
    """A position in the file, moving forward."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def values(self) -> dict[str, Any]:
        """Read every key; arrays are stepped over. Raises what a damaged file leads to, mostly ValueError."""
        magic, version, tensors, keys = (self._scalar(form) for form in ("<I", "<I", "<Q", "<Q"))
        if magic != gguf.GGUF_MAGIC or version not in _VERSIONS:
            raise ValueError("not a GGUF file")
        values: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string()
            values[key] = self._value()
        ends = [self._tensor_end() for _ in range(tensors)]
        alignment = int(values.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT))
        start = -(-self._at // alignment) * alignment
        if start + max(ends, default=0) > len(self._data):
            raise ValueError("tensors lie beyond the end of the file")
        return values

    def _scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value

    def _string(self) -> str:
        length = self._scalar("<Q")
        text = self._data[self._at : self._at + length].decode()
        self._at += length
        return text

    def _value(self) -> Any:
        kind = GGUFValueType(self._scalar("<I"))
        if kind == GGUFValueType.STRING:
            return self._string()
        if kind != GGUFValueType.ARRAY:
            return self._scalar(_SCALARS[kind])
        kind, count = GGUFValueType(self._scalar("<I")), self._scalar("<Q")
        if kind == GGUFValueType.STRING:
            for _ in range(count):
                length = self._scalar("<Q")
                self._at += length
        else:
            self._at += count * struct.calcsize(_SCALARS[kind])
        return None

    def _tensor_end(self) -> int:
        """Read one tensor's entry: where its last byte lies, counted from where tensors start."""
        self._string()
        weights = 1
        for _ in range(self._scalar("<I")):
            weights *= self._scalar("<Q")
        block, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType(self._scalar("<I"))]
        return self._scalar("<Q") + weights // block * size
