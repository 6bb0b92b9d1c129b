"""Motion to bits and back: which blocks are split, where each comes from, and how its vector differs from the others.

Blocks come row by row, 16x16, and where one is split its 8x8 quarters row by row. A block's neighbours are the left
one, the upper one and the corner: upper right, or, for a lower right quarter that has a block to its right, upper left.
What counts of them is the first vector, scaled to the distance in time at hand: v over `of` frames is over d frames
floor((2 · v · d + of) / (2 · of)), at most 2^14 either way. Outside the picture vectors are zero. The median of the
neighbours is taken axis by axis (0: down, 1: across). Their *spread* is the sum over both axes of largest less
smallest, in classes 0, 1-2, 3-16, 17 and more. A block's *place* is 0 for a whole one and 1..4 for quarters. The bits
of a block, each with its adaptive context, are:

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
   axis 1, + 1 where axis 0 differs; where it does not, axis 1 must, and its first one is left out); the second and the
   third bit of |d| (219); the lower ones together, as likely one as another; is d negative? (220..222: neighbours' sum
   less three medians is below, at, above zero)
6. with more than one reference: is there a second vector? (241 + 3 where the block is whole + how many of the left and
   the upper 8x8 block have one)
7. if so: its reference as in 2 (247 + 3 · the first reference, at most 3, + the ones so far, at most 2), and its
   difference from the first vector, scaled to its distance, as in 5 (259 + ones for axis 0; 267, or 275 where axis 0
   differs, + ones for axis 1; sign 221)

An adaptive context has a chance p of a one, in 65536ths, that rests on n bits, as docs/brl.md tells under *Adaptive
bits*. At first p is 256 times the context's byte of `START_CHANCES` in `codec/motion_chances.py`, at least 256; n is 6.

All of these bits but the lower ones of |d| are *mixed*, as docs/brl.md tells too, of six contexts and with p as the
chance g that the syntax gives; p then learns from the bit as if it had been coded by p. The sets of weights are
2 · kind, + 1 in the first inter frame after an intra frame, and 24 + the adaptive context; its rates f, e 164 and 33.
A vote's contexts lie one after the other, vote by vote, kind by kind; below a context is written as numbers, all but
the first of a size of their own: (a, b: 4, c: 5) is (4 a + b) · 5 + c. The number before a colon is a kind, in the end
there is how many contexts each vote has.

B(x) is the number of bits of |x|, at most 8; S(x) is 0, 1, 2 for x below, at, above zero. Blocks are 8x8 ones, by
their row and column; left, up, upper left stand next to a block's first one. What is not coded yet, or outside the
picture, counts as zero. W is 1 for a whole block, else 0; L the block's place. Of the inter frame before, *told* is
what it had at the block's last 8x8 block (lower right, where it is whole), *beyond* at the one diagonally below that,
row and column held within the picture: the first vector, scaled to one frame and from there to the reference at hand;
reference; second reference, -1 for none. After an intra frame all of it is zero and second references -1. M is 1 where
a first vector is coded as other than the median, D the differences d that were coded of it, E those of second vectors,
zeros where there was none.

0: is it split? With s of left, up, upper left, upper right 16x16 block as A = 8, 4, 2, 1 and J = those of left and up
   added; T, R, V: was the same, the right, the lower 16x16 block split in the frame before? P = B(spread), of the
   whole block and reference 0; N = M of the two left and the two upper 8x8 blocks added.
   (A, T: 2) (P, A: 16) (P, T: 2, N: 5) (T, R: 2, V: 2, J: 3) (N, J: 3, T: 2) (A, T: 2, R: 2, V: 2);
   32, 144, 90, 24, 30, 128
1, 2: first's and second's number. With F = ones so far, W, as (F, W: 2); that of left, up, upper left, told and beyond,
   + 1, as l, u, c, t, b (0 outside the picture): (F, l: 6, u: 6) (F, t: 6, b: 6) (F, l: 6, u: 6, t: 6) (F, c: 6, t: 6)
   (F, l: 6, c: 6) (F, r: 6, u: 6), r = 0 for the first, the first's + 1 for the second; 288, 288, 1728, 288, 288, 288
3: other than the median? With T = B(both axes' differences of told from the median, added), V the same of beyond, C the
   spread's class, N = M of left and up added, K = N + 3 · (M of the block right of the upper ones, + 2 · M of upper
   left), P = B(spread), r the reference, at most 2, D_0 the differences down:
   (T, C: 4, L: 5) (T, V: 9, N: 3) (K, L: 5) (P, N: 3, T: 9) (r, C: 4, L: 5) (B(D_0 of left), B(D_0 of up): 9, C: 4);
   180, 243, 60, 243, 60, 324
4: a neighbour's? i = 0, 1, 2; with X = B(its difference from the median, as before), Y, Z from told and beyond:
   (i, Y: 9, T: 9) (i, X: 9, L: 5) (i, Z: 9, Y: 9) (i, N: 3, C: 4) (i, X: 9, Y: 9) (i, K: 12, W: 2); 243, 135, 243, 36,
   243, 72
5: a second vector? With whether left, up, upper left have one as A = 4, 2, 1; T = told's second reference + 1, t its
   first one, Q = [T > 0], J = the first two added, N as above, r the first reference, (y, x) the first vector:
   (A, Q: 2, L: 5, r: 5) (r, J: 3, W: 2) (max(B(y), B(x)), W: 2, A: 8) (Q, t: 5, r: 5) (N, A: 8, L: 5) (T, A: 8);
   400, 30, 144, 50, 120, 48
6..9: number of bits of |d|; kind 6 + a, a = 0, 1 for a first vector's axes, 2, 3 for a second one's. What is predicted
   is the median, or the first vector scaled. t, b, l, u, c: the differences of told, beyond, left, up and corner
   (scaled to the second's reference there) from it on the axis; F = ones so far, at most 8, O = B(d of axis 0) for axis
   1, else 0; G = B(D or E of left) + B(that of up) on the axis, at most 15; H = max(B(l), B(u), B(c)):
   (F, B(t): 9, B(b): 9) (F, H: 9, min(B(l), B(u)): 9) (F, G: 16, W: 2) (F, O: 9, B(t): 9) (F, B(l): 9, B(u): 9)
   (F, B(t): 9, H: 9); 729, 729, 288, 729, 729, 729, each kind
10: second and third bit of |d|. F = bits of |d|, at most 8, with the bit's number as (F, 1 for the second, 2 + the
   second for the third: 4); t', b' = bit of |t|, |b| at the same place where B says as many bits as |d| has, else 2:
   (F) (F, t': 3) (F, b': 3) (F, t': 3, b': 3) (F, B(l): 9) (F, O: 9); 36, 108, 108, 324, 324, 324
11: is d negative? q = 0, 1, 2: |t| is smaller than, equal to, larger than |d|; e = S(D or E of left), g of up; m = S of
   the sum that the adaptive context goes by, 1 for a second vector:
   (a, S(t): 3, q: 3, min(bits of |d|, 8): 9) (a, S(l): 3, S(u): 3, S(c): 3) (a, e: 3, g: 3) (a, S(t): 3, S(b): 3, m: 3)
   (a, S(l): 3, B(l): 9) (a, S(t): 3, m: 3, e: 3, g: 3); 324, 108, 36, 108, 108, 324

Chances, mixer and what the frame before had go on from inter frame to inter frame, those without loss among them, and
start anew at each intra frame: the mixer as `codec/motion_start.npz` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError, StreamError
from codec.motion import LARGEST_VECTOR, MOST_REFERENCES, NO_SECOND, Motion

if TYPE_CHECKING:
    from codec.motion_chances import MotionChances

_MOST_INTERVALS = 4 * 93 + 1  # of a 16x16 block: of each quarter 13 of references and questions, 20 a difference


def motion_intervals(motion: Motion, distances: Sequence[int], learned: MotionChances) -> NDArray[np.uint32]:
    """The intervals of one frame's motion (batch of one), see `codec.entropy_coding`; `learned` goes on.

    distances: of the references, in frames. Raises BitreelError for motion that can't be coded; `learned` is then as
    before.
    """
    blocks, split = motion.blocks[0].cpu().numpy().copy(), motion.split[0].cpu().numpy()
    wide = split.repeat(2, 0).repeat(2, 1)
    if not (wide | (blocks == blocks[:, ::2, ::2].repeat(2, 1).repeat(2, 2))).all():
        raise BitreelError("can't encode: a block that is not split has different vectors in it")
    if max(blocks[2].max(), blocks[5].max()) >= len(distances):
        raise BitreelError("can't encode: a block comes from a frame that is not kept")
    if len(distances) == 1 and blocks[5].max() > NO_SECOND:
        raise BitreelError("can't encode: two vectors need two frames to point to")
    if np.abs(blocks[[0, 1, 3, 4]]).max() > LARGEST_VECTOR:
        raise BitreelError("can't encode: a motion vector points far outside the picture")
    # Memory that is not written to costs nothing.
    intervals = np.empty(_MOST_INTERVALS * split.size, np.uint32)
    given = (False, intervals, np.zeros(0, np.uint16), np.zeros(2, np.uint64))
    used = learned.walk(given, blocks, split.astype(np.uint8), _as_array(distances))
    assert 0 <= used <= len(intervals)
    return intervals[:used].copy()


def encode_motion(coder: SymbolEncoder, motion: Motion, distances: Sequence[int], learned: MotionChances) -> None:
    """Code one frame's motion into the packet; see `motion_intervals`."""
    coder.encode_intervals(motion_intervals(motion, distances, learned))


def decode_motion(
    coder: SymbolDecoder, rows: int, columns: int, distances: Sequence[int], learned: MotionChances
) -> Motion:
    """Read one frame's motion for a grid of rows x columns 16x16 blocks; `learned` goes on.

    Raises StreamError on impossible values; `learned` is then as before.
    """
    blocks, split = np.zeros((6, 2 * rows, 2 * columns), np.int64), np.zeros((rows, columns), np.uint8)
    none = np.zeros(0, np.uint32)
    found = coder.run(
        lambda words, state: learned.walk((True, none, words, state), blocks, split, _as_array(distances))
    )
    if found < 0:
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
        from codec.motion_chances import MotionChances
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
