"""Motion to bits and back: which blocks are split, where each comes from, and how its vector differs from the others.

Blocks come row by row, 16x16, and where one is split its 8x8 quarters row by row. A block's neighbours are the left
one, the upper one and the corner: upper right, or, for a lower right quarter that has a block to its right, upper left.
What counts of them is the first vector, scaled to the distance in time at hand: v over `of` frames is over d frames
floor((2 · v · d + of) / (2 · of)), at most 2^14 either way. Outside the picture vectors are zero. The median of the
neighbours is taken axis by axis (0: down, 1: across). Their *spread* is the sum over both axes of largest less
smallest, in classes 0, 1-2, 3-16, 17 and more. A block's *place* is 0 for a whole one and 1..4 for quarters. The bits
of a block, each with its context, are:

1. is it split? (0..2: how many of the left and the upper block are)
and then for each vector:
2. with more than one reference: its number, 0 the last frame, as ones and, unless it is the last, a zero
   (223 + 9 where the block is whole + 3 · the ones so far, at most 2, + how many of the left and the upper 8x8 block
   have another reference than 0)
3. is it other than the median? (3 + 3 · (5 · spread class + place) + how many of the left and the upper 8x8 block are)
4. if so: is it the left neighbour's, the upper one's, the corner's? (63 + 3 · (5 · spread class + place) + 0, 1, 2)
   Neighbours equal to the median or to one asked before are left out.
5. if not: for each axis, the difference d from the median. As many ones as |d| has bits, then a zero unless there are
   16 (123 + 8 · set + at most 7, the ones so far; the set is the spread class for axis 0, and 4 + 2 · spread class for
   axis 1, + 1 where axis 0 differs; where it does not, axis 1 must, and its first one is left out); the second bit of
   |d| (219); the lower ones together, as likely one as another; is d negative? (220..222: neighbours' sum less three
   medians is below, at, above zero)
6. with more than one reference: is there a second vector? (241 + 3 where the block is whole + how many of the left and
   the upper 8x8 block have one)
7. if so: its reference as in 2 (247 + 3 · the first reference, at most 3, + the ones so far, at most 2), and its
   difference from the first vector, scaled to its distance, as in 5 (259 + ones for axis 0; 267, or 275 where axis 0
   differs, + ones for axis 1; sign 221)

A context has a chance p of a one, in 65536ths, at first 256 times its byte of `_START`, that rests on n bits, at
first 6. A zero is coded as the interval of
65536 - p from 0, a one as that of p above. Then with w = n + 2 (n before this bit) a one sets p to
min(p + floor((65536 - p) / w), 65504), a zero to max(p - floor(p / w), 32); n grows by one, to 64 at most.
Chances go on from frame to frame, and start anew at each intra frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError, StreamError
from codec.motion import MOST_REFERENCES, NO_SECOND, Motion

CONTEXTS = 283
_START_SEEN = 6
# How often each context's bit is a one in the vectors of real clips at fine to coarse quantization, in 256ths.
_START = bytes.fromhex(
    "0f86cc0721325e859155526285767bd391803660809aa6b8869d96858f9d97a0ac5291aea7d5df86c7cf8dafcea2bbd95cbad7b7e2e78cd9"
    "e486cdd9a8b6e080808080808080808080808080808093779770706671777e6a6f64657e3c543b3d351e153a231e292c1e34401144252630"
    "1d133e201b29271e383410a15979a286709a0cb6482d4e544a4357d18e604f41586029e9debfad8e716c2d80544b8a61452b0f958a84af94"
    "78724180481e2e5d571680ab593a4d63421520807f503f3a0d341dc9a26d5b4d4c531b80cca093953a1727e9e5c3b7916b5e3562a9825405"
    "3fa856432f7b945d0852a25256626c758d03154e07549dff4b5d09fc5e391fa03b7570a7708c9a7e5e56088845577040201008c081a1a885"
    "694e08"
)


_NOTHING: NDArray[np.uint32] = np.zeros(0, np.uint32)


class MotionChances:
    """What the coder has learned: chances (CONTEXTS,) int64 in 65536ths, and the bits each rests on."""

    def __init__(self) -> None:
        self.chances = np.maximum(np.frombuffer(_START, np.uint8).astype(np.int64) << 8, 256)
        self.seen = np.full(CONTEXTS, _START_SEEN)

    def copy(self) -> MotionChances:
        made = MotionChances()
        made.chances, made.seen = self.chances.copy(), self.seen.copy()
        return made

    def prices(self) -> NDArray[np.float32]:
        """Bits of a zero and of a one in each context, (2, CONTEXTS)."""
        one = self.chances / 65536
        return np.stack([-np.log2(1 - one), -np.log2(one)]).astype(np.float32)


def motion_intervals(motion: Motion, distances: Sequence[int], learned: MotionChances) -> NDArray[np.uint32]:
    """The intervals of one frame's motion (batch of one), see `codec.entropy_coding`; `learned` goes on.

    distances: of the references, in frames. Raises BitreelError for motion that can't be coded.
    """
    from codec.motion_kernels import TOO_FAR, code_motion

    blocks, split = motion.blocks[0].cpu().numpy().copy(), motion.split[0].cpu().numpy()
    wide = split.repeat(2, 0).repeat(2, 1)
    if not (wide | (blocks == blocks[:, ::2, ::2].repeat(2, 1).repeat(2, 2))).all():
        raise BitreelError("can't encode: a block that is not split has different vectors in it")
    if max(blocks[2].max(), blocks[5].max()) >= len(distances):
        raise BitreelError("can't encode: a block comes from a frame that is not kept")
    if len(distances) == 1 and blocks[5].max() > NO_SECOND:
        raise BitreelError("can't encode: two vectors need two frames to point to")
    room = 24 * split.size
    while True:
        intervals, trial = np.empty(room, np.uint32), learned.copy()
        used = code_motion(
            False, blocks, split.astype(np.uint8), _as_array(distances), trial.chances, trial.seen, intervals,
            _NOTHING.astype(np.uint16), np.zeros(2, np.uint64),
        )  # fmt: skip
        if used == TOO_FAR:
            raise BitreelError("can't encode: a motion vector points far outside the picture")
        if used <= room:
            break
        room = used
    learned.chances, learned.seen = trial.chances, trial.seen
    return intervals[:used]


def encode_motion(coder: SymbolEncoder, motion: Motion, distances: Sequence[int], learned: MotionChances) -> None:
    """Code one frame's motion into the packet; see `motion_intervals`."""
    coder.encode_intervals(motion_intervals(motion, distances, learned))


def decode_motion(
    coder: SymbolDecoder, rows: int, columns: int, distances: Sequence[int], learned: MotionChances
) -> Motion:
    """Read one frame's motion for a grid of rows x columns 16x16 blocks. Raises StreamError on impossible values."""
    from codec.motion_kernels import TOO_FAR, code_motion

    blocks, split = np.zeros((6, 2 * rows, 2 * columns), np.int64), np.zeros((rows, columns), np.uint8)
    found = coder.run(
        lambda words, state: code_motion(
            True, blocks, split, _as_array(distances), learned.chances, learned.seen, _NOTHING, words, state
        )
    )
    if found == TOO_FAR:
        raise StreamError("damaged stream: a motion vector points far outside the picture")
    return Motion(torch.from_numpy(blocks)[None], torch.from_numpy(split.astype(bool))[None])


def _as_array(distances: Sequence[int]) -> NDArray[np.int64]:
    assert len(distances) <= MOST_REFERENCES
    return np.array(distances, np.int64)


def estimate_motion_bits(motion: Motion, distances: Sequence[int]) -> Tensor:
    """What coding takes for each frame of a batch by itself, in bits (N,) float32, for training's accounts.

    Without numba, as where there is only PyTorch, a rough figure: each vector's difference from its left neighbour's.
    """
    try:
        import codec.motion_kernels  # noqa: F401
    except ImportError:
        return _rough_bits(motion)
    bits = []
    for blocks, split in zip(motion.blocks, motion.split, strict=True):
        found = motion_intervals(Motion(blocks[None], split[None]), distances, MotionChances())
        bits.append(float((16 - np.log2(found >> 16)).sum()))
    return torch.tensor(bits)


def _rough_bits(motion: Motion) -> Tensor:
    vectors = motion.blocks[:, :2].float()
    apart = (vectors[..., 1:] - vectors[..., :-1]).abs()
    return 0.5 * motion.split.numel() / len(motion.split) + torch.log2(1 + apart).sum((1, 2, 3))
