"""The conditioning field's last level: how much of each part of the post filter a place wants, for a whole segment.

A grid of whole numbers, `CHANNELS` for each 32x32 luma samples of a segment. A trained map (`filter_gains.npz`, made by
`trainers.filter_gains_fit`) turns those of a place into gains of the filter's parts, luma's and chroma's at once, see
`codec.inter.post_filter`. The encoder finds them by least squares when the segment is coded, for frames are predicted
from unfiltered ones, and sends them with the segment's first packet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from codec.bit_mixing import stored_arrays
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError
from codec.innvc.starts import FILTER_GAINS
from codec.inter.post_filter import GAIN, GUESSES, Gains

CHANNELS = 3
LARGEST = 7  # value
PARTS = 2 + GUESSES
_MOST = 4 * GAIN  # gain
CONTEXTS = 13  # of a channel: 6 for whether a value is zero, 3 for its sign, 4 for its size
_SEEN = 12  # what a trained chance counts as

Values = NDArray[np.int64]


class GainChances:
    """What the values of a segment are coded with: chances that go on from segment to segment, and the values before.

    Anew with each intra frame. before: (CHANNELS, rows, columns).
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        self.chances = trained()["chances"].astype(np.int64)
        self.seen = np.full(CHANNELS * CONTEXTS, _SEEN, np.int64)
        self.before = np.zeros((CHANNELS, *grid), np.int64)

    def copy(self) -> GainChances:
        made = object.__new__(GainChances)
        made.chances, made.seen, made.before = self.chances.copy(), self.seen.copy(), self.before
        return made


@lru_cache
def trained() -> dict[str, NDArray[np.int64]]:
    """basis: (CHANNELS, 2, PARTS), what a value of 1 adds to luma's and chroma's gains, in 64ths.

    chances: (CHANNELS · CONTEXTS,) of a one, in 65536ths. Raises BitreelError where the file is something else.
    """
    found = stored_arrays(FILTER_GAINS)
    shapes = {"basis": (CHANNELS, 2, PARTS), "chances": (CHANNELS * CONTEXTS,)}
    for name, shape in shapes.items():
        if name not in found or found[name].shape != shape:
            raise BitreelError(f"'{FILTER_GAINS}' is damaged or of another version; install bitreel anew")
    return {name: found[name].astype(np.int64) for name in shapes}


def gains_of(values: Values, basis: NDArray[np.int64]) -> Gains:
    """values: (CHANNELS, rows, columns), -LARGEST..LARGEST; basis: see `trained`."""
    both = GAIN + np.einsum("kyx,ktp->tyxp", values, basis)
    luma, chroma = np.clip(both, -_MOST, _MOST).astype(np.int32)
    return np.ascontiguousarray(luma), np.ascontiguousarray(chroma)


def send_gains(coder: SymbolEncoder, values: Values | None, chances: GainChances) -> None:
    """Code a segment's values, or that they stay as they were; chances move on."""
    coder.encode_uniform(0 if values is None else 1, 2)
    if values is None:
        return
    intervals = np.empty(values.size * (LARGEST + 2), np.uint32)
    coder.encode_intervals(intervals[: code_values(chances, values.copy(), intervals)])
    chances.before = values


def code_values(chances: GainChances, values: Values, intervals: NDArray[np.uint32]) -> int:
    """Fill intervals as an encoder does; gives their number. `chances.before` stays."""
    from codec.innvc.filter_gains_kernels import code_gains

    given = chances.chances, chances.seen, intervals, np.zeros(0, np.uint16), np.zeros(2, np.uint64)
    return int(code_gains(False, values, chances.before, LARGEST, *given))


def receive_gains(coder: SymbolDecoder, chances: GainChances) -> Gains | None:
    """The segment's gains; None where no word was ever said of them."""
    from codec.innvc.filter_gains_kernels import code_gains

    if coder.decode_uniform(2):
        values = np.zeros_like(chances.before)
        given = chances.chances, chances.seen, np.zeros(0, np.uint32)
        coder.run(lambda words, state: code_gains(True, values, chances.before, LARGEST, *given, words, state))
        chances.before = values
    return segment_gains(chances)


def segment_gains(chances: GainChances) -> Gains | None:
    """What the values that were sent last make of the gains; None where they are all zero."""
    return gains_of(chances.before, trained()["basis"]) if chances.before.any() else None


@dataclass(frozen=True)
class Wanted:
    """What gains are worth at each place, in bits: gains that differ by d (2 · PARTS, luma's first; 1 is all of a part)
    from 1 save 2 d·products - d·squares·d. squares: (rows, columns, 2 · PARTS, 2 · PARTS), products: all but the last.
    """

    squares: NDArray[np.float64]
    products: NDArray[np.float64]

    def by_values(self, basis: NDArray[np.int64] | NDArray[np.float64]) -> Wanted:
        """The same for values of a basis (CHANNELS, 2, PARTS), in 64ths, in the place of gains."""
        steps = basis.reshape(len(basis), -1) / GAIN
        squares = np.einsum("kp,yxpq,lq->yxkl", steps, self.squares, steps, optimize=True)
        return Wanted(squares, np.einsum("kp,yxp->yxk", steps, self.products))

    def saved(self, values: Values) -> float:
        """Bits, of values (CHANNELS, rows, columns) with squares and products `by_values`."""
        given = values.transpose(1, 2, 0).astype(np.float64)
        squared = np.einsum("yxk,yxkl,yxl->", given, self.squares, given, optimize=True)
        return float(2 * (given * self.products).sum() - squared)
