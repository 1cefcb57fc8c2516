"""The quantizers: llama.cpp's own, and the numpy one that stands in for it."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.student.gguf_quantizations import QUANTIZATIONS, quantization_named
from nanodistill_mcp.student.quantize import Quantizer, passes_self_test, row_bytes, tensor_types

K_QUANTS = [Type.Q4_K, Type.Q5_K, Type.Q6_K]
PLAIN_BLOCKS = [Type.Q8_0, Type.Q4_0, Type.Q5_0, Type.Q5_1]


def _weights(rows: int = 256, columns: int = 1024) -> np.ndarray:
    """Rows of very different scale, and the awkward ones: zeros, one value, one sign, hardly anything."""
    random = np.random.default_rng(1)
    spread = np.exp(random.standard_normal((rows, 1)))
    weights = (random.standard_normal((rows, columns)) * spread).astype(np.float32)
    weights[0] = 0
    weights[1, :256] = 1
    weights[2, :256] = -3
    weights[3, :32] = 0
    weights[4] = np.abs(weights[4])
    weights[5, :256] = 1e-30
    return weights


def _error(weights: np.ndarray, blocks: np.ndarray, kind: Type) -> float:
    return float(np.sqrt(np.mean((gguf.dequantize(blocks, kind) - weights) ** 2)))


def test_llama_cpps_own_quantizer_is_found_and_passes_its_check() -> None:
    """The symbol is not a promise of the package: if it went away, exports would silently be three times slower."""
    quantizer = Quantizer()

    assert quantizer.kind == "ggml"
    assert passes_self_test(quantizer)


def test_the_numpy_quantizer_passes_the_same_check() -> None:
    """It takes over on a machine where the library does not load."""
    assert passes_self_test(Quantizer("numpy"))


def test_a_quantizer_that_writes_nonsense_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose function changed its meaning must not write anyone's model."""

    def zeros(self: Quantizer, rows: np.ndarray, to: Type) -> np.ndarray:
        del self
        return np.zeros((len(rows), row_bytes(rows.shape[1], to)), np.uint8)

    monkeypatch.setattr(Quantizer, "encode", zeros)

    assert Quantizer().kind == "numpy"
    with pytest.raises(RuntimeError):
        Quantizer("ggml")


@pytest.mark.parametrize("kind", PLAIN_BLOCKS)
def test_simple_types_are_the_same_bytes_in_both(kind: Type) -> None:
    """These leave nothing to choose, so a difference is a mistake in how the function is called."""
    weights = _weights()

    assert np.array_equal(Quantizer("ggml").encode(weights, kind), Quantizer("numpy").encode(weights, kind))


@pytest.mark.parametrize("kind", K_QUANTS)
def test_numpy_k_quants_are_as_close_as_llama_cpps(kind: Type) -> None:
    """The same search in another summing order: nearly all blocks equal, the error equal."""
    weights = _weights()
    block_bytes = gguf.GGML_QUANT_SIZES[kind][1]

    ours = Quantizer("numpy").encode(weights, kind)
    theirs = Quantizer("ggml").encode(weights, kind)

    same = (ours.reshape(-1, block_bytes) == theirs.reshape(-1, block_bytes)).all(axis=1).mean()
    assert same > 0.95
    assert _error(weights, ours, kind) == pytest.approx(_error(weights, theirs, kind), rel=2e-3)
    assert not gguf.dequantize(ours, kind)[0].any(), "a row of zeros stays one"


@pytest.mark.parametrize("rows", [1, 2, 3, 17])
def test_rows_are_shared_out_among_threads_without_loss(rows: int) -> None:
    """The last share is shorter than the others."""
    weights = _weights()[:rows].copy()
    quantizer = Quantizer("ggml")

    together = quantizer.encode(weights, Type.Q4_K)

    one_by_one = [quantizer.encode(weights[i : i + 1].copy(), Type.Q4_K) for i in range(rows)]
    assert np.array_equal(together, np.concatenate(one_by_one))


def _shapes(layers: int, columns: int, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (1000, columns), "output_norm.weight": (columns,)}
    if not tied:
        shapes["output.weight"] = (1000, columns)
    for layer in range(layers):
        for part in ("attn_q", "attn_v", "ffn_up", "ffn_down"):
            shapes[f"blk.{layer}.{part}.weight"] = (64, columns)
        shapes[f"blk.{layer}.attn_q.bias"] = (64,)
        shapes[f"blk.{layer}.attn_norm.weight"] = (columns,)
    return shapes


def test_four_bits_spend_more_where_llama_cpp_found_it_matters() -> None:
    """Output, and values and down projections of the first and last eighth and every third layer between."""
    types = tensor_types(_shapes(16, 512), QUANTIZATIONS["Q4_K_M"])

    finer = {int(name.split(".")[1]) for name, kind in types.items() if "attn_v" in name and kind == Type.Q6_K}
    assert finer == {0, 1, 4, 7, 10, 13, 14, 15}
    assert {int(n.split(".")[1]) for n, kind in types.items() if "ffn_down" in n and kind == Type.Q6_K} == finer
    assert types["output.weight"] == Type.Q6_K
    assert types["token_embd.weight"] == types["blk.3.attn_q.weight"] == types["blk.0.ffn_up.weight"] == Type.Q4_K
    assert types["blk.0.attn_q.bias"] == types["output_norm.weight"] == Type.F32


def test_the_small_mix_spends_more_on_the_first_layers_only() -> None:
    """llama.cpp's Q4_K_S: values of four layers and down projections of an eighth in five bits."""
    types = tensor_types(_shapes(16, 512), QUANTIZATIONS["Q4_K_S"])

    finer = {name for name, kind in types.items() if kind == Type.Q5_K}
    assert finer == {f"blk.{layer}.attn_v.weight" for layer in range(4)} | {
        f"blk.{layer}.ffn_down.weight" for layer in range(2)
    }
    assert types["output.weight"] == Type.Q6_K
    assert types["blk.4.attn_v.weight"] == types["token_embd.weight"] == Type.Q4_K


def test_a_tied_embedding_is_stored_as_the_output_it_is() -> None:
    """llama.cpp multiplies by it last, where rounding shows most."""
    assert tensor_types(_shapes(2, 512, tied=True), QUANTIZATIONS["Q4_K_M"])["token_embd.weight"] == Type.Q6_K


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        ("Q4_K_M", 512, Type.Q4_K),
        ("Q4_K_M", 96, Type.Q5_0),
        ("Q5_K_M", 96, Type.Q5_1),
        ("Q4_K_S", 96, Type.Q5_0),
        ("Q6_K", 96, Type.Q8_0),
        ("Q4_0", 96, Type.Q4_0),
        ("Q4_0", 40, Type.F16),
        ("Q8_0", 40, Type.F16),
        ("Q4_K_M", 40, Type.F16),
        ("F16", 40, Type.F16),
        ("BF16", 512, Type.BF16),
    ],
)
def test_rows_that_do_not_fill_blocks_get_a_type_that_fits(name: str, columns: int, expected: Type) -> None:
    """Small students have rows no multiple of 256 or 32; the nearest type with room for them is never a coarser one."""
    assert tensor_types(_shapes(2, columns), QUANTIZATIONS[name])["blk.0.attn_q.weight"] == expected


def test_a_quantization_that_is_not_offered_is_answered_with_those_that_are() -> None:
    """An agent that guessed a name can choose from the reply; case does not matter."""
    assert quantization_named(" q4_k_m ").name == "Q4_K_M"
    with pytest.raises(UserInputError, match="F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_K_S, Q4_0"):
        quantization_named("IQ2_XXS")
