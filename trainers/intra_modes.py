"""Intra modes learned from footage: matrices that say a block's samples by those around it.

Alternating least squares, as k-means goes: every block takes the mode that makes it cheapest, then every mode is fitted
to the blocks that took it. What a block costs is judged on its DCT coefficients at a step that is drawn for it, so that
the modes serve coarse and fine coding alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.errors import UsageError
from codec.intra.block_kernels import MODES, predict_quarter, predict_whole
from codec.intra.prediction_kernels import fill_context
from codec.intra.start import CONTEXT_SIZES
from codec.lifting import dct_matrix

UNITS = 1024  # of a matrix's entries
FEWEST_BLOCKS = 40 * MODES  # to learn from
_NOISE = (0.0, 0.5, 1.0, 2.0)  # half widths of the noise that stands for the coding of the samples around
_FLAT = {8: 1.5, 4: 1.0}  # standard deviation of blocks that any mode does for
_STEPS = {8: (1.5, 3.0, 6.0, 12.0), 4: (1.0, 2.0, 4.0, 8.0)}
_FEWEST_TAKEN = 100  # blocks, or a mode stays as it is
_MODE_BITS = 0.7  # how far a mode's own bits count: its neighbours tell a part of them
_AT_ONCE = 8192  # blocks, to bound memory

Planes = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
Matrices = NDArray[np.float32]
Progress = Callable[[str], None]


class _Room(NamedTuple):
    """The part of `codec.intra.block_kernels.Tools` that filling a context takes."""

    context: Any


@dataclass(frozen=True)
class Blocks:
    """Blocks of one size, less the mean of what lies beside them: contexts (n, CONTEXT_SIZES[size]) and samples
    (n, size²), float32."""

    size: int
    contexts: NDArray[np.float32]
    samples: NDArray[np.float32]


def context_places(size: int) -> NDArray[np.int64]:
    """(row, column) of each value of a context, from the block's first sample: found by asking the codec."""
    side, top = 64, 24
    rows, columns = np.mgrid[:side, :side].astype(np.int32)
    found = np.zeros((2, 64), np.int32)
    for axis, plane in enumerate((rows, columns)):
        mean = fill_context(plane, top, top, size, True, found[axis])
        found[axis] += np.int32(mean) - top
    return found[:, : CONTEXT_SIZES[size]].T.astype(np.int64)


def collect_blocks(pictures: Iterable[Planes], size: int, per_plane: int, draw: np.random.Generator) -> Blocks:
    """Blocks at random places of pictures, with what a decoder would know around them, noise added.

    Size 8: of luma. Size 4: quarters of luma's blocks, and a third as many of U and of V. Blocks that are all but flat
    are left out. Raises UsageError where fewer than FEWEST_BLOCKS are left.
    """
    room = _Room(np.zeros(64, np.int32))
    contexts, samples = [], []
    for picture in pictures:
        for number, plane in enumerate(picture[: 1 if size == 8 else 3]):
            strength = draw.choice(_NOISE)
            noise = draw.uniform(-2, 2, plane.shape) * strength
            around = np.clip(np.rint(plane + noise), 0, 255).astype(np.int32)
            side = 4 if number else 8  # of the grid that the frame is coded on
            for _ in range(max(per_plane // 3, 1) if number else per_plane):
                by, bx = (int(draw.integers(0, n // side)) for n in plane.shape)
                top, left = by * side, bx * side
                if number:
                    mean = fill_context(around, top, left, 4, left + 4 < plane.shape[1], room.context)
                elif size == 8:
                    mean = predict_whole(around, by, bx, room)
                else:
                    sub = int(draw.integers(0, 4))
                    top, left = top + 4 * (sub >> 1), left + 4 * (sub & 1)
                    mean = predict_quarter(around, by, bx, sub, room)
                block = plane[top : top + size, left : left + size]
                if block.std() > _FLAT[size]:
                    contexts.append(room.context[: CONTEXT_SIZES[size]].copy())
                    samples.append((block - mean).reshape(-1))
    if len(samples) < FEWEST_BLOCKS:
        raise UsageError(
            f"{len(samples)} blocks of {size}x{size} with any detail in them, {FEWEST_BLOCKS} are the least to learn "
            "modes from; ingest more videos, or take more pictures"
        )
    return Blocks(size, np.array(contexts, np.float32), np.array(samples, np.float32))


def angular_modes(size: int) -> Matrices:
    """What learning begins with, (MODES, size², context): mean, a plane, and directions from the left to the upper
    right."""
    places = {(int(row), int(column)): n for n, (row, column) in enumerate(context_places(size))}
    found = np.zeros((MODES, size * size, len(places)), np.float32)
    far, last = size - 1, 2 * size - 1
    for p in range(size * size):
        y, x = divmod(p, size)
        for i in range(size):
            found[0, p, places[-1, i]] += 1 / (2 * size)
            found[0, p, places[i, -1]] += 1 / (2 * size)
        found[1, p, places[y, -1]] += (far - x) / (2 * size)
        found[1, p, places[-1, size]] += (x + 1) / (2 * size)
        found[1, p, places[-1, x]] += (far - y) / (2 * size)
        found[1, p, places[far, -1]] += (y + 1) / (2 * size)
        for mode in range(2, MODES):
            angle = math.pi * (1.02 - (mode - 1.5) / (MODES - 2) * 0.79)
            across, down = math.cos(angle), -math.sin(angle)  # towards the sample that is repeated
            reached = x + (y + 1) / -down * across if down < -1e-6 else -math.inf
            if reached >= -1 or across > -1e-6:  # in the row above
                place = min(reached, last) if reached >= -1 else last
                first, share = math.floor(place), place - math.floor(place)
                ends = (-1, first), (-1, min(first + 1, last))
            else:  # in the column to the left
                place = min(max(y + (x + 1) / -across * down, -1), far)
                first, share = math.floor(place), place - math.floor(place)
                ends = (first, -1), (min(first + 1, far), -1)
            found[mode, p, places[ends[0]]] += 1 - share
            found[mode, p, places[ends[1]]] += share
    return found


def learn_modes(blocks: Blocks, rounds: int, draw: np.random.Generator, progress: Progress) -> NDArray[np.int16]:
    """(MODES, size², context) int16 in 1024ths, for `codec.intra.start`."""
    modes = angular_modes(blocks.size)
    one = dct_matrix(blocks.size)
    transform = np.kron(one, one).astype(np.float32)
    count = len(blocks.samples)
    steps = draw.choice(np.array(_STEPS[blocks.size], np.float32), count)[:, None]
    taken = np.full(MODES, count // MODES)
    for number in range(rounds):
        costs = np.stack([_costs(blocks, mode, transform, steps) for mode in modes])
        mode_bits = -np.log2(np.maximum(taken, 1) / taken.sum())
        chosen = (costs + _MODE_BITS * mode_bits[:, None]).argmin(0)
        taken = np.bincount(chosen, minlength=MODES)
        best, plain = costs.min(0).mean(), costs[0].mean()
        progress(f"modes {blocks.size}x{blocks.size}: round {number + 1} of {rounds}, {best:.2f} beside {plain:.2f}")
        for mode in range(MODES):
            own = chosen == mode
            if taken[mode] >= _FEWEST_TAKEN:
                modes[mode] = _fitted(modes[mode], blocks.contexts[own], blocks.samples[own], steps[own])
    return np.clip(np.rint(modes * UNITS), -32768, 32767).astype(np.int16)


def _costs(blocks: Blocks, mode: NDArray[Any], transform: NDArray[Any], steps: NDArray[Any]) -> NDArray[np.float32]:
    """About the bits of each block, (n,)."""
    found = np.empty(len(blocks.samples), np.float32)
    for start in range(0, len(found), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        coefficients = (blocks.samples[part] - blocks.contexts[part] @ mode.T) @ transform.T
        found[part] = np.log2(1 + (np.abs(coefficients) / steps[part]) ** 1.5).sum(1)
    return found


def _fitted(
    mode: NDArray[np.float32], contexts: NDArray[np.float32], samples: NDArray[np.float32], steps: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The mode that predicts these blocks best, drawn towards what it was; blocks it does badly at count for less."""
    rest = samples - contexts @ mode.T
    weights = (1 / (rest.var(1, keepdims=True) + steps**2 / 6)).astype(np.float64)
    inputs = contexts.astype(np.float64)
    drawn = weights.sum() * np.eye(inputs.shape[1])
    left = (inputs * weights).T @ inputs + drawn
    right = (inputs * weights).T @ samples + drawn @ mode.T
    return np.asarray(np.linalg.solve(left, right).T, np.float32)
