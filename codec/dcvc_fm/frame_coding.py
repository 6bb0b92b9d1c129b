"""One inter frame's symbols, in exact whole-number arithmetic. Encoder and decoder run this same code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codec.dcvc_fm.network import (
    CORRECTION_UNITS,
    MEMORY,
    FrameNetwork,
    decoded_inputs,
    frame_inputs,
    seen,
)
from codec.dcvc_fm.scalers import CHANNELS
from codec.exact.blocks import checkerboard
from codec.inter.context import STEP_BITS, STEP_UNITS, clamp_coefficients, log_magnitude, log_steps, signed_units
from codec.inter.prediction import GUESSES
from codec.inter.scale_index import TOLD_GUESSES
from codec.inter.symbol_sources import Places, SymbolSource
from codec.inter.walk_maps import NOTHING, QPBase, flat_map, flat_steps, kernels_for, look_up


@dataclass(frozen=True)
class Look:
    """What both sides see of a frame: expected, (96, h, w) int32, and what the guesses differ from it by, (GUESSES, 96,
    h, w) int32, in the transform's units and order of importance; steps (96, 1, 1) int64 in the same; vectors
    (1, 2, h, w) int64."""

    expected: Tensor
    guesses: Tensor
    steps: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class Coded:
    """Residuals in the transform's units, (96, h, w) int32: of what later frames are predicted from, and of what is
    shown; the temporal feature, (1, F, h, w)."""

    kept: Tensor
    shown: Tensor
    feature: Tensor


def look_at(frame: Tensor, steps: Tensor) -> Tensor:
    """What a temporal feature is made anew from: a decoded frame's transform, (96, h, w) int32."""
    return frame_inputs(log_steps(frame, steps)[None], signed_units(frame, steps)[None])


class Expectation:
    """The networks before a frame's first symbol, and their way through its symbols."""

    def __init__(self, network: FrameNetwork, look: Look, feature: Tensor, place: int, qp: int) -> None:
        self.network, self.look, self.qp_number = network, look, qp
        device = feature.device
        self.place, self.qp = (torch.tensor([value], device=device) for value in (place, qp))
        told = log_steps(look.guesses[:TOLD_GUESSES], look.steps).flatten(0, 1)[None]
        magnitudes = [log_steps(look.expected, look.steps)[None], told, log_magnitude(look.vectors)]
        self.guesses = signed_units(look.guesses, look.steps)[None]
        self.moved = network.feature.move(feature, look.vectors)
        self.features = network.begin(self.moved, torch.cat(magnitudes, dim=1), self.place, self.qp)

    def code(self, source: SymbolSource) -> Coded:
        """Symbols from or to the packet, and what follows from them."""
        look, (h, w) = self.look, self.look.expected.shape[1:]
        symbols = torch.zeros(CHANNELS, h * w, dtype=torch.int32, device=look.expected.device)
        means = torch.zeros(CHANNELS, h * w, dtype=torch.int64, device=look.expected.device)
        features = self.features
        table = self.network.base_scale(self.qp)[:, int(self.place)]
        base = QPBase(table, torch.zeros_like(means[0]), torch.zeros_like(means[:, 0]))
        for half, flat in enumerate(checkerboard(CHANNELS, h, w, look.expected.device)):
            if half:
                features = self.network.second_half(features, _seen(symbols.view(1, CHANNELS, h, w)))
            heads = self.network.scale_heads[half](features)
            index, numbers, predicted = look_up(
                source.tables.scales, heads, base, CHANNELS, self._means(features, half), flat
            )
            found = source.exchange(index, numbers, predicted, Places(0, CHANNELS, flat, half > 0))
            source.tables.learn(numbers, found)
            symbols.scatter_(1, flat, found)
            means.scatter_(1, flat, predicted)
        return self._decode(features, symbols.view(1, CHANNELS, h, w), means.view(CHANNELS, h, w))

    def _means(self, features: Tensor, half: int) -> Tensor:
        """Predictions (96, h·w) int64 in the transform's units."""
        steps = self.look.steps
        if (kernels := kernels_for(features)) is None:
            mean = self.network.mean(features, half, self.guesses)[0].flatten(1)
            return (mean.long() * steps.flatten(1) + STEP_UNITS // 2) >> STEP_BITS
        leanings = self.network.lean_heads[half](features).unflatten(1, (GUESSES, -1))
        found = torch.empty(CHANNELS, features.shape[2] * features.shape[3], dtype=torch.int64)
        parts = (flat_map(part[0], torch.float32) for part in (self.guesses, leanings))
        kernels.couple(NOTHING[0], NOTHING[0], *parts, flat_steps(steps), found.numpy())
        return found

    def _decode(self, features: Tensor, symbols: Tensor, means: Tensor) -> Coded:
        look, network = self.look, self.network
        values = clamp_coefficients(means + symbols[0] * look.steps)
        units = signed_units(values, look.steps)[None]
        so_far = signed_units(look.expected + values, look.steps)[None]
        decoded = decoded_inputs(_seen(symbols), so_far, self.guesses[:, MEMORY] - units)
        last = network.decode(features, decoded)
        correction = network.correction(last)[0].long() * look.steps
        change = torch.div(correction + CORRECTION_UNITS // 2, CORRECTION_UNITS, rounding_mode="floor")
        shown = clamp_coefficients(values + change).int()
        return Coded(values.int(), shown, network.feature.renew(self.moved, last))


def _seen(symbols: Tensor) -> Tensor:
    return seen(log_magnitude(symbols), symbols)
