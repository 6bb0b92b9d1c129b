"""One frame between planes and symbols, in exact whole-number arithmetic. Encoder and decoder run this same code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codec.count_tables import COUNT_BITS, COUNT_TOTAL
from codec.exact.blocks import checkerboard
from codec.innvc.prior import PriorNetwork
from codec.inter.context import (
    LARGEST_COEFFICIENT,
    STEP_BITS,
    STEP_UNITS,
    around,
    clamp_coefficients,
    dc_slopes,
    log_magnitude,
    log_steps,
    seen_symbols,
    signed_units,
)
from codec.inter.layout import GROUP_SIZES, GROUP_STARTS, dc_pyramid, live_channels
from codec.inter.quantization import whole_steps
from codec.inter.scale_index import TOLD_GUESSES, whole_index
from codec.inter.symbol_sources import Places, SymbolSource
from codec.inter.walk_maps import NOTHING, QPBase, flat_map, flat_steps, kernels_for, look_up, plain

_CHANNELS = sum(GROUP_SIZES)
# A scale index more changes the odds of zero by about a quarter; half a step at a time, in sixteenths of an index.
_TRIM_GAIN = 16 * 4 // 2
_TRIM_PRIOR = 60 << 16
_LARGEST_TRIM = 64


@dataclass(frozen=True)
class Surprise:
    """How many symbols were other than zero beyond what was expected, and the variance of that, by channel: (n,) int64
    each, in 65536ths."""

    excess: Tensor
    variance: Tensor


def surprise(zeros: Tensor, numbers: Tensor, symbols: Tensor) -> Surprise:
    """What symbols (n, places) say about the tables (n, places) that they were coded with, of these zero counts."""
    likely = torch.where(numbers > 0, COUNT_TOTAL - zeros[numbers], 0)
    excess = ((symbols != 0).long() << COUNT_BITS) - likely
    return Surprise(excess.sum(1), ((likely * (COUNT_TOTAL - likely)) >> COUNT_BITS).sum(1))


@dataclass(frozen=True)
class FrameContext:
    """What both sides know before the first symbol of a frame.

    kind: 0 intra, 1 inter after intra, 2 inter after inter. qps: (h, w) int64, QP of each block. predicted: (96, h, w)
    int32 transform of the predicted frame in order of importance (zeros for intra). guesses: (GUESSES, 96, h, w) int32,
    what the other guesses' differ by from it, or None for intra. state: (1, S, h, w) recurrent state, already warped,
    or None where the model has none. vectors: (2, h, w) int64. field: (1, F, h, w) features. All activations are whole
    float32. trim: (96,) int64, what the scale indices were found to be off by in frames before, in sixteenths.
    """

    kind: int
    qp: int
    qps: Tensor
    predicted: Tensor
    guesses: Tensor | None
    state: Tensor | None
    vectors: Tensor
    field: Tensor
    trim: Tensor


def code_coefficients(
    prior: PriorNetwork, context: FrameContext, source: SymbolSource, live_fraction: float
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Run through the groups: scale indices and means from the prior, symbols from or to the packet.

    Gives the coefficients, (96, h, w) int32 in order of importance, the recurrent state after the frame, and the trim.
    """
    walk = _Walk(prior, context, source, live_fraction)
    for group in range(len(GROUP_SIZES)):
        walk.code_group(group)
    if prior.state is None or context.state is None:
        return walk.coefficients, None, walk.trim
    return walk.coefficients, prior.state.renew(context.state, walk.features), walk.trim


class _Walk:
    """The groups in turn; what is known so far."""

    def __init__(self, prior: PriorNetwork, context: FrameContext, source: SymbolSource, live_fraction: float) -> None:
        self.prior, self.context, self.source = prior, context, source
        self.device = context.predicted.device
        self.steps = whole_steps(context.qps)
        self.h, self.w = context.predicted.shape[1:]
        self.kind = torch.tensor([context.kind], device=self.device)
        self.qp = torch.tensor([context.qp], device=self.device)
        predicted = log_steps(context.predicted, self.steps)[None]
        told = predicted.new_zeros(1, TOLD_GUESSES * _CHANNELS, self.h, self.w)
        self.guesses = None
        if context.guesses is not None:
            told = log_steps(context.guesses[:TOLD_GUESSES], self.steps).flatten(0, 1)[None]
            self.guesses = signed_units(context.guesses, self.steps)[None]
        inputs = [predicted, told, log_magnitude(context.vectors)[None], context.field]
        if context.state is not None:
            inputs.append(context.state)
        self.features = prior.begin(torch.cat(inputs, dim=1), self.kind, self.qp)
        self.live = live_channels(live_fraction, context.qp)
        self.coefficients = torch.zeros(_CHANNELS, self.h, self.w, dtype=torch.int32, device=self.device)
        self.beside = torch.zeros(0)
        self.trim = context.trim.clone()
        self.zeros = source.tables.zero_counts(self.device)

    def code_group(self, group: int) -> None:
        """Code one group and take it in."""
        size = GROUP_SIZES[group]
        symbols = torch.zeros(size, self.h * self.w, dtype=torch.int32, device=self.device)
        if group == 0 and self.context.kind == 0:
            self._code_pyramid(symbols)
        else:
            self._code_map(group, symbols)
        if group < 2:
            channels = slice(GROUP_STARTS[group], GROUP_STARTS[group] + size)
            here, steps = self.coefficients[None, channels], self.steps[channels].repeat(4, 1, 1)
            near = signed_units(around(here) if group else dc_slopes(here), steps)
            self.beside = torch.cat([self.beside, near], dim=1) if group else near
        if group < len(self.prior.learn):
            seen = seen_symbols(symbols.view(1, size, self.h, self.w))
            self.features = self.prior.advance(self.features, group, seen)

    def _code_map(self, group: int, symbols: Tensor) -> None:
        size, start = GROUP_SIZES[group], GROUP_STARTS[group]
        predicted, base, alive = self._means(group), self._base(group), max(self.live - start, 0)
        parts: tuple[Tensor, ...] = (torch.arange(self.h * self.w, device=self.device).expand(size, -1),)
        if self.prior.in_halves(group):
            parts = checkerboard(size, self.h, self.w, self.device)
        features = self.features
        for number, flat in enumerate(parts):
            if number:
                known = log_magnitude(symbols.view(1, size, self.h, self.w))
                features = self.prior.second_half(features, group, known)
            heads = self.prior.scale_heads[group](features)
            index, numbers, means = look_up(self.source.tables.scales, heads, base, alive, predicted, flat)
            found = self.source.exchange(index, numbers, means, Places(start, start + size, flat, number > 0))
            told = self._take_in(found, numbers, flat, symbols)
            if self.context.kind:
                self.source.tables.learn(numbers, found)
                self._learn(slice(start, start + size), told)
        self.coefficients[start : start + size] = self._rebuilt(group, predicted, symbols)

    def _base(self, group: int) -> QPBase:
        start = GROUP_STARTS[group]
        table, trim = self.prior.group_table(group, self.kind)[:, 0], self.context.trim
        return QPBase(table, self.context.qps.flatten(), trim[start : start + GROUP_SIZES[group]])

    def _take_in(self, found: Tensor, numbers: Tensor, flat: Tensor, symbols: Tensor) -> Surprise:
        """Put symbols found where they belong; what they say about their tables."""
        if (kernels := kernels_for(found)) is None:
            symbols.scatter_(1, flat, found)
            return surprise(self.zeros, numbers, found)
        told = torch.empty(2, len(found), dtype=torch.int64)
        given = plain(found), plain(numbers), plain(flat), plain(self.zeros)
        kernels.take_in(*given, symbols.numpy(), told.numpy())
        return Surprise(told[0], told[1])

    def _rebuilt(self, group: int, means: Tensor, symbols: Tensor) -> Tensor:
        """A group's coefficients, (n, h, w) int32."""
        size, start = GROUP_SIZES[group], GROUP_STARTS[group]
        steps = self.steps[start : start + size]
        if (kernels := kernels_for(means)) is None:
            return clamp_coefficients(means + symbols * steps.flatten(1)).int().view(size, self.h, self.w)
        values = torch.empty(size, self.h, self.w, dtype=torch.int32)
        into = values.flatten(1).numpy()
        kernels.rebuild(plain(means), plain(symbols), flat_steps(steps), LARGEST_COEFFICIENT, into)
        return values

    def _learn(self, channels: slice, told: Surprise) -> None:
        """A Newton step towards scales that expect what came; a prior of some symbols holds it back."""
        change = torch.div(_TRIM_GAIN * told.excess, told.variance + _TRIM_PRIOR, rounding_mode="floor")
        self.trim[channels] = (self.trim[channels] + change).clamp(-_LARGEST_TRIM, _LARGEST_TRIM)

    def _means(self, group: int) -> Tensor:
        """Predictions (n, h·w) int64 in the transform's units."""
        size, start = GROUP_SIZES[group], GROUP_STARTS[group]
        signed = None
        if group:
            signed = signed_units(self.coefficients[:start], self.steps[:start])[None]
            signed = torch.cat([signed, self.beside], dim=1)
        guesses = None if self.guesses is None else self.guesses[:, :, start : start + size]
        steps = self.steps[start : start + size]
        if (kernels := kernels_for(self.features)) is None:
            mean = self.prior.mean(self.features, group, signed, guesses)
            if mean is None:
                return torch.zeros(size, self.h * self.w, dtype=torch.int64, device=self.device)
            return (mean[0].flatten(1).long() * steps.flatten(1) + STEP_UNITS // 2) >> STEP_BITS
        known, gates, leanings = self.prior.mean_parts(self.features, group, signed, guesses)
        found = torch.empty(size, self.h * self.w, dtype=torch.int64)
        given = NOTHING[0], NOTHING[0], NOTHING, NOTHING
        if known is not None and gates is not None:
            given = flat_map(known, torch.float32)[0], flat_map(gates, torch.float32)[0], *given[2:]
        if guesses is not None and leanings is not None:
            given = *given[:2], flat_map(guesses[0], torch.float32), flat_map(leanings[0], torch.float32)
        kernels.couple(*given, flat_steps(steps), found.numpy())
        return found

    def _code_pyramid(self, symbols: Tensor) -> None:
        """Intra DC values, lattice by lattice; each is predicted from its known neighbours."""
        size = GROUP_SIZES[0]
        base = self.prior.pyramid_scale(self.qp)[0]  # (levels, 3)
        raw = self.prior.scale_index(self.features, 0, torch.zeros_like(base[:1, :, None, None]))[0].flatten(1)
        known = torch.zeros(size, self.h * self.w, dtype=torch.int64, device=self.device)
        for part in dc_pyramid(self.h, self.w, self.device):
            mean = part.predict(known)
            index = whole_index(raw[:, part.positions] + base[part.level][:, None])
            flat = part.positions.expand(size, -1)
            numbers = self.source.tables.scales.number(index)
            found = self.source.exchange(index, numbers, mean, Places(0, size, flat))
            symbols[:, part.positions] = found
            known[:, part.positions] = clamp_coefficients(
                mean + found * self.steps[:size].flatten(1)[:, part.positions]
            )
        self.coefficients[:size] = known.view(size, self.h, self.w).int()
