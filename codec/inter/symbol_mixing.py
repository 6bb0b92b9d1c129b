"""Symbols of inter frames in mixed chances: the prior network's table votes beside what came around, and adapts.

The network knows what was coded in earlier groups and halves. Within a half the coder goes on from symbol to symbol, so
it also sees what came just now, and over the frames it learns where the network is off in this video.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.bit_mixing import MOST_VOTES, Mixer, load_mixer
from codec.count_tables import Tables
from codec.entropy_coding import SymbolDecoder
from codec.errors import BitreelError
from codec.inter.layout import GROUP_SIZES, GROUP_STARTS, ORDER
from codec.inter.symbol_kernels import CONTEXTS, SETS, VOTES, FrameSymbols

_MOST_INTERVALS = 24  # of a symbol: stages, Exp-Golomb, sign


@lru_cache
def _layout() -> NDArray[np.int32]:
    """See `FrameSymbols`."""
    place = {channel: number for number, channel in enumerate(ORDER)}

    def number(plane: int, v: int, u: int) -> int:
        if v < 0 or u < 0 or plane < 0:
            return -1
        return place[8 * v + u] if plane == 0 else place[48 + 16 * plane + 4 * v + u]

    rows = []
    for at, channel in enumerate(ORDER):
        plane, (v, u) = (0, divmod(channel, 8)) if channel < 64 else ((channel - 48) // 16, divmod(channel % 16, 4))
        group = sum(start <= at for start in GROUP_STARTS) - 1
        rows.append([plane, number(plane, v, u - 1), number(plane, v - 1, u), number(plane, v - 1, u - 1),
                     number(plane - 1, v, u), group])  # fmt: skip
    return np.array(rows, np.int32)


def new_mixer() -> Mixer:
    """A mixer that has seen nothing: it goes by the given chance."""
    weights = np.zeros((SETS, MOST_VOTES))
    weights[:, :VOTES] = 0.05
    weights[:, VOTES + 1] = 0.8
    return Mixer(CONTEXTS, weights, (0.005, 0.0015))


def start_mixer(file: Path) -> Mixer:
    """What coding starts from after an intra frame, as `trainers.symbol_start` left it in a file."""
    return load_mixer(file, new_mixer())


@dataclass(frozen=True)
class Half:
    """What both sides know of a half of a group, or of a whole one, before its symbols: all (n, places).

    start: its first channel. flat: int64 places in the grid. second: whether a first half is known. index, numbers:
    scale indices and numbers of tables. means: predictions, of which the sign counts.
    """

    start: int
    flat: Tensor
    second: bool
    index: Tensor
    numbers: Tensor
    means: Tensor


class SymbolMixing:
    """What coding has learned since the last intra frame, and the frame at hand."""

    def __init__(self, h: int, w: int, mixer: Mixer) -> None:
        self._mixer = mixer
        channels = sum(GROUP_SIZES)
        self._before = np.zeros((channels, h, w), np.int32)
        self._now = np.zeros((channels, h, w), np.int32)
        self._spent = np.zeros((h, w), np.int32)

    def copy(self) -> SymbolMixing:
        """One to try something out on."""
        made = object.__new__(SymbolMixing)
        made._mixer, made._before = self._mixer.copy(), self._before
        made._now, made._spent = self._now.copy(), self._spent.copy()
        return made

    def end_frame(self) -> None:
        """All symbols of the frame are coded."""
        self._before, self._now, self._spent = self._now, np.zeros_like(self._now), np.zeros_like(self._spent)

    def encode(self, symbols: Tensor, half: Half, tables: Tables) -> NDArray[np.uint32]:
        """The intervals of symbols (n, places) int32, see `SymbolEncoder.encode_intervals`."""
        given = np.ascontiguousarray(symbols.cpu().numpy(), np.int32)
        intervals = np.empty(_MOST_INTERVALS * given.size, np.uint32)  # memory that is not written to costs nothing
        used = self._run((False, intervals, np.zeros(0, np.uint16), np.zeros(2, np.uint64)), given, half, tables)
        if used < 0:
            raise BitreelError("can't encode: a symbol whose table says 'certainly zero' is not zero")
        return intervals[:used].copy()

    def decode(self, coder: SymbolDecoder, half: Half, tables: Tables) -> Tensor:
        """The symbols (n, places) int32 that `encode` took."""
        found = np.zeros(half.index.shape, np.int32)
        none = np.zeros(0, np.uint32)
        coder.run(lambda words, state: self._run((True, none, words, state), found, half, tables))
        return torch.from_numpy(found).to(half.index.device)

    def _run(self, given: tuple[object, ...], symbols: NDArray[np.int32], half: Half, tables: Tables) -> int:
        from codec.inter.symbol_kernels import code_symbols

        def whole(values: Tensor) -> NDArray[np.int64]:
            return np.ascontiguousarray(values.cpu().numpy(), np.int64)

        frame = FrameSymbols(self._now, self._before, self._spent, _layout())
        return int(
            code_symbols(
                given,
                self._mixer.parts(),
                frame,
                half.start,
                whole(half.flat),
                half.second,
                whole(half.index),
                whole(half.numbers),
                whole(half.means),
                (tables.entries, tables.starts, tables.reaches),
                symbols,
            )
        )
