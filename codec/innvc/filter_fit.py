"""Changes of the post filter that pay for one video: least squares, with a price for every bit that they take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.entropy_coding import SymbolEncoder
from codec.innvc.filter_changes import LARGEST, UNIT, FilterChanges, Values, changes_shape, parts, send_filter_changes
from codec.innvc.starts import POST_FILTER
from codec.inter.filter_sums import Sums
from codec.inter.post_filter import filter_weights, weight_name

# What a change is reckoned to take: bits of a zero, of any other, and of each unit.
_ZERO, _OTHER, _EACH = 0.5, 4.0, 1.0
_SWEEPS = 60

Floats = NDArray[np.float64]


def fit_changes(sums: Sums, worth: tuple[float, float], copies: int) -> FilterChanges | None:
    """The changes that are worth their bits in a stream that says them `copies` times; None for none.

    sums: of the whole video, as the filters that come with the format get it. worth: bits that a squared error of luma,
    and of chroma, is worth.
    """
    luma, chroma = (_fit_plane(sums, kind, worth[kind] / copies) for kind in range(2))
    changes, coder = FilterChanges(luma[0], chroma[0]), SymbolEncoder()
    send_filter_changes(coder, changes)
    return changes if luma[1] + chroma[1] > coder.estimated_bits else None


def _fit_plane(sums: Sums, kind: int, worth: float) -> tuple[Values, float]:
    """Changes (rows, taps), and the bits that they are worth."""
    name, unit = weight_name(kind, False), UNIT / 1024
    squares, weights = sums.squares[name], filter_weights(POST_FILTER)[name] / 1024
    matrices = unit**2 * worth * squares.sum(0)
    # What the filter as it is leaves, and then what the rows before leave.
    left = unit * worth * (sums.products[name] - np.einsum("bcts,bcs->bct", squares, weights)).sum(0)
    found, total = np.zeros(changes_shape(kind), np.int64), 0.0
    for rows in parts(kind):
        for row in np.unique(rows):
            own = rows == row
            matrix, product = matrices[own].sum(0), left[own].sum(0)
            values = _descend(matrix, product)
            gain = float(values @ (2 * product - matrix @ values))
            if gain > float(_price(values).sum()):
                found[row] = values
                left[own] -= matrices[own] @ values
                total += gain
    return found, total


def _descend(matrix: Floats, product: Floats) -> Values:
    """Whole numbers v with a small v·matrix·v - 2 v·product + bits: one after the other is set to what is best."""
    values, left, own = np.zeros(len(product)), product.copy(), np.diag(matrix) + 1e-9
    for _ in range(_SWEEPS):
        before = values.copy()
        for tap in range(len(values)):
            best = values[tap] + left[tap] / own[tap]
            tried = np.clip([0.0, np.floor(best), np.ceil(best)], -LARGEST, LARGEST)
            chosen = tried[np.argmin(own[tap] * (tried - best) ** 2 + _price(tried))]
            if chosen != values[tap]:
                left -= matrix[:, tap] * (chosen - values[tap])
                values[tap] = chosen
        if np.array_equal(before, values):
            break
    return values.astype(np.int64)


def _price(values: NDArray[np.generic]) -> Floats:
    return np.where(values == 0, _ZERO, _OTHER + _EACH * np.abs(values))
