"""The prior network: from what the decoder already has to each coefficient's mean and scale.

    previous symbols ─┐
    predicted frame ──┼─ 1x1 ─ trunk ─┬───────────────┬─ ... one round a group of channels
    vectors, field ───┘               │  group 0      │  + what group 0 turned out to be
                                      ├─ scale index  ├─ scale index
                                      └─ gate · (linear map of signed values) = mean

Means enter the transform as additive couplings: a group's residual is its coefficients minus a mean computed from
groups already quantized, so the decoder adds the very same mean back and the path stays invertible.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codec.arithmetic import ONE, Arithmetic, FixedArithmetic
from codec.distributions import LOG2_STEP, SMALLEST_SCALE
from codec.innvc.config import InnVCConfig
from codec.innvc.layout import GROUP_SIZES, GROUP_STARTS, ORDER, PYRAMID_LEVELS
from codec.innvc.quantization import COARSEST_STEP

FRAME_KINDS = 3  # intra; inter after intra; inter after inter
KNOTS = 8  # learned tables hold a value every nine QPs, an octave of step size
KNOT_SPACING = 9
DC_DIFFERENCES = 12  # three DC channels, four neighbours
SCALE_GAIN = 4.0  # one unit of a scale head is this many scale indices


class ResidualBlock(nn.Module):
    """Depthwise 3x3, 1x1, ReLU, 1x1, skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.widen = nn.Conv2d(width, width, 1)
        self.narrow = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, arithmetic: Arithmetic) -> Tensor:
        """(B, width, h, w) → the same."""
        inner = arithmetic.relu(arithmetic.conv(self.widen, arithmetic.conv(self.depthwise, x)))
        return arithmetic.add(x, arithmetic.conv(self.narrow, inner))


class QPTable(nn.Module):
    """Learned values for every QP: knots an octave of step size apart, straight lines between."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.knots = nn.Parameter(torch.zeros(KNOTS, *shape))

    def forward(self, qp: Tensor, arithmetic: Arithmetic) -> Tensor:
        """qp (B,) int64 → (B, *shape)."""
        knots = arithmetic.table(self.knots)
        low = torch.div(qp, KNOT_SPACING, rounding_mode="floor")
        high = (low + 1).clamp_max(KNOTS - 1)
        part = (qp - low * KNOT_SPACING).view(-1, *[1] * (knots.dim() - 1))
        total = knots[low] * (KNOT_SPACING - part) + knots[high] * part
        if isinstance(arithmetic, FixedArithmetic):
            return torch.floor(total / KNOT_SPACING)  # both are whole and below 2^53, so the quotient's floor is exact
        return total / KNOT_SPACING


class PriorNetwork(nn.Module):
    """See the module's drawing. All maps are at 1/8 resolution, channels in order of importance."""

    def __init__(self, config: InnVCConfig) -> None:
        super().__init__()
        width = config.width
        channels = sum(GROUP_SIZES)
        self.enter = nn.Conv2d(2 * channels + 2 + config.field_features, width, 1)
        self.kind_bias = QPTable(FRAME_KINDS, width)
        self.base_scale = QPTable(FRAME_KINDS, channels)
        self.pyramid_scale = QPTable(PYRAMID_LEVELS, GROUP_SIZES[0])
        self.trunk = nn.ModuleList(ResidualBlock(width) for _ in range(config.trunk_blocks))
        self.learn = nn.ModuleList(nn.Conv2d(2 * n, width, 1) for n in GROUP_SIZES[:-1])
        self.rounds = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width) for _ in range(config.group_blocks)) for _ in GROUP_SIZES[:-1]
        )
        self.scale_heads = nn.ModuleList(nn.Conv2d(width, n, 1) for n in GROUP_SIZES)
        # Group 0 has no earlier group to learn a mean from. Without bias, nothing coded means nothing added: a mean
        # that moved coefficients by itself would do so again in each frame of a chain, and the picture would drift.
        later = list(zip(GROUP_SIZES, GROUP_STARTS, strict=True))[1:]
        self.gate_heads = nn.ModuleList(nn.Conv2d(width, n, 1) for n, _ in later)
        self.mean_maps = nn.ModuleList(nn.Conv2d(start + DC_DIFFERENCES, n, 1, bias=False) for n, start in later)
        self._initialize()

    def begin(self, inputs: Tensor, kind: Tensor, qp: Tensor, arithmetic: Arithmetic) -> Tensor:
        """The state before group 0: inputs (B, 194 + field features, h, w), kind and qp (B,)."""
        bias = self.kind_bias(qp, arithmetic)[torch.arange(len(qp), device=qp.device), kind]
        state = arithmetic.relu(arithmetic.add(arithmetic.conv(self.enter, inputs), bias[:, :, None, None]))
        for block in self.trunk:
            state = block(state, arithmetic)
        return state

    def advance(self, state: Tensor, group: int, magnitudes: Tensor, signed: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Take in group `group` as decoded: its log magnitudes and signed values, (B, n, h, w) each."""
        seen = torch.cat([magnitudes, signed.abs()], dim=1)
        state = arithmetic.add(state, arithmetic.conv(self._layer(self.learn, group), seen))
        for block in self.rounds[group]:  # type: ignore[attr-defined]
            state = block(state, arithmetic)
        return state

    def scale_index(self, state: Tensor, group: int, base: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Real-valued scale index of each symbol: (B, n, h, w) in activation units; base (B, n, 1, 1)."""
        raw = arithmetic.conv(self._layer(self.scale_heads, group), state) * SCALE_GAIN
        return raw + base

    def group_base(self, group: int, kind: Tensor, qp: Tensor, arithmetic: Arithmetic) -> Tensor:
        """The learned scale index before any context: (B, n, 1, 1)."""
        start = GROUP_STARTS[group]
        table = self.base_scale(qp, arithmetic)[torch.arange(len(qp), device=qp.device), kind]
        return table[:, start : start + GROUP_SIZES[group], None, None]

    def mean(self, state: Tensor, group: int, signed: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Coupling mean of a group after the first, in quantization steps: (B, n, h, w).

        signed: values of the earlier groups in steps, then DC slopes, (B, start + 12, h, w).
        """
        linear = arithmetic.conv(self._layer(self.mean_maps, group - 1), signed)
        return arithmetic.gate(linear, arithmetic.conv(self._layer(self.gate_heads, group - 1), state))

    @staticmethod
    def _layer(layers: nn.ModuleList, index: int) -> nn.Conv2d:
        layer = layers[index]
        assert isinstance(layer, nn.Conv2d)
        return layer

    def _initialize(self) -> None:
        """Start as a plain transform codec: zero means, scales as natural images roughly have them."""
        for block in [*self.trunk, *[b for r in self.rounds for b in r]]:  # type: ignore[attr-defined]
            nn.init.zeros_(block.narrow.bias)
            nn.init.normal_(block.narrow.weight, std=0.02)
        for layer in [*self.mean_maps, *self.scale_heads, *self.gate_heads]:
            nn.init.zeros_(layer.weight)
        for layer in self.scale_heads:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for layer in self.gate_heads:
            nn.init.constant_(layer.bias, 0.5)  # type: ignore[arg-type]
        spread = torch.tensor([_natural_spread(c) for c in ORDER])
        with torch.no_grad():
            for knot in range(KNOTS):
                step = COARSEST_STEP * 2.0**-knot
                for kind, share in enumerate((1.0, 0.25, 0.25)):
                    self.base_scale.knots[knot, kind] = _scale_index(spread * share / step)
                for level in range(PYRAMID_LEVELS):
                    dc = torch.tensor([360.0, 60.0, 60.0]) * 2.0 ** (-0.4 * level)
                    self.pyramid_scale.knots[knot, level] = _scale_index(dc / step)


def _natural_spread(channel: int) -> float:
    """Rough Laplace scale of a transform coefficient of natural images, in 8-bit sample units."""
    size, index = (8, channel) if channel < 64 else (4, (channel - 64) % 16)
    v, u = divmod(index, size)
    frequency = math.hypot(u, v) * 8 / size
    return (60.0 if size == 8 else 12.0) / (1 + frequency) ** 1.4


def _scale_index(scale: Tensor) -> Tensor:
    return torch.log2(scale.clamp_min(SMALLEST_SCALE) / SMALLEST_SCALE) / LOG2_STEP


def fixed_scale_index(raw: Tensor, lowest: int, highest: int) -> Tensor:
    """Round real-valued indices in fixed point to the table's index, int64."""
    return torch.floor(raw / ONE + 0.5).clamp(lowest, highest).long()
