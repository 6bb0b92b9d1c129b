"""Bits a frame to a QP for each frame: what was spent too much or too little is made up for over the next half second.

The logarithm of a frame's bits is taken to rise linearly with its QP; where the line lies is learned from the frames
before. An intra frame may take what many frames do, since its QP and theirs hang together: where another one comes
after `chain` frames, those between share what it took; else the debt is paid off later.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from codec.streams import QP_COUNT

_HORIZON = 24.0  # frames over which a debt is paid off
_LEAST_SHARE = 0.25  # of the usual bits, that a frame gets however deep the debt is
_INTRA_WORTH = 14.0  # frames' bits that the first intra frame may take
_INTRA_SHARE = 1 / 3  # of the bits until the next one, at most
_OCTAVE = 5.5  # QPs that double an inter frame's bits, to begin with
_LEARN = 0.35  # how fast the line follows
_FASTEST = 3.0  # QPs from one frame to the next
_TRIALS = 7
_FRAME_OF_STREAM = 8.0 * 110  # bits, about: header, index and end


class RateControl:
    """bits: what frames shall take on average; qp: where to begin; chain: frames from an intra frame to the next one,
    None where there is one only."""

    def __init__(self, bits: float, qp: float, chain: int | None = None) -> None:
        self._bits, self._qp, self._chain = bits, qp, chain
        self._worth = min(_INTRA_WORTH, max(1.0, chain * _INTRA_SHARE)) if chain else _INTRA_WORTH
        self._share = 0.0  # of the last intra frame, that each frame pays until the next one
        self._debt = _FRAME_OF_STREAM  # what the stream takes beside its packets
        self._level: float | None = None  # log2 of an inter frame's bits at QP 0

    def first_qp(self, intra_bits: Callable[[float], float]) -> float:
        """The QP at which the first frame takes about what it may: found by halves, for it sets the whole video's."""
        low, high = 0.0, float(QP_COUNT - 1)
        for _ in range(_TRIALS):
            middle = (low + high) / 2
            low, high = (middle, high) if intra_bits(middle) < self._worth * self._bits else (low, middle)
        self._qp = (low + high) / 2
        return self._qp

    def next_qp(self, intra: bool) -> float:
        """For the coming frame. Intra frames after the first one follow the frames between, if there are any."""
        if (intra and self._chain != 1) or self._level is None:
            return self._qp
        wanted = max(self._bits - self._share - self._debt / _HORIZON, _LEAST_SHARE * self._bits)
        aimed = (math.log2(wanted) - self._level) * _OCTAVE
        self._qp = min(max(aimed, self._qp - _FASTEST, 0.0), self._qp + _FASTEST, QP_COUNT - 1.0)
        return self._qp

    def spent(self, intra: bool, qp: float, bits: float) -> None:
        """What a frame took."""
        if intra and self._chain is not None and self._chain > 1:
            between, most = self._chain - 1, (1 - _LEAST_SHARE) * self._bits
            self._share = min((bits - self._bits) / between, most)
            self._debt += bits - self._bits - self._share * between
            return
        self._debt += bits - (self._bits - self._share)
        if intra and self._chain is None:
            return
        level = math.log2(max(bits, 16.0)) - qp / _OCTAVE
        self._level = level if self._level is None else self._level + _LEARN * (level - self._level)
