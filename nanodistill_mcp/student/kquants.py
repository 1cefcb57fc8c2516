"""Q4_K, Q5_K and Q6_K blocks in numpy: the fallback where llama.cpp's own quantizer cannot be called.

The search (per group of weights, a few trial scales, each refined by weighted least squares) and the block layouts are
llama.cpp's (MIT licence, ggml-quants.c); the code is our own, over all blocks at once. It reaches ggml's error to four
digits at about a third of its speed; some blocks differ in bytes because sums are taken in another order.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

SUPER_BLOCK = 256
_SUPER_BLOCKS_AT_ONCE = 2048
_TINY = np.float32(1e-15)


def q4_k(weights: Floats) -> Bytes:
    """Quantize rows to Q4_K: (rows, 256·n) float32 to (rows, 144·n) bytes."""
    return _by_chunks(weights, 144, _q4_k_blocks)


def q5_k(weights: Floats) -> Bytes:
    """Quantize rows to Q5_K: (rows, 256·n) float32 to (rows, 176·n) bytes."""
    return _by_chunks(weights, 176, _q5_k_blocks)


def q6_k(weights: Floats) -> Bytes:
    """Quantize rows to Q6_K: (rows, 256·n) float32 to (rows, 210·n) bytes."""
    return _by_chunks(weights, 210, _q6_k_blocks)


def _by_chunks(weights: Floats, block_bytes: int, encode: Callable[[Floats], Bytes]) -> Bytes:
    rows = weights.shape[0]
    blocks = weights.reshape(-1, SUPER_BLOCK)
    out = np.empty((len(blocks), block_bytes), np.uint8)
    for start in range(0, len(blocks), _SUPER_BLOCKS_AT_ONCE):
        chunk = slice(start, start + _SUPER_BLOCKS_AT_ONCE)
        out[chunk] = encode(blocks[chunk])
    return out.reshape(rows, -1)


def _q4_k_blocks(blocks: Floats) -> Bytes:
    head, levels = _affine_groups(blocks, top=15, first_shift=-1.0, trials=20)
    pairs = levels.reshape(-1, 4, 2, 32)
    return np.concatenate([head, (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)], axis=1, dtype=np.uint8)


def _q5_k_blocks(blocks: Floats) -> Bytes:
    head, levels = _affine_groups(blocks, top=31, first_shift=-0.5, trials=15)
    low = (levels & 15).reshape(-1, 4, 2, 32)
    high = (levels >> 4).reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    return np.concatenate(
        [head, np.bitwise_or.reduce(high, axis=1), (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)],
        axis=1,
        dtype=np.uint8,
    )


def _affine_groups(blocks: Floats, *, top: int, first_shift: float, trials: int) -> tuple[Bytes, Bytes]:
    """Eight groups of 32 a block, each ``scale · level - min``; scales and mins in six bits of a half-precision step.

    Returns:
        The 16 bytes every block starts with, and the levels (blocks, 256).
    """
    groups = blocks.reshape(-1, 32)
    scale, minimum, levels = _fit_scale_and_min(groups, top, first_shift, trials)
    scale, minimum = scale.reshape(-1, 8), minimum.reshape(-1, 8)
    scale_bits, scale_step = _six_bits(scale)
    min_bits, min_step = _six_bits(minimum)
    step = (scale_step.astype(np.float32)[:, None] * scale_bits).reshape(-1, 1)
    offset = (min_step.astype(np.float32)[:, None] * min_bits).reshape(-1, 1)
    # A group whose stored scale is zero keeps the levels of the search, as in ggml: nothing divides by its step.
    again = np.rint((groups + offset) / np.where(step == 0, np.float32(1), step)).clip(0, top).astype(np.uint8)
    levels = np.where(step == 0, levels, again)
    steps = np.stack([scale_step, min_step], axis=1).view(np.uint8)
    return np.concatenate([steps, _pack_six_bits(scale_bits, min_bits)], axis=1), levels.reshape(-1, SUPER_BLOCK)


def _six_bits(values: Floats) -> tuple[Bytes, npt.NDArray[np.float16]]:
    """Store eight non-negative values as multiples 0..63 of a half-precision step."""
    largest = values.max(axis=1, keepdims=True)
    inverse = np.divide(np.float32(63), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(inverse * values).clip(0, 63).astype(np.uint8), (largest[:, 0] / 63).astype(np.float16)


def _pack_six_bits(scales: Bytes, mins: Bytes) -> Bytes:
    """Pack eight six-bit scales and eight six-bit mins into twelve bytes: the last four lend their top bits."""
    return np.concatenate(
        [
            scales[:, :4] | (scales[:, 4:] >> 4) << 6,
            mins[:, :4] | (mins[:, 4:] >> 4) << 6,
            (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4,
        ],
        axis=1,
        dtype=np.uint8,
    )


def _fit_scale_and_min(x: Floats, top: int, first_shift: float, trials: int) -> tuple[Floats, Floats, Bytes]:
    """For each row find ``x ≈ scale · level - min`` with levels 0..top and min ≥ 0, large weights counting more."""
    weight = np.sqrt(np.mean(x * x, axis=1, keepdims=True)) + np.abs(x)
    low = np.minimum(x.min(axis=1), 0)
    high = x.max(axis=1)
    flat = high <= low
    weight_sum, x_sum = weight.sum(axis=1), (weight * x).sum(axis=1)

    def levels_at(inverse: Floats, minimum: Floats) -> Floats:
        return np.rint(inverse[:, None] * (x - minimum[:, None])).clip(0, top)

    def error_of(scale: Floats, minimum: Floats, levels: Floats) -> Floats:
        difference = scale[:, None] * levels + minimum[:, None] - x
        return (weight * difference * difference).sum(axis=1)

    with np.errstate(divide="ignore", invalid="ignore"):
        scale, minimum = np.where(flat, 0, (high - low) / np.float32(top)), low
        levels = levels_at(np.where(flat, 0, 1 / scale), minimum)
        error = error_of(scale, minimum, levels)
        for trial in range(trials + 1):
            inverse = np.where(flat, 0, np.float32(first_shift + 0.1 * trial + top) / (high - minimum))
            candidate = levels_at(inverse, minimum)
            level_sum = (weight * candidate).sum(axis=1)
            square_sum = (weight * candidate * candidate).sum(axis=1)
            product_sum = (weight * candidate * x).sum(axis=1)
            determinant = weight_sum * square_sum - level_sum * level_sum
            new_scale = (weight_sum * product_sum - x_sum * level_sum) / determinant
            new_min = (square_sum * x_sum - level_sum * product_sum) / determinant
            positive = new_min > 0
            new_scale = np.where(positive, product_sum / square_sum, new_scale)
            new_min = np.where(positive, np.float32(0), new_min)
            new_error = error_of(new_scale, new_min, candidate)
            better = (determinant > 0) & (new_error < error) & ~flat
            levels = np.where(better[:, None], candidate, levels)
            scale, minimum = np.where(better, new_scale, scale), np.where(better, new_min, minimum)
            error = np.where(better, new_error, error)
    levels[flat] = 0
    return scale.astype(np.float32), -minimum.astype(np.float32), levels.astype(np.uint8)


def _q6_k_blocks(blocks: Floats) -> Bytes:
    groups = blocks.reshape(-1, 16)
    scale, levels = _fit_scale(groups, half=32, trials=9)
    scale = scale.reshape(-1, 16)
    peak = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)
    empty = np.abs(peak) < _TINY
    inverse = np.divide(np.float32(-128), peak, out=np.zeros_like(peak), where=~empty)
    step = np.divide(np.float32(1), inverse, out=np.zeros_like(peak), where=~empty).astype(np.float16)
    scale_bits = np.rint(inverse * scale).clip(-128, 127).astype(np.int8)
    width = (step.astype(np.float32) * scale_bits).reshape(-1, 1)
    again = np.rint(groups / np.where(width == 0, np.float32(1), width)).clip(-32, 31)
    chosen = (np.where(width == 0, levels, again) + 32).astype(np.uint8)
    quarters = np.where(empty, 0, chosen.reshape(-1, SUPER_BLOCK)).astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = quarters & 15, quarters >> 4
    low_bits = np.stack([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2)
    high_bits = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return np.concatenate(
        [low_bits.reshape(-1, 128), high_bits.reshape(-1, 64), scale_bits.view(np.uint8), step.view(np.uint8)],
        axis=1,
        dtype=np.uint8,
    )


def _fit_scale(x: Floats, half: int, trials: int) -> tuple[Floats, Floats]:
    """For each row find ``x ≈ scale · level`` with levels -half to half - 1, each weight counting by its square."""
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)
    empty = np.abs(peak) < _TINY
    safe: Floats = np.where(empty, np.float32(1), peak)
    weight = x * x

    def fit(inverse: Floats) -> tuple[Floats, Floats, Floats]:
        levels = np.rint(inverse * x).clip(-half, half - 1)
        return levels, (weight * x * levels).sum(axis=1), (weight * levels * levels).sum(axis=1)

    levels, product, square = fit(np.float32(-half) / safe)
    scale = np.divide(product, square, out=np.zeros_like(product), where=square > 0)
    best = scale * product
    for trial in (*range(-trials, 0), *range(1, trials + 1)):
        candidate, product, square = fit(np.float32(-(half + 0.1 * trial)) / safe)
        better = (square > 0) & (product * product > best * square)
        levels = np.where(better[:, None], candidate, levels)
        scale = np.where(better, np.divide(product, square, out=np.zeros_like(product), where=square > 0), scale)
        best = np.where(better, scale * product, best)
    empty_rows = empty[:, 0]
    levels[empty_rows] = 0
    return np.where(empty_rows, np.float32(0), scale), levels
