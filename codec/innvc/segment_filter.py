"""The encoder's way with the post filter: a segment's frames are coded first, then filtered and sent.

Frames are predicted from unfiltered ones, so the filter's gains may be chosen when all of a segment is known; they go
with the packet of its first frame, see `filter_gains`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from codec.entropy_coding import SymbolEncoder
from codec.innvc.coding_state import CodingState
from codec.innvc.filter_gains import (
    LARGEST,
    PARTS,
    GainChances,
    Values,
    Wanted,
    code_values,
    gains_of,
    segment_gains,
    send_gains,
    trained,
)
from codec.inter.post_filter import (
    GAIN,
    PRICE,
    SHARES,
    FilterEncoding,
    Flags,
    Gains,
    PartSums,
    Picture,
    Planes,
    PostFilter,
    plane_step,
)
from codec.streams import CodedFrame
from codec.threads import side_by_side

_SWEEPS = 3
_ROUNDS = 2  # which blocks are filtered follows from the gains, and they from that


class Later:
    """A coded frame whose filter waits: a source of flags that keeps what the filter will be given.

    coder: of all but the flags. source: planes as a `Picture`'s.
    """

    def __init__(self, coder: SymbolEncoder, source: Planes) -> None:
        self.coder, self.source = coder, source
        self.picture: Picture | None = None

    def exchange(self, post_filter: PostFilter, picture: Picture, flags: Flags, gains: Gains | None = None) -> Planes:
        self.picture = picture
        return picture.planes


@dataclass(frozen=True)
class Held:
    """A frame of a segment. kind, qp: see `CodedFrame`. head: what its packet begins with, where it is a segment's
    first; field_bits: of that, the field's."""

    kind: int
    qp: int
    coded: Later
    head: SymbolEncoder | None = None
    field_bits: float = 0.0


def finish_segment(state: CodingState, held: Sequence[Held], field: bool) -> Iterator[CodedFrame]:
    """Choose the gains, if there is a field at all, and filter the frames; the state's gains and chances move on."""
    for number, frame in enumerate(held):
        coder, field_bits = frame.coded.coder, frame.field_bits
        if frame.head is not None:
            assert number == 0
            before, coder = frame.head.estimated_bits, frame.head
            send_gains(coder, _choose(state, held) if field else None, state.gain_chances)
            state.gains = segment_gains(state.gain_chances)
            field_bits += coder.estimated_bits - before
            coder.append(frame.coded.coder)
        assert frame.coded.picture is not None
        shown = state.filtered(FilterEncoding(coder, frame.coded.source), frame.coded.picture)
        yield CodedFrame(frame.kind, frame.qp, coder.finish(), coder.estimated_bits, shown, round(field_bits / 8))


def _choose(state: CodingState, held: Sequence[Held]) -> Values | None:
    """Values that save more than they take; None where those of the segment before do as well."""
    seen = [frame.coded for frame in held if frame.coded.picture is not None and not frame.coded.picture.intra]
    if not seen:
        return None
    with side_by_side() as threads:
        sums = threads.map(partial(_weighted, state.post_filter), seen)
    return choose_values(sums, state.gain_chances)


def choose_values(frames: Sequence[Sequence[PartSums]], chances: GainChances) -> Values | None:
    """frames: Y's, U's and V's sums of a segment's inter frames, in bits; see `weigh`."""
    from codec.innvc.filter_gains_kernels import choose_gains

    basis = trained()["basis"]
    values = np.zeros_like(chances.before)
    wanted = Wanted(np.zeros(0), np.zeros(0))
    for _ in range(_ROUNDS):
        wanted = gather(frames, gains_of(values, basis)).by_values(basis)
        given = np.ascontiguousarray(wanted.squares), np.ascontiguousarray(wanted.products)
        choose_gains(*given, chances.before, LARGEST, chances.chances, _SWEEPS, values)
    coder, intervals = SymbolEncoder(), np.empty(values.size * (LARGEST + 2), np.uint32)
    coder.encode_intervals(intervals[: code_values(chances.copy(), values.copy(), intervals)])
    worth = wanted.saved(values) - coder.estimated_bits
    return values if worth > max(wanted.saved(chances.before), 0.0) else None


def gather(frames: Sequence[Sequence[PartSums]], gains: Gains) -> Wanted:
    """What other gains than those as they are are worth in the blocks that are filtered with these gains."""
    rows, columns = frames[0][0].products.shape[:2]
    squares, products = np.zeros((rows, columns, 2 * PARTS, 2 * PARTS)), np.zeros((rows, columns, 2 * PARTS))
    for planes in frames:
        for number, sums in enumerate(planes):
            kind = min(number, 1)
            part = slice(kind * PARTS, (kind + 1) * PARTS)
            on = _worsened(sums, gains[kind]) < 0
            squares[..., part, part] += np.where(on[..., None, None], sums.squares, 0)
            products[..., part] += np.where(on[..., None], sums.products - sums.squares.sum(-1), 0)
    return Wanted(squares, products)


def _worsened(sums: PartSums, gains: NDArray[np.int32]) -> NDArray[np.float64]:
    """(rows, columns): how much the error grows by the filter with these gains."""
    given = gains / GAIN
    squared: NDArray[np.float64] = np.einsum("yxp,yxpq,yxq->yx", given, sums.squares, given, optimize=True)
    return squared - 2 * (given * sums.products).sum(-1)


def _weighted(post_filter: PostFilter, coded: Later) -> list[PartSums]:
    assert coded.picture is not None
    return weigh(post_filter.measure(coded.picture, coded.source), coded.picture.qp)


def weigh(planes: Sequence[PartSums], qp: int) -> list[PartSums]:
    """Y's, U's and V's sums in bits: what a squared error of a frame of that QP is worth."""
    worth = PRICE / (plane_step(0, qp) / 16) ** 2
    shares = [worth * SHARES[min(number, 1)] for number in range(3)]
    return [PartSums(share * sums.squares, share * sums.products) for share, sums in zip(shares, planes, strict=True)]
