"""Intra frames to bits and back, block by block, in whole numbers.

Blocks of 8x8 luma samples and the 4x4 of U and of V at their place come row by row. Every bit has its chance from
contexts that vote (`codec.bit_mixing`); they begin as training left them (`codec.intra.start`) and learn. A block's
syntax, with what each bit's contexts see:

1. is luma split in 4x4 quarters? (left and upper block's splits, how busy both are, the QP)
2. luma, whole or quarter by quarter: the mode, 5 bits (left and upper mode); its symbols; then its samples are rebuilt,
   and the next quarter is predicted from them
3. chroma: is it predicted from luma, or else by which mode? (left block's chroma mode, luma's mode)
4. U's symbols, V's symbols

A mode is a learned matrix that makes a prediction of the samples around (`codec.intra.prediction_kernels`). What is
left is transformed (`codec.lifting`) and divided by the step; the quotients are the symbols, coded by diagonals:

- before each diagonal: does the block end here? (what left and upper block have from this diagonal on, and where they
  end; what the block has so far, and in the last two diagonals; the mode)
- a symbol's magnitude: above 0, above 1 … above 5? The rest by Exp-Golomb. (the same frequency in the blocks around;
  next higher ones, or for chroma luma's and U's; its neighbours in the block; the symbols before; the mode; the QP)
- a sign, where it is not zero (of the same frequency in left and upper block, of its neighbours, of luma or U; the
  mode)

Where the model says so, a block's step follows the contrast of the decoded blocks next to it
(`codec.intra.frame_kernels`). docs/brl.md has all of it to the last digit. The encoder picks modes and symbols by what
they cost with the chances as they stand, and by the squared error (`codec.intra.plan_kernels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.bit_mixing import Mixer
from codec.entropy_coding import SymbolDecoder
from codec.intra.start import learned_mixer, mode_matrices
from codec.intra.transform_kernels import transform_tables

Planes = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
_ROOM = 12  # intervals a luma sample, to begin with


@lru_cache
def scans() -> tuple[NDArray[np.int64], ...]:
    """Of 8x8 and of 4x4 blocks: frequencies by diagonal and then row by row, and each one's diagonal."""
    found = []
    for size in (8, 4):
        order = sorted(range(size * size), key=lambda k: (k // size + k % size, k))
        found += [np.array(order, np.int64), np.array([k // size + k % size for k in order], np.int64)]
    return tuple(found)


@lru_cache
def _costs() -> NDArray[np.float64]:
    """Bits of what has a chance of n of 4096."""
    return np.asarray(np.minimum(-np.log2((np.arange(4097) + 0.5) / 4096), 12))


@lru_cache
def _prices() -> NDArray[np.float64]:
    """About what a coefficient of n/16 steps costs, rate and distortion: the motion search's estimate."""
    steps = np.arange(4096) / 16
    return np.where(steps < 0.7, 7.5 * steps**2, 3.7 + 1.3 * np.log2(np.maximum(steps, 0.7) / 0.7))


@dataclass(frozen=True)
class IntraSettings:
    """How an intra frame is coded. qp: 0..62. steps: (QPs, 2) int64, luma's and chroma's in 16ths of a sample value.

    activity: how far steps follow the contrast around, in 16ths; 0 for equal steps.
    """

    qp: int
    steps: NDArray[np.int64]
    activity: int = 0


def code_planes(
    source: Planes,
    out: Planes,
    given: tuple[Any, ...],
    settings: IntraSettings,
    mixer: Mixer,
    modes: tuple[NDArray[np.int16], NDArray[np.int16]],
) -> int:
    """Run `code_intra_frame`, which see; gives the number of intervals. The mixer goes on learning."""
    from codec.intra.frame_kernels import code_intra_frame

    numbers = settings.steps, np.int64(settings.qp), np.int64(settings.activity)
    learned = scans(), modes, transform_tables(), _costs(), _prices()
    return int(code_intra_frame(source, out, given, mixer.parts(), *numbers, *learned))


def encode_intra(planes: Planes, settings: IntraSettings) -> tuple[NDArray[np.uint32], Planes]:
    """Code Y (H, W), U, V (H/2, W/2) int32 samples 0..255, H and W multiples of 8.

    Gives the intervals for `SymbolEncoder.encode_intervals`, and the planes as a decoder will have them.
    """
    # Another layout would have the kernel compiled anew.
    source = tuple(np.ascontiguousarray(plane, np.int32) for plane in planes)
    planes = source[0], source[1], source[2]
    out = (np.zeros_like(planes[0]), np.zeros_like(planes[1]), np.zeros_like(planes[2]))
    room = _ROOM * planes[0].size
    while True:
        intervals = np.empty(room, np.uint32)
        given = (False, intervals, np.zeros(0, np.uint16), np.zeros(2, np.uint64))
        used = code_planes(planes, out, given, settings, learned_mixer(), mode_matrices())
        if used <= room:
            return intervals[:used].copy(), out
        room = used


def decode_intra(coder: SymbolDecoder, height: int, width: int, settings: IntraSettings) -> Planes:
    """The planes that `encode_intra` gave, from a packet. Any bytes at all give some picture."""
    half = height // 2, width // 2
    out = (np.zeros((height, width), np.int32), np.zeros(half, np.int32), np.zeros(half, np.int32))
    none = np.zeros(0, np.uint32)

    def run(words: NDArray[np.uint16], state: NDArray[np.uint64]) -> int:
        return code_planes(out, out, (True, none, words, state), settings, learned_mixer(), mode_matrices())

    coder.run(run)
    return out
