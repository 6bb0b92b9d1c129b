"""Vectors to symbols and back: split flags, which vectors are as predicted, and how the others differ.

A vector is predicted by the median of its left, upper and upper right neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.distributions import SCALE_COUNT, ideal_bits_table
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import StreamError
from codec.motion_search import Motion

_ROUNDING = 0.5
_LARGEST_VECTOR = 1 << 14  # quarter samples; beyond it a stream is not sound
Vector = tuple[int, int]


def encode_motion(coder: SymbolEncoder, motion: Motion) -> None:
    """Code one frame's motion (batch of one) into the packet."""
    split = motion.split[0].cpu().numpy()
    walked = _Walk(split).differences(motion.vectors[0].cpu().numpy())
    differences: NDArray[np.int32] = np.array(walked, np.int32).reshape(-1, 2)
    _encode_scaled(coder, split.reshape(-1).astype(np.int32))
    # Most vectors are just as predicted. Told apart first, they do not suffer from the few large differences.
    moved: NDArray[np.bool_] = np.any(differences != 0, axis=1)
    _encode_scaled(coder, moved.astype(np.int32))
    for axis in range(2):
        _encode_scaled(coder, np.ascontiguousarray(differences[moved, axis]))


def decode_motion(coder: SymbolDecoder, rows: int, columns: int) -> Motion:
    """Read one frame's motion for a grid of rows x columns 16x16 blocks. Raises StreamError on impossible values."""
    split = _decode_flags(coder, rows * columns).reshape(rows, columns)
    moved = _decode_flags(coder, rows * columns + 3 * int(split.sum()))
    differences = np.zeros((len(moved), 2), np.int32)
    for axis in range(2):
        differences[moved, axis] = _decode_scaled(coder, int(moved.sum()))
    vectors = _Walk(split).vectors(differences)
    if np.abs(vectors).max(initial=0) > _LARGEST_VECTOR:
        raise StreamError("damaged stream: a motion vector points far outside the picture")
    return Motion(torch.from_numpy(vectors)[None], torch.from_numpy(split)[None])


def _encode_scaled(coder: SymbolEncoder, symbols: NDArray[np.int32]) -> None:
    """Code symbols with the one scale that suits them best; the scale goes first."""
    magnitudes = np.abs(symbols)
    costs = ideal_bits_table(_ROUNDING)[1:, np.minimum(magnitudes, 1000)].sum(1)
    index = int(np.argmin(costs)) + 1 if magnitudes.any() else 0
    coder.encode_uniform(index, SCALE_COUNT)
    coder.encode(symbols, np.full(len(symbols), index), _ROUNDING)


def _decode_scaled(coder: SymbolDecoder, count: int) -> NDArray[np.int32]:
    index = coder.decode_uniform(SCALE_COUNT)
    return coder.decode(np.full(count, index), _ROUNDING)


def _decode_flags(coder: SymbolDecoder, count: int) -> NDArray[np.bool_]:
    flags = _decode_scaled(coder, count)
    if ((flags != 0) & (flags != 1)).any():
        raise StreamError("damaged stream: a flag is neither 0 nor 1")
    return flags.astype(bool)


class _Walk:
    """Goes over the blocks in coding order and keeps the vectors known so far."""

    def __init__(self, split: NDArray[np.bool_]) -> None:
        self.rows, self.columns = split.shape
        # (row, column, size) in 8x8 blocks: whole 16x16 blocks, or their four quarters.
        self.blocks: list[tuple[int, int, int]] = []
        for r, line in enumerate(split.tolist()):
            for c, divided in enumerate(line):
                if divided:
                    self.blocks += [(2 * r + i, 2 * c + j, 1) for i in range(2) for j in range(2)]
                else:
                    self.blocks.append((2 * r, 2 * c, 2))
        # A border of zeros on top, left and right saves asking for the edge at each block.
        self.known: list[list[Vector | None]] = [
            [(0, 0)] + [None] * (2 * self.columns) + [(0, 0)] for _ in range(2 * self.rows + 1)
        ]
        self.known[0] = [(0, 0)] * (2 * self.columns + 2)

    def _predict(self, r: int, c: int, size: int) -> Vector:
        left, up = self.known[r + 1][c], self.known[r][c + 1]
        corner = self.known[r][min(c + 1 + size, 2 * self.columns + 1)]
        if corner is None:  # not coded yet: the upper left stands in
            corner = self.known[r][c]
        assert left is not None and up is not None and corner is not None
        return sorted((left[0], up[0], corner[0]))[1], sorted((left[1], up[1], corner[1]))[1]

    def _learn(self, r: int, c: int, size: int, vector: Vector) -> None:
        for i in range(size):
            for j in range(size):
                self.known[r + 1 + i][c + 1 + j] = vector

    def differences(self, vectors: NDArray[np.int64]) -> list[Vector]:
        """vectors (2, 2·rows, 2·columns) → one difference a block."""
        down, across = vectors.tolist()
        found = []
        for r, c, size in self.blocks:
            predicted = self._predict(r, c, size)
            vector = (down[r][c], across[r][c])
            self._learn(r, c, size, vector)
            found.append((vector[0] - predicted[0], vector[1] - predicted[1]))
        return found

    def vectors(self, differences: NDArray[np.int32]) -> NDArray[np.int64]:
        """The inverse of `differences`."""
        for (r, c, size), (dy, dx) in zip(self.blocks, differences.tolist(), strict=True):
            predicted = self._predict(r, c, size)
            self._learn(r, c, size, (predicted[0] + dy, predicted[1] + dx))
        inner = [line[1:-1] for line in self.known[1:]]
        return np.array(inner, np.int64).reshape(2 * self.rows, 2 * self.columns, 2).transpose(2, 0, 1).copy()


def estimate_motion_bits(motion: Motion) -> Tensor:
    """About what `encode_motion` will take for each frame of a batch, in bits (N,), for training's accounts."""
    bits = []
    for n in range(len(motion.split)):
        coder = SymbolEncoder()
        encode_motion(coder, Motion(motion.vectors[n : n + 1], motion.split[n : n + 1]))
        bits.append(coder.estimated_bits)
    return torch.tensor(bits, dtype=torch.float32)
