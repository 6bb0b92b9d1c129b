"""What a stream may say about the post filter: small changes to the weights of inter frames, for one video.

There are changes for all classes of samples at once, for groups of classes that differ in their direction alone, and
for single classes; they add up. A few hundred bytes with the intra frame suit the filter to one video; `fit` finds them
by least squares, see `filter_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.innvc.starts import POST_FILTER
from codec.inter.post_filter import GUESSES, SHAPES, PostFilter, filter_weights, shipped_filter

UNIT = 8  # of a change, in 1024ths
LARGEST = 255  # change
_CONTEXTS = 24
_SEEN = 2  # what a context's first chance counts as

Values = NDArray[np.int64]


@dataclass(frozen=True)
class FilterChanges:
    """luma, chroma: (rows, taps) whole numbers of `UNIT`, -`LARGEST`..`LARGEST`, see `parts`; empty ones take no bits
    to speak of.
    """

    luma: Values
    chroma: Values

    @staticmethod
    def none() -> FilterChanges:
        return FilterChanges(*(np.zeros(changes_shape(kind), np.int64) for kind in range(2)))

    def weights(self, kind: int) -> NDArray[np.int32]:
        """(classes, taps): what they add to luma's (kind 0) or chroma's weights, in 1024ths."""
        values = (self.luma, self.chroma)[kind]
        return (UNIT * np.sum([values[rows] for rows in parts(kind)], 0)).astype(np.int32)


def parts(kind: int) -> list[Values]:
    """Of luma's (kind 0) or chroma's changes: for each of three levels the row of each class, (classes,).

    The first row is for all classes, then comes one for each group, then one for each class.
    """
    shape = SHAPES[kind]
    classes = np.arange(shape.classes(False))
    groups = classes // (1 + 4 * len(shape.leans))
    return [np.zeros_like(classes), 1 + groups, 2 + groups[-1] + classes]


def changes_shape(kind: int) -> tuple[int, int]:
    """(rows, taps) of luma's (kind 0) or chroma's changes."""
    return int(parts(kind)[-1][-1]) + 1, SHAPES[kind].taps(GUESSES)


def send_filter_changes(coder: SymbolEncoder, changes: FilterChanges | None) -> None:
    """Code the changes, or that there are none."""
    from codec.inter.post_filter_kernels import code_changes

    coder.encode_uniform(0 if changes is None else 1, 2)
    if changes is None:
        return
    for kind, values in enumerate((changes.luma, changes.chroma)):
        intervals = np.empty(values.size * (LARGEST + 2) + len(values), np.uint32)
        given = intervals, np.zeros(0, np.uint16), np.zeros(2, np.uint64)
        used = code_changes(False, values.copy(), _bounds(kind), LARGEST, *_chances(), *given)
        coder.encode_intervals(intervals[:used])


def receive_filter_changes(coder: SymbolDecoder) -> FilterChanges | None:
    """The changes, or None where the stream has none."""
    if not coder.decode_uniform(2):
        return None
    found = FilterChanges.none()
    for kind, values in enumerate((found.luma, found.chroma)):
        _receive(coder, kind, values)
    return found


def _receive(coder: SymbolDecoder, kind: int, values: Values) -> None:
    from codec.inter.post_filter_kernels import code_changes

    given = values, _bounds(kind), LARGEST, *_chances(), np.zeros(0, np.uint32)
    coder.run(lambda words, state: code_changes(True, *given, words, state))


def _bounds(kind: int) -> Values:
    """Of each tap the number of its bound, those of guesses after those of neighbours."""
    shape = SHAPES[kind]
    near, far = np.arange(len(shape.near)), len(shape.near) + np.arange(len(shape.far))
    return np.concatenate([np.tile(near, len(shape.pairs)), np.tile(far, GUESSES)])


def _chances() -> tuple[Values, Values]:
    return np.full(_CONTEXTS, 1 << 14, np.int64), np.full(_CONTEXTS, _SEEN, np.int64)


def changed_filter(changes: FilterChanges | None) -> PostFilter:
    """The filter that comes with the format, with a stream's changes."""
    if changes is None:
        return shipped_filter(POST_FILTER)
    return PostFilter(filter_weights(POST_FILTER), (changes.weights(0), changes.weights(1)))
