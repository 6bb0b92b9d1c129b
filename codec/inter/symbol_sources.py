"""Where a frame's symbols come from: they are quantized, and coded as well, or taken from a packet."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.adaptive_tables import AdaptiveTables
from codec.count_tables import COUNT_BITS, COUNT_TOTAL
from codec.distributions import ScaleTables
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.inter.symbol_mixing import Half, SymbolMixing
from codec.inter.walk_maps import kernels_for, plain


class FrameTables:
    """What a frame's symbols are coded with. adaptive: tables that learn from frame to frame; None for the model's."""

    def __init__(self, scales: ScaleTables, adaptive: AdaptiveTables | None) -> None:
        self.scales, self._adaptive = scales, adaptive
        self.current = scales.tables() if adaptive is None else adaptive.tables()

    def zero_counts(self, device: torch.device) -> Tensor:
        """Of 65536, how often each table (by its number) expects a zero, int64; number 0 always does."""
        found = (self.current.entries[self.current.starts] >> COUNT_BITS).astype(np.int64)
        found[0] = COUNT_TOTAL
        return torch.from_numpy(found).to(device)

    def learn(self, numbers: Tensor, symbols: Tensor) -> None:
        """Take in symbols and their tables' numbers, of one shape, for the frames to come."""
        if self._adaptive is not None:
            self._adaptive.count(_whole(numbers), _whole(symbols))


class SymbolSource(Protocol):
    """Codes or decodes one batch of symbols: (n, places) int32 for scale indices and their tables' numbers.

    predicted: whole-number prediction of the coefficients, (n, places) int64 in the transform's units.
    """

    tables: FrameTables

    def exchange(self, index: Tensor, numbers: Tensor, predicted: Tensor, places: Places) -> Tensor: ...

    def finish(self) -> None:
        """The frame's symbols were all exchanged."""


@dataclass(frozen=True)
class Places:
    """Which coefficients are meant: channels start..stop in order, each at its flat block positions, (n, places).

    second_half: of a checkerboard whose first half is known.
    """

    start: int
    stop: int
    flat: Tensor
    second_half: bool = False


class Quantizing:
    """Quantizes target coefficients, (96, h, w) int32 in order of importance, by their steps, int64 of that shape."""

    def __init__(self, tables: FrameTables, target: Tensor, steps: Tensor) -> None:
        self.tables = tables
        self.target, self.steps = target.flatten(1), steps.flatten(1)

    def exchange(self, index: Tensor, numbers: Tensor, predicted: Tensor, places: Places) -> Tensor:
        channels = slice(places.start, places.stop)
        if (kernels := kernels_for(predicted)) is not None:
            scales, found = self.tables.scales, torch.empty(predicted.shape, dtype=torch.int32)
            kernels.quantize(
                plain(self.target[channels].int()), plain(self.steps[channels]), plain(places.flat), plain(predicted),
                plain(index), plain(scales.dead_zones), plain(scales.roundings), found.numpy(),
            )  # fmt: skip
            return found
        residual = self.target[channels].gather(1, places.flat) - predicted
        return self.tables.scales.quantize(residual, self.steps[channels].gather(1, places.flat), index)

    def finish(self) -> None:
        """Nothing is left to do."""


class Encoding(Quantizing):
    """Puts the symbols into a packet as well."""

    def __init__(
        self, coder: SymbolEncoder, mixing: SymbolMixing, tables: FrameTables, target: Tensor, steps: Tensor
    ) -> None:
        super().__init__(tables, target, steps)
        self.coder, self.mixing = coder, mixing
        # The network needs to know the symbols only, so it goes on while they are coded.
        self._thread = ThreadPoolExecutor(1)
        self._coded: list[Future[NDArray[np.uint32]]] = []

    def exchange(self, index: Tensor, numbers: Tensor, predicted: Tensor, places: Places) -> Tensor:
        symbols = super().exchange(index, numbers, predicted, places)
        half = Half(places.start, places.flat, places.second_half, index, numbers, predicted)
        self._coded.append(self._thread.submit(self.mixing.encode, symbols, half, self.tables.current))
        return symbols

    def finish(self) -> None:
        """Raises BitreelError where a symbol can't be coded."""
        self._thread.shutdown()
        for coded in self._coded:
            self.coder.encode_intervals(coded.result())


class Decoding:
    """Takes the symbols from a packet."""

    def __init__(self, coder: SymbolDecoder, mixing: SymbolMixing, tables: FrameTables) -> None:
        self.coder, self.mixing, self.tables = coder, mixing, tables

    def exchange(self, index: Tensor, numbers: Tensor, predicted: Tensor, places: Places) -> Tensor:
        half = Half(places.start, places.flat, places.second_half, index, numbers, predicted)
        return self.mixing.decode(self.coder, half, self.tables.current)

    def finish(self) -> None:
        """Nothing is left to do."""


def _whole(values: Tensor) -> NDArray[Any]:
    return values.cpu().contiguous().numpy()
