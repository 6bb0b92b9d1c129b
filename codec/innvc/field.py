"""The conditioning field: small integer grids over (t, y, x) of a segment, and the little decoder that reads them.

Three levels: values for the whole picture, for each 32x32 samples (both anew in each time slice), and for each 16x16
samples (once a segment). An encoder network proposes them in one pass from the frames themselves; they are sent,
entropy coded, and the encoder leaves out levels that do not pay. The decoder turns them, with the time coordinate,
into feature maps at 1/8 resolution that every frame's prior sees. All of it is exact, so it may decide probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.distributions import LearnedTables
from codec.exact.layers import BIAS_UNIT, ExactConv2d, ExactQPTable
from codec.exact.operations import relu
from codec.innvc.config import InnVCConfig

LARGEST_VALUE = 31
VALUE_UNITS = 4  # a grid value of 1 enters the decoder as an activation of 4
_REACH = 15  # of the values' tables; rarer ones are escaped
_VALUES_PER_UNIT = BIAS_UNIT / VALUE_UNITS  # of the encoder network's floats
_TIME_UNITS = 64  # the activation that the segment's end would have

# The levels of a field, (B, slices, channels, rows, columns) each, whole numbers (floats while training).
Field = list[Tensor]


@dataclass(frozen=True)
class Level:
    """One level: its channels, the 8x8 blocks that a cell spans each way (0: the whole picture), and whether each
    time slice has its own. start: the Laplace scale that its values' tables begin training with."""

    channels: int
    cell: int
    sliced: bool
    start: float

    def shape(self, h: int, w: int, slices: int) -> tuple[int, int, int, int]:
        """(slices, channels, rows, columns) for a grid of h x w blocks."""
        rows, columns = (-(-h // self.cell), -(-w // self.cell)) if self.cell else (1, 1)
        return slices if self.sliced else 1, self.channels, rows, columns


FINE, COARSE = 2, 4


def levels(config: InnVCConfig) -> tuple[Level, ...]:
    """From the coarsest to the finest. The grids start nearly empty and nearly free, and grow where it pays."""
    return (
        Level(config.whole_channels, 0, True, 1.5),
        Level(config.coarse_channels, COARSE, True, 0.2),
        Level(config.fine_channels, FINE, False, 0.65),
    )


class FieldDecoder(nn.Module):
    """Grids and time → features, (B, field_features, h, w); and the tables that the grids' values are coded with."""

    def __init__(self, config: InnVCConfig) -> None:
        super().__init__()
        features = config.field_features
        self.levels = levels(config)
        self.slice_frames, self.segment_frames = config.slice_frames, config.segment_frames
        self.enter = ExactConv2d(sum(level.channels for level in self.levels) + 1, features)
        self.smooth = ExactConv2d(features, features, 3, depthwise=True)
        self.leave = ExactConv2d(features, features)
        # One table for each channel and octave of step size.
        starts = [level.start for level in self.levels for _ in range(level.channels * ExactQPTable.KNOTS)]
        self.tables = LearnedTables(len(starts), _REACH, starts)

    def forward(self, field: Field, frame: int, h: int, w: int) -> Tensor:
        """Features of the segment's frame number `frame`."""
        parts = []
        for level, grid in zip(self.levels, field, strict=True):
            # A stream may claim fewer slices than its segment has frames; the last one then stands for the rest.
            part = grid[:, min(frame // self.slice_frames, grid.shape[1] - 1)] * VALUE_UNITS
            if level.cell:
                part = part.repeat_interleave(level.cell, 2).repeat_interleave(level.cell, 3)[:, :, :h, :w]
            parts.append(part.expand(-1, -1, h, w))
        parts.append(torch.full_like(parts[0][:, :1], frame * _TIME_UNITS // self.segment_frames))
        x = relu(self.enter(torch.cat(parts, dim=1)))
        return relu(self.leave(self.smooth(x)))

    def rows(self, level: int, qp: Tensor) -> Tensor:
        """Rows of `tables` for the channels of a level: QPs (B,) → (B, channels) int64."""
        before = sum(each.channels for each in self.levels[:level])
        knot = torch.div(qp + ExactQPTable.SPACING // 2, ExactQPTable.SPACING, rounding_mode="floor")
        channel = torch.arange(before, before + self.levels[level].channels, device=qp.device)
        return channel * ExactQPTable.KNOTS + knot[:, None]


class SliceMeans:
    """Means over each time slice of what changes from frame to frame, gathered frame by frame."""

    def __init__(self, like: Tensor, slice_frames: int) -> None:
        self._zeros, self._length = torch.zeros_like(like), slice_frames
        self._frames = 0
        self._sums: list[Tensor] = []
        self._counts: list[int] = []

    def add(self, change: Tensor | None) -> None:
        """The next frame's magnitudes of change, (B, C, h, w); None for a segment's first frame, which has none."""
        if self._frames % self._length == 0:
            self._sums.append(self._zeros)
            self._counts.append(0)
        if change is not None:
            self._sums[-1] = self._sums[-1] + change
            self._counts[-1] += 1
        self._frames += 1

    def means(self) -> Tensor:
        """(B, slices, C, h, w); zeros for a slice without changes."""
        return torch.stack([s / max(n, 1) for s, n in zip(self._sums, self._counts, strict=True)], dim=1)


class FieldEncoder(nn.Module):
    """Proposes the levels from log magnitudes of the transformed frames and of their differences. Encoder only."""

    def __init__(self, config: InnVCConfig, channels: int, width: int = 64) -> None:
        super().__init__()
        self.summary = nn.Conv2d(2 * channels, config.whole_channels, 1)
        self.direct = nn.Conv2d(2 * channels, config.fine_channels, 1)
        self.enter = nn.Conv2d(2 * channels + 1, width, 1)
        self.halve = nn.Conv2d(width, width, 2, stride=2)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.fine = nn.Conv2d(width, config.fine_channels, 1)
        self.halve_again = nn.Conv2d(width, width, 2, stride=2)
        self.coarse = nn.Conv2d(width, config.coarse_channels, 1)
        self._initialize(channels)

    def forward(self, texture: Tensor, changes: Tensor, qp: Tensor) -> Field:
        """Real-valued levels, coarsest first.

        texture: (B, C, h, w) log magnitudes of the segment's first frame, zero where it is not intra;
        changes: (B, slices, C, h, w) for each time slice the mean over its frames of the log magnitudes of frame
        minus frame before, the segment's first frame left out; qp: (B,).
        """
        h, w = texture.shape[2:]
        level = (qp.float() / 32 - 1).view(-1, 1, 1, 1)
        whole, coarse, fine = [], [], []
        for change in changes.unbind(1):
            seen = torch.cat([texture, change], dim=1)
            whole.append(self.summary(seen.mean((2, 3), keepdim=True)))
            seen = F.pad(seen, (0, -w % COARSE, 0, -h % COARSE), mode="replicate")
            x = F.relu(self.enter(torch.cat([seen, level.expand(-1, 1, *seen.shape[2:])], dim=1)))
            x = F.relu(self.halve(x))
            x = x + F.relu(self.mix(x))
            fine.append(self.fine(x) + self.direct(F.avg_pool2d(seen, FINE)))
            coarse.append(self.coarse(F.relu(self.halve_again(x))))
        once = torch.stack(fine).mean(0)[:, None, :, : -(-h // FINE), : -(-w // FINE)]
        return [grid * _VALUES_PER_UNIT for grid in (torch.stack(whole, dim=1), torch.stack(coarse, dim=1), once)]

    def _initialize(self, channels: int) -> None:
        """Begin with what is worth saying: how busy a place is, and how much it changes. The rest is learned."""
        for layer in (self.fine, self.coarse, self.direct):
            nn.init.normal_(layer.weight, std=0.002)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.summary.weight, std=0.02)
        middle = slice(3, channels // 3)
        with torch.no_grad():
            for grid, first in enumerate((0, channels)[: self.direct.out_channels]):
                part = self.direct.weight[grid, first : first + channels]
                part[middle] += 0.4 / (channels // 3 - 3)
                self.direct.bias[grid] = -0.25  # type: ignore[index]
