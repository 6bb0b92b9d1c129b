"""The prior network: from what the decoder already has to each coefficient's mean and scale, in exact arithmetic.

    recurrent state, warped ─┐
    predicted frame, guesses ┼─ 1x1 ─ trunk ─┬────────────────┬─ ... one round a group ─ recurrent state
    vectors, field ──────────┘               │  group 0       │  + what group 0 turned out to be
                                             ├─ scale index   ├─ scale index
                                             │   + first half │   + first half of the checkerboard
                                             └─ mean          └─ mean

    mean = gate · (linear map of signed values of earlier groups) + sum over guesses of gate · (guess - base)

Means enter the transform as additive couplings: a group's residual is its coefficients minus a mean computed from
groups already quantized and from what frames before predict (`prediction`), so the decoder adds the very same mean
back and the path stays invertible.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.exact.blocks import CheckerboardContext, ResidualBlock, TemporalState
from codec.exact.layers import BIAS_UNIT, ExactConv2d, ExactQPTable, ExactWideMap
from codec.exact.operations import GATE_ONE, add, lean, relu, scale_by_gate
from codec.innvc.config import InnVCConfig
from codec.inter.layout import GROUP_SIZES, GROUP_STARTS, PYRAMID_LEVELS
from codec.inter.prediction import GUESSES
from codec.inter.quantization import COARSEST_STEP
from codec.inter.scale_index import HEAD_UNITS, INDEX_UNITS, TOLD_GUESSES, natural_scale_index, scale_index_of
from codec.streams import QP_COUNT

FRAME_KINDS = 3  # intra; inter after intra; inter after inter
_FIRST_GATES = (10.0, 24.0, 0.0)  # of 64, for each guess before training


def beside(group: int) -> int:
    """How many values of neighbouring blocks a group's mean is made of: DC slopes, later group 1 as well."""
    return 4 * (GROUP_SIZES[0] if group == 1 else GROUP_SIZES[0] + GROUP_SIZES[1])


class MeanParts(NamedTuple):
    """known: what earlier groups say, in sixteenths of a step, and its gates, (B, n, h, w); leanings: the guesses'
    gates, (B, GUESSES, n, h, w)."""

    known: Tensor | None
    gates: Tensor | None
    leanings: Tensor | None


class PriorNetwork(nn.Module):
    """See the module's drawing. All maps are at 1/8 resolution, channels in order of importance."""

    def __init__(self, config: InnVCConfig) -> None:
        super().__init__()
        width = config.width
        channels = sum(GROUP_SIZES)
        self.state = TemporalState(width, config.state_channels) if config.state_channels else None
        inputs = channels * (1 + TOLD_GUESSES) + 2 + config.state_channels + config.field_features
        self.enter = ExactConv2d(inputs, width)
        self.kind_bias = ExactQPTable(FRAME_KINDS, width, unit=16)
        self.base_scale = ExactQPTable(FRAME_KINDS, channels, unit=INDEX_UNITS)
        self.pyramid_scale = ExactQPTable(PYRAMID_LEVELS, GROUP_SIZES[0], unit=INDEX_UNITS)
        self.trunk = nn.ModuleList(ResidualBlock(width) for _ in range(config.trunk_blocks))
        # What the last group turned out to be matters to the recurrent state alone.
        known = GROUP_SIZES if config.state_channels else GROUP_SIZES[:-1]
        self.learn = nn.ModuleList(ExactConv2d(2 * n, width) for n in known)
        self.rounds = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width) for _ in range(config.group_blocks)) for _ in known
        )
        self.halves = nn.ModuleList(CheckerboardContext(n, width) for n in GROUP_SIZES[: config.checkerboard_groups])
        self.scale_heads = nn.ModuleList(ExactConv2d(width, n) for n in GROUP_SIZES)
        self.lean_heads = nn.ModuleList(ExactConv2d(width, GUESSES * n) for n in GROUP_SIZES)
        # Group 0 has no earlier group to learn a mean from. Without bias, nothing coded means nothing added: a mean
        # that moved coefficients by itself would do so again in each frame of a chain, and the picture would drift.
        later = list(zip(GROUP_SIZES, GROUP_STARTS, strict=True))[1:]
        self.gate_heads = nn.ModuleList(ExactConv2d(width, n) for n, _ in later)
        self.mean_maps = nn.ModuleList(
            ExactWideMap(start + beside(group), n) for group, (n, start) in enumerate(later, 1)
        )
        self._initialize()

    def begin(self, inputs: Tensor, kind: Tensor, qp: Tensor) -> Tensor:
        """Features before group 0: kind and qp (B,); inputs, activations (B, n, h, w) with n = 96 for the base + 96 for
        each guess that is told of + 2 for vectors + field features + state."""
        bias = self.kind_bias(qp)[torch.arange(len(qp), device=qp.device), kind]
        features = relu(add(self.enter(inputs), bias[:, :, None, None]))
        for block in self.trunk:
            features = block(features)
        return features

    def advance(self, features: Tensor, group: int, seen: Tensor) -> Tensor:
        """Take in group `group` as decoded: see `context.seen_symbols`."""
        features = add(features, self.learn[group](seen))
        for block in self.rounds[group]:  # type: ignore[attr-defined]
            features = block(features)
        return features

    def in_halves(self, group: int) -> bool:
        """Whether this group is coded in the two halves of a checkerboard."""
        return group < len(self.halves)

    def second_half(self, features: Tensor, group: int, known: Tensor) -> Tensor:
        """Features for the second half: known (B, n, h, w), log magnitudes of the first, zero elsewhere."""
        return torch.as_tensor(self.halves[group](features, known))

    def scale_index(self, features: Tensor, group: int, base: Tensor) -> Tensor:
        """Scale index of each symbol in sixteenths: (B, n, h, w); base (B, n, 1, 1)."""
        return torch.as_tensor(self.scale_heads[group](features) * HEAD_UNITS + base)

    def group_base(self, group: int, kind: Tensor, qp: Tensor) -> Tensor:
        """The learned scale index before any context, in sixteenths: kind (B,), qp (B,) → (B, n, 1, 1), or qp (B, h, w)
        of blocks → (B, n, h, w)."""
        start = GROUP_STARTS[group]
        channels = slice(start, start + GROUP_SIZES[group])
        if qp.dim() == 1:
            table = self.base_scale(qp)[torch.arange(len(qp), device=qp.device), kind]
            return torch.as_tensor(table[:, channels, None, None])
        # All QPs at once, then each block its own.
        numbers = torch.arange(len(qp), device=qp.device).view(-1, 1, 1)
        return torch.as_tensor(self.group_table(group, kind)[qp, numbers].permute(0, 3, 1, 2))

    def group_table(self, group: int, kind: Tensor) -> Tensor:
        """The same for all QPs: kind (B,) → (64, B, n)."""
        start = GROUP_STARTS[group]
        tables = self.base_scale(torch.arange(QP_COUNT, device=kind.device))
        return torch.as_tensor(tables[:, kind, start : start + GROUP_SIZES[group]])

    def mean(self, features: Tensor, group: int, signed: Tensor | None, guesses: Tensor | None) -> Tensor | None:
        """Coupling mean of a group in sixteenths of a step: (B, n, h, w), or None where nothing is known.

        signed: values of the earlier groups in sixteenths of a step, then DC slopes and, after group 1, what the four
        neighbours have in group 1, (B, start + 12 or + 48, h, w); None for group 0. guesses: what each guess differs by
        from the base, (B, GUESSES, n, h, w), sixteenths of a step; None for intra frames.
        """
        known, gates, leanings = self.mean_parts(features, group, signed, guesses)
        total = None
        if known is not None and gates is not None:
            total = scale_by_gate(known, gates)
        if guesses is not None and leanings is not None:
            leaning = lean(guesses, leanings)
            total = leaning if total is None else total + leaning
        return total

    def mean_parts(self, features: Tensor, group: int, signed: Tensor | None, guesses: Tensor | None) -> MeanParts:
        """What `mean` is made of."""
        known = gates = leanings = None
        if group and signed is not None:
            known, gates = self.mean_maps[group - 1](signed), self.gate_heads[group - 1](features)
        if guesses is not None:
            leanings = self.lean_heads[group](features).unflatten(1, (GUESSES, -1))
        return MeanParts(known, gates, leanings)

    def _initialize(self) -> None:
        """Start as a plain transform codec: zero means, scales as natural images roughly have them."""
        for layer in [*self.scale_heads, *self.gate_heads, *self.lean_heads]:
            nn.init.zeros_(layer.weight)
        for head, size in zip(self.lean_heads, GROUP_SIZES, strict=True):
            start = torch.tensor(_FIRST_GATES).repeat_interleave(size) / BIAS_UNIT
            head.bias = nn.Parameter(start)
        for layer in self.gate_heads:
            nn.init.constant_(layer.bias, GATE_ONE / 2 / 16)  # type: ignore[arg-type]
        with torch.no_grad():
            for knot in range(ExactQPTable.KNOTS):
                step = COARSEST_STEP * 2.0**-knot
                for kind, share in enumerate((1.0, 0.25, 0.25)):
                    self.base_scale.knots[knot, kind] = natural_scale_index(knot, share)
                for level in range(PYRAMID_LEVELS):
                    dc = torch.tensor([360.0, 60.0, 60.0]) * 2.0 ** (-0.4 * level)
                    self.pyramid_scale.knots[knot, level] = scale_index_of(dc / step)
