"""Matrices in 4 or 8 bits, as ONNX Runtime's `MatMulNBits` and `GatherBlockQuantized` read them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "Blocks", "from_blocks", "to_blocks"]

BLOCK = 32
"""Numbers of a row that share a scale."""
_SHRINK = np.linspace(1.0, 0.7, 7, dtype=np.float32)
"""Factors tried for the scale of a block in 4 bits: clipping its largest number can lower the error of the others."""
_ROWS = 4096
"""Rows that are rounded at once, which limits memory."""


class Blocks(NamedTuple):
    """`numbers` [rows, blocks, 32 * bits / 8] and `scales` [rows, blocks]: a number n stands for scale (n - 2^(bits-1)).

    In 4 bits, the first of two numbers is in the lower half of a byte.
    """

    numbers: NDArray[np.uint8]
    scales: NDArray[np.float32]


def to_blocks(matrix: NDArray[np.float32], bits: int) -> Blocks:
    """Round a matrix [rows, width] to 4 or 8 bits; the last block of each row is filled with zeros."""
    parts = [_round(matrix[start : start + _ROWS], bits) for start in range(0, len(matrix), _ROWS)]
    return Blocks(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def from_blocks(blocks: Blocks, bits: int, width: int) -> NDArray[np.float32]:
    """Return the matrix [rows, width] that rounded blocks stand for."""
    numbers, scales = blocks
    if bits == 4:
        numbers = np.stack([numbers & 15, numbers >> 4], -1).reshape(*scales.shape, BLOCK)
    stood = (numbers.astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]
    matrix: NDArray[np.float32] = stood.reshape(len(scales), -1)[:, :width]
    return np.ascontiguousarray(matrix)


def _round(matrix: NDArray[np.float32], bits: int) -> Blocks:
    rows, width = matrix.shape
    blocks = np.pad(matrix, ((0, 0), (0, -width % BLOCK))).reshape(rows, -1, BLOCK)
    if bits == 8:
        scales = np.abs(blocks).max(-1) / 127
        return Blocks(_numbers(blocks, scales, 8), scales.astype(np.float32))
    scales = _best_scales(blocks)
    numbers = _numbers(blocks, scales, 4)
    return Blocks((numbers[..., ::2] | numbers[..., 1::2] << 4).astype(np.uint8), scales)


def _best_scales(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scales of least squared error among those that give the number of greatest size -8, and smaller ones."""
    greatest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    best, least = greatest / -8, np.full(greatest.shape, np.inf, np.float32)
    for factor in _SHRINK:
        scales = greatest / -8 * factor
        rounded = (_numbers(blocks, scales, 4).astype(np.float32) - 8) * scales[..., None]
        error = np.square(rounded - blocks).sum(-1)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best.astype(np.float32)


def _numbers(blocks: NDArray[np.float32], scales: NDArray[np.float32], bits: int) -> NDArray[np.uint8]:
    zero = 2 ** (bits - 1)
    numbers: NDArray[np.float32] = np.rint(blocks / np.where(scales == 0, 1, scales)[..., None]) + zero
    return numbers.clip(0, 2 * zero - 1).astype(np.uint8)
