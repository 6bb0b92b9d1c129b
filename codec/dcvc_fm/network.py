"""DCVC-FM's decoder networks: what is expected of a frame, and what is made of its symbols. In exact arithmetic.

    temporal feature, warped ── adaptor of the frame's place in the hierarchy ─┐
    predicted frame, guesses, vectors ─────────────────────────────────────────┼─ 1x1 ─ context blocks ─┐
                                                                                                        │
    first half of the symbols:  scale, leaning to the guesses ◀─────────────────────────────────────────┤
                                                                + first half ─ half blocks ─┐           │
    second half:                scale, leaning to the guesses ◀─────────────────────────────┤
                          + all symbols, the frame so far ─ decoder blocks ─┬─ correction of what is shown
                                                                            └─ temporal feature, renewed

All maps are at 1/8 resolution (one latent at 1/8, as in DCVC-RT), the 96 channels of a frame's packed transform in
order of importance. Since every layer is exact, the decoded frame is the same on every machine, and so what follows
from it may decide probabilities: the temporal prior needs no other source. What is shown is corrected, what later
frames are predicted from is not: what moved a picture in each frame of a chain would have it drift.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.dcvc_fm.config import HIERARCHY, DCVCFMConfig
from codec.dcvc_fm.scalers import CHANNELS, QuantizationScalers
from codec.exact.blocks import ResidualBlock, TemporalState
from codec.exact.layers import BIAS_UNIT, ExactConv2d, ExactQPTable
from codec.exact.operations import add, lean, relu
from codec.inter.context import dc_slopes
from codec.inter.prediction import GUESSES
from codec.inter.scale_index import HEAD_UNITS, INDEX_UNITS, TOLD_GUESSES, natural_scale_index

PLACES = 1 + max(HIERARCHY)  # of a frame in the hierarchy
MEMORY = 1  # of the guesses, the running average
CORRECTION_UNITS = 32  # a correction of so much is a step
_FIRST_GATES = (10.0, 24.0, 0.0)  # of 64, for each guess before training
_DC = 3  # channels, the first in order of importance
SLOPES = 4 * _DC
_SIGNED_LIMIT = 127


class FrameNetwork(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: DCVCFMConfig) -> None:
        super().__init__()
        width, feature = config.width, config.feature_channels

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, config.hidden) for _ in range(count))

        self.scalers = QuantizationScalers()
        self.feature = TemporalState(width, feature)
        self.refresh = ExactConv2d(2 * CHANNELS + SLOPES, feature)
        self.adaptors = nn.ModuleList(ExactConv2d(feature, feature) for _ in range(PLACES))
        self.enter = ExactConv2d(CHANNELS * (1 + TOLD_GUESSES) + 2 + feature, width)
        self.place_bias = ExactQPTable(PLACES, width, unit=16)
        self.context = blocks(config.context_blocks)
        self.base_scale = ExactQPTable(PLACES, CHANNELS, unit=INDEX_UNITS)
        self.scale_heads = nn.ModuleList(ExactConv2d(width, CHANNELS) for _ in range(2))
        self.lean_heads = nn.ModuleList(ExactConv2d(width, GUESSES * CHANNELS) for _ in range(2))
        self.learn_half = ExactConv2d(3 * CHANNELS, width)
        self.halfway = blocks(config.half_blocks)
        self.learn_all = ExactConv2d(5 * CHANNELS + SLOPES, width)
        self.decoder = blocks(config.decoder_blocks)
        self.correction = ExactConv2d(width, CHANNELS)
        self._initialize()

    def begin(self, warped: Tensor, magnitudes: Tensor, place: Tensor, qp: Tensor) -> Tensor:
        """Features before the first half: warped feature (B, F, h, w), magnitudes (B, 3·96 + 2, h, w), place (B,) in
        the hierarchy, qp (B,)."""
        bias = self.place_bias(qp)[torch.arange(len(qp), device=qp.device), place]
        # One place a batch while coding and, as clips are cut in step, while training.
        adapted = self.adaptors[int(place[0])](warped)
        features = relu(add(self.enter(torch.cat([magnitudes, adapted], dim=1)), bias[:, :, None, None]))
        for block in self.context:
            features = block(features)
        return features

    def second_half(self, features: Tensor, known: Tensor) -> Tensor:
        """Take in the first half: known (B, 3·96, h, w), see `seen`, zero at the places of the second."""
        features = add(features, self.learn_half(known))
        for block in self.halfway:
            features = block(features)
        return features

    def scale_index(self, features: Tensor, half: int, place: Tensor, qp: Tensor) -> Tensor:
        """Scale index of each symbol in sixteenths, (B, 96, h, w)."""
        base = self.base_scale(qp)[torch.arange(len(qp), device=qp.device), place][:, :, None, None]
        return torch.as_tensor(self.scale_heads[half](features) * HEAD_UNITS + base)

    def mean(self, features: Tensor, half: int, guesses: Tensor) -> Tensor:
        """Expected coefficients in sixteenths of a step, (B, 96, h, w): the base leans to the other guesses, (B, 3, 96,
        h, w) in the same units."""
        return lean(guesses, self.lean_heads[half](features).unflatten(1, (GUESSES, -1)))

    def decode(self, features: Tensor, decoded: Tensor) -> Tensor:
        """Features that correction and temporal feature come from; decoded: see `decoded_inputs`."""
        features = add(features, self.learn_all(decoded))
        for block in self.decoder:
            features = block(features)
        return features

    def renewed(self, from_frame: Tensor) -> Tensor:
        """The temporal feature made anew from a decoded frame; see `frame_inputs`."""
        return torch.as_tensor(self.refresh(from_frame))

    def _initialize(self) -> None:
        """Start as a plain transform codec that leans to its guesses and corrects nothing."""
        for layer in (*self.scale_heads, *self.lean_heads, self.correction):
            nn.init.zeros_(layer.weight)
        for head in self.lean_heads:
            start = torch.tensor(_FIRST_GATES).repeat_interleave(CHANNELS) / BIAS_UNIT
            head.bias = nn.Parameter(start)
        with torch.no_grad():
            for knot in range(ExactQPTable.KNOTS):
                self.base_scale.knots[knot] = natural_scale_index(knot, 0.25)[None]


def seen(log_magnitudes: Tensor, symbols: Tensor) -> Tensor:
    """What is told of symbols (B, 96, h, w): magnitudes, which are not zero, signs and sizes: (B, 288, h, w)."""
    return torch.cat([log_magnitudes, (symbols != 0).float() * 64, signed_activation(symbols * 16)], dim=1)


def signed_activation(values: Tensor) -> Tensor:
    """Whole values as activations, cut off."""
    return values.float().clamp(-_SIGNED_LIMIT, _SIGNED_LIMIT)


def decoded_inputs(seen_symbols: Tensor, frame_units: Tensor, memory_units: Tensor) -> Tensor:
    """What the decoder blocks look at: `seen` of all symbols; the frame so far and what the memory differs from it by,
    (B, 96, h, w) in sixteenths of a step."""
    frame = torch.floor(frame_units / 4)
    return torch.cat([seen_symbols, signed_activation(frame), signed_activation(memory_units), _slopes(frame)], dim=1)


def frame_inputs(log_magnitudes: Tensor, frame_units: Tensor) -> Tensor:
    """What a temporal feature is made anew from: a decoded frame's magnitudes and values in sixteenths of a step."""
    frame = torch.floor(frame_units / 4)
    return torch.cat([log_magnitudes, signed_activation(frame), _slopes(frame)], dim=1)


def _slopes(frame: Tensor) -> Tensor:
    return signed_activation(dc_slopes(frame[:, :_DC]))
