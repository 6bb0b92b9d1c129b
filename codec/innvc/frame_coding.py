"""One frame between planes and symbols, in exact whole-number arithmetic. Encoder and decoder run this same code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.arithmetic import ONE, FixedArithmetic
from codec.distributions import SCALE_COUNT
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.innvc.context import (
    dc_slopes,
    log_magnitude_fixed,
    log_steps_fixed,
    signed_steps_fixed,
)
from codec.innvc.layout import GROUP_SIZES, GROUP_STARTS, dc_pyramid, live_channels
from codec.innvc.prior import PriorNetwork, fixed_scale_index
from codec.innvc.quantization import LOSSLESS_QP, quantize_whole, whole_steps

_LARGEST_COEFFICIENT = 1 << 16  # far above any real one, whatever a stream claims
_CHANNELS = sum(GROUP_SIZES)


class SymbolSource(Protocol):
    """Codes or decodes one batch of residuals: gives the symbols, int32 of the shape of `index`."""

    def exchange(self, index: Tensor, mean: Tensor, positions: Channels) -> Tensor: ...


@dataclass(frozen=True)
class Channels:
    """Which part of the coefficients is meant: channels start..stop in order, at flat block positions (or all)."""

    start: int
    stop: int
    flat: Tensor | None = None


class Encoding:
    """Quantizes target coefficients and puts the symbols into a packet."""

    def __init__(self, coder: SymbolEncoder, target: Tensor, steps: Tensor, rounding: float) -> None:
        self.coder, self.target, self.steps, self.rounding = coder, target, steps, rounding

    def exchange(self, index: Tensor, mean: Tensor, positions: Channels) -> Tensor:
        wanted = self.target[positions.start : positions.stop]
        steps = self.steps[positions.start : positions.stop]
        if positions.flat is not None:
            wanted, steps = wanted.flatten(1)[:, positions.flat], steps[..., 0]
        symbols = quantize_whole(wanted - mean, steps, self.rounding)
        symbols = torch.where(index > 0, symbols, 0)
        self.coder.encode(_flat(symbols), _flat(index), self.rounding)
        return symbols


class Decoding:
    """Takes the symbols from a packet."""

    def __init__(self, coder: SymbolDecoder, rounding: float) -> None:
        self.coder, self.rounding = coder, rounding

    def exchange(self, index: Tensor, mean: Tensor, positions: Channels) -> Tensor:
        symbols = self.coder.decode(_flat(index), self.rounding)
        return torch.from_numpy(symbols).to(index.device).reshape(index.shape)


def _flat(values: Tensor) -> NDArray[Any]:
    return np.asarray(values.reshape(-1).cpu())


@dataclass(frozen=True)
class FrameContext:
    """What both sides know before the first symbol of a frame.

    kind: 0 intra, 1 inter after intra, 2 inter after inter. predicted: (96, h, w) int32 transform of the predicted
    frame in order of importance (zeros for intra). previous: (96, h, w) int32 symbols of the frame before (zeros
    where kind < 2). vectors: (2, h, w) int64. field: (1, F, h, w) features in fixed point.
    """

    kind: int
    qp: int
    predicted: Tensor
    previous: Tensor
    vectors: Tensor
    field: Tensor


@dataclass(frozen=True)
class FrameSymbols:
    """coefficients and symbols, (96, h, w) int32, in order of importance."""

    coefficients: Tensor
    symbols: Tensor


def code_coefficients(
    prior: PriorNetwork,
    arithmetic: FixedArithmetic,
    context: FrameContext,
    source: SymbolSource,
    live_fraction: float,
) -> FrameSymbols:
    """Run through the groups: scale indices and means from the prior, symbols from or to the packet."""
    device = context.predicted.device
    steps = whole_steps(context.qp, device)
    _, h, w = context.predicted.shape
    kind, qp = torch.tensor([context.kind], device=device), torch.tensor([context.qp], device=device)
    inputs = torch.cat(
        [
            log_magnitude_fixed(context.previous)[None],
            log_steps_fixed(context.predicted, steps)[None],
            log_magnitude_fixed(context.vectors)[None],
            context.field,
        ],
        dim=1,
    )
    state = prior.begin(inputs, kind, qp, arithmetic)
    lossless = context.qp == LOSSLESS_QP
    lowest = 1 if lossless else 0
    live = _CHANNELS if lossless else live_channels(live_fraction, context.qp)
    coefficients = torch.zeros(_CHANNELS, h, w, dtype=torch.int32, device=device)
    symbols = torch.zeros_like(coefficients)
    slopes = torch.zeros(0)
    for group, (size, start) in enumerate(zip(GROUP_SIZES, GROUP_STARTS, strict=True)):
        if group == 0 and context.kind == 0:
            _code_pyramid(prior, arithmetic, state, qp, source, coefficients, symbols, lowest, steps)
        else:
            whole_mean = torch.zeros(size, h, w, dtype=torch.int32, device=device)
            if group:
                signed = torch.cat([signed_steps_fixed(coefficients[:start], steps[:start])[None], slopes], dim=1)
                mean = prior.mean(state, group, signed, arithmetic)[0]
                scaled = mean.long() * steps[start : start + size]
                whole_mean = torch.div(scaled + ONE // 2, ONE, rounding_mode="floor").int()
            base = prior.group_base(group, kind, qp, arithmetic)
            index = fixed_scale_index(prior.scale_index(state, group, base, arithmetic)[0], lowest, SCALE_COUNT - 1)
            index[max(live - start, 0) :] = 0
            found = source.exchange(index, whole_mean, Channels(start, start + size))
            symbols[start : start + size] = found
            coefficients[start : start + size] = _clamp(whole_mean + found * steps[start : start + size])
        if group + 1 < len(GROUP_SIZES):
            here = coefficients[start : start + size]
            if group == 0:
                slopes = signed_steps_fixed(dc_slopes(here[None]), steps[:size].repeat(4, 1, 1))
            seen = log_magnitude_fixed(symbols[start : start + size])[None]
            values = signed_steps_fixed(symbols[start : start + size], 1)[None]
            state = prior.advance(state, group, seen, values, arithmetic)
    return FrameSymbols(coefficients, symbols)


def _code_pyramid(
    prior: PriorNetwork,
    arithmetic: FixedArithmetic,
    state: Tensor,
    qp: Tensor,
    source: SymbolSource,
    coefficients: Tensor,
    symbols: Tensor,
    lowest: int,
    steps: Tensor,
) -> None:
    """Intra DC values, lattice by lattice; each is predicted from its known neighbours. Fills the first channels."""
    size = GROUP_SIZES[0]
    _, h, w = coefficients.shape
    base = prior.pyramid_scale(qp, arithmetic)[0]  # (levels, 3)
    raw = prior.scale_index(state, 0, torch.zeros_like(base[:1, :, None, None]), arithmetic)[0].flatten(1)
    known = torch.zeros(size, h * w, dtype=torch.int64, device=coefficients.device)
    found = torch.zeros(size, h * w, dtype=torch.int32, device=coefficients.device)
    for part in dc_pyramid(h, w, coefficients.device):
        mean = part.predict(known).int()
        index = fixed_scale_index(raw[:, part.positions] + base[part.level][:, None], lowest, SCALE_COUNT - 1)
        here = source.exchange(index, mean, Channels(0, size, part.positions))
        found[:, part.positions] = here
        known[:, part.positions] = _clamp(mean + here * steps[:size, 0]).long()
    symbols[:size] = found.reshape(size, h, w)
    coefficients[:size] = known.reshape(size, h, w).int()


def _clamp(coefficients: Tensor) -> Tensor:
    return coefficients.clamp(-_LARGEST_COEFFICIENT, _LARGEST_COEFFICIENT)
