"""Vectors to bits and back: which blocks are split, which vectors are as predicted, and how the others differ.

Blocks come row by row, 16x16, and where one is split its 8x8 quarters row by row. A vector's neighbours are the left
one, the upper one and the corner: upper right, or, for a lower right quarter that has a block to its right, upper left.
Outside the picture vectors are zero. The median of the neighbours is taken axis by axis (0: down, 1: across). Their
*spread* is the sum over both axes of largest less smallest, in classes 0, 1-2, 3-16, 17 and more. A block's *place* is
0 for a whole one and 1..4 for quarters. The bits of a block, each with its context, are:

1. is it split? (0..2: how many of the left and the upper block are)
2. for each vector: is it other than the median? (3 + 3 · (5 · spread class + place) + how many of the left and the
   upper 8x8 block are)
3. if so: is it the left neighbour's, the upper one's, the corner's? (63 + 3 · (5 · spread class + place) + 0, 1, 2)
   Neighbours equal to the median or to one asked before are left out.
4. if not: for each axis, the difference d from the median. As many ones as |d| has bits, then a zero unless there are
   16 (123 + 8 · set + at most 7, the ones so far; the set is the spread class for axis 0, and 4 + 2 · spread class for
   axis 1, + 1 where axis 0 differs; where it does not, axis 1 must, and its first one is left out); the second bit of
   |d| (219); the lower ones together, as likely one as another; is d negative? (220..222: neighbours' sum less three
   medians is below, at, above zero)

A context has a chance p of a one, in 65536ths, at first 256 times its byte of `_START`, that rests on n bits, at
first 6. A zero is coded as the interval of
65536 - p from 0, a one as that of p above. Then with w = n + 2 (n before this bit) a one sets p to
min(p + floor((65536 - p) / w), 65504), a zero to max(p - floor(p / w), 32); n grows by one, to 64 at most.
All chances start anew with each frame.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError, StreamError
from codec.motion_search import Motion

CONTEXTS = 223
_MOVED, _NEIGHBOUR, _POWER, _SECOND, _SIGN = 3, 63, 123, 219, 220
_MOST_BITS = 16
_START_SEEN = 6
# How often each context's bit is a one in the vectors of real clips at fine to coarse quantization, in 256ths.
_START = bytes.fromhex(
    "167bc102152dc4b7c93c332e320f1b2610802e426ebec3ca49c1ae4c2e475a60633a5d8dd4e9e83fd9d4544f8b3076af354c98e7f1f92ae7"
    "ed515a9d3431e4808080808080808080808080808080a367a9604e4ee15f645788a066743f532f4c2a170db61711103f381f2c0d3d2d3916"
    "0405a006020220260c0f079b687f6b82654926ac4b4c3e6b4a4357c190804d4f6b5c2ad6d4c89c9986623380606d8192782b0f7a828293a0"
    "812e0d804f3b425d5716809f6656699c741520808a7856592f341dbca2895e4b673e0580b9bbabb07e1627dcded0ada4864f1f61b18451"
)


def _start() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.frombuffer(_START, np.uint8).astype(np.int64) << 8, np.full(CONTEXTS, _START_SEEN)


def start_chances() -> NDArray[np.float64]:
    """Each context's chance of a one before anything is coded, in 65536ths, (CONTEXTS,)."""
    return np.maximum(_start()[0], 256).astype(np.float64)


def encode_motion(coder: SymbolEncoder, motion: Motion) -> None:
    """Code one frame's motion (batch of one) into the packet. Raises BitreelError for vectors that can't be coded."""
    from codec.motion_kernels import TOO_FAR, code_motion

    vectors, split = motion.vectors[0].cpu().numpy().copy(), motion.split[0].cpu().numpy()
    wide = split.repeat(2, 0).repeat(2, 1)
    if not (wide | (vectors == vectors[:, ::2, ::2].repeat(2, 1).repeat(2, 2))).all():
        raise BitreelError("can't encode: a block that is not split has different vectors in it")
    nothing: NDArray[np.uint16] = np.zeros(0, np.uint16)
    room = 16 * split.size
    while True:
        intervals = np.empty(room, np.uint32)
        used = code_motion(
            False, vectors, split.astype(np.uint8), *_start(), intervals, nothing, np.zeros(2, np.uint64)
        )
        if used == TOO_FAR:
            raise BitreelError("can't encode: a motion vector points far outside the picture")
        if used <= room:
            break
        room = used
    coder.encode_intervals(intervals[:used])


def decode_motion(coder: SymbolDecoder, rows: int, columns: int) -> Motion:
    """Read one frame's motion for a grid of rows x columns 16x16 blocks. Raises StreamError on impossible values."""
    from codec.motion_kernels import TOO_FAR, code_motion

    vectors, split = np.zeros((2, 2 * rows, 2 * columns), np.int64), np.zeros((rows, columns), np.uint8)
    nothing: NDArray[np.uint32] = np.zeros(0, np.uint32)
    if coder.run(lambda words, state: code_motion(True, vectors, split, *_start(), nothing, words, state)) == TOO_FAR:
        raise StreamError("damaged stream: a motion vector points far outside the picture")
    return Motion(torch.from_numpy(vectors)[None], torch.from_numpy(split.astype(bool))[None])


def estimate_motion_bits(motion: Motion) -> Tensor:
    """About what `encode_motion` will take for each frame of a batch, in bits (N,) float32, for training's accounts.

    The bits of every context are counted, and charged at what a chance that learns from all of them costs.
    """
    ones_and_zeros, even_bits = count_bits(motion)
    before = torch.tensor(list(_START), dtype=torch.float64, device=even_bits.device) / 256 * (_START_SEEN + 1)
    prior = torch.stack([_START_SEEN + 1 - before, before], dim=-1)
    after = ones_and_zeros + prior
    nats = (torch.lgamma(prior) - torch.lgamma(after)).sum(-1) + torch.lgamma(after.sum(-1))
    nats = nats - math.lgamma(_START_SEEN + 1)
    return (nats.sum(1) / math.log(2) + even_bits).float()


def count_bits(motion: Motion) -> tuple[Tensor, Tensor]:
    """Zeros and ones that each context sees, (N, CONTEXTS, 2) float64, and the number of even bits, (N,) float64."""
    tally = _Tally(len(motion.split), motion.vectors.device)
    split, vectors = motion.split, motion.vectors
    around = F.pad(split.long(), (1, 0, 1, 0))
    tally.add(around[:, 1:, :-1] + around[:, :-1, 1:], split, torch.ones_like(split))

    divided = split.repeat_interleave(2, 1).repeat_interleave(2, 2)
    height, width = divided.shape[1:]
    row = torch.arange(height, device=vectors.device).view(-1, 1)
    column = torch.arange(width, device=vectors.device)
    live = divided | ((row % 2 == 0) & (column % 2 == 0))
    place = torch.where(divided, 1 + row % 2 * 2 + column % 2, 0)
    known = F.pad(vectors, (1, 2, 1, 0))
    left, up, upper_left = known[:, :, 1:, :width], known[:, :, :-1, 1 : width + 1], known[:, :, :-1, :width]
    right, second = known[:, :, :-1, 2 : width + 2], known[:, :, :-1, 3 : width + 3]
    unknown = (place == 4) & (column < width - 1)
    corner = torch.where(unknown[:, None], upper_left, torch.where((place > 0)[:, None], right, second))
    near = torch.stack([left, up, corner])
    median = near.median(dim=0).values
    apart = (near.amax(0) - near.amin(0)).sum(1)
    spread = (apart > 0).long() + (apart > 2).long() + (apart > 16).long()

    def same(one: Tensor, other: Tensor) -> Tensor:
        return (one == other).all(dim=1)

    other = ~same(vectors, median)
    whole = other[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2)
    around = F.pad(torch.where(divided, other, whole).long(), (1, 0, 1, 0))
    kind = (spread * 5 + place) * 3
    tally.add(_MOVED + kind + around[:, 1:, :-1] + around[:, :-1, 1:], other, live)
    live = live & other
    for which, (candidate, before) in enumerate([(left, [median]), (up, [median, left]), (corner, [median, left, up])]):
        fresh = ~torch.stack([same(candidate, earlier) for earlier in before]).any(dim=0)
        hit = same(vectors, candidate)
        tally.add(_NEIGHBOUR + kind + which, hit, live & fresh)
        live = live & ~(fresh & hit)

    frame, y, x = torch.nonzero(live, as_tuple=True)
    difference, lean = (vectors - median)[frame, :, y, x], (near.sum(0) - 3 * median)[frame, :, y, x]
    spread = spread[frame, y, x]
    down = (difference[:, 0] != 0).long()
    for axis, context in enumerate([_POWER + spread * 8, _POWER + (4 + spread * 2 + down) * 8]):
        magnitude = difference[:, axis].abs()
        bits = torch.frexp(magnitude.double()).exponent.long()[:, None]
        power = torch.arange(_MOST_BITS, device=bits.device)
        asked = (power <= bits) & (power >= (1 - down[:, None] if axis else 0))
        tally.add(context[:, None] + power.clamp(max=7), power < bits, asked, frame[:, None])
        bits = bits[:, 0]
        second = (magnitude >> (bits - 2).clamp(min=0)) & 1 == 1
        tally.add(torch.full_like(bits, _SECOND), second, bits > 1, frame)
        tally.add(_SIGN + 1 + lean[:, axis].sign(), difference[:, axis] < 0, bits > 0, frame)
        tally.even.index_add_(0, frame, (bits - 2).clamp(min=0).double())
    return tally.counts.view(-1, CONTEXTS, 2), tally.even


class _Tally:
    """Counts of zeros and ones, frame by frame and context by context."""

    def __init__(self, frames: int, device: torch.device) -> None:
        self.counts = torch.zeros(frames * CONTEXTS * 2, dtype=torch.float64, device=device)
        self.even = torch.zeros(frames, dtype=torch.float64, device=device)

    def add(self, context: Tensor, one: Tensor, asked: Tensor, frame: Tensor | None = None) -> None:
        """Bits `one` where `asked`, any shape; frame: each one's frame, or None where the first axis is the frames."""
        if frame is None:
            frame = torch.arange(len(context), device=context.device).view(-1, *[1] * (context.dim() - 1))
        place = ((frame * CONTEXTS + context) * 2 + one.long()).reshape(-1)
        self.counts.index_add_(0, place, asked.reshape(-1).double())
