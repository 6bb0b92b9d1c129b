"""The conditioning field: small integer grids over (t, y, x) of a segment, and the little decoder that reads them.

The fine grid has one value for each 16x16 samples and the whole segment; the coarse grid one for each 32x32 samples
and each time slice. An encoder network proposes them in one pass from the frames themselves; they are sent, entropy
coded. The decoder turns them, with the time coordinate, into feature maps at 1/8 resolution that every frame's prior
sees. All of it is exact, so the field may decide probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.arithmetic import Arithmetic
from codec.innvc.config import InnVCConfig
from codec.innvc.prior import QPTable

LARGEST_VALUE = 127
STEPS_PER_UNIT = 4.0  # a grid value of 4 enters the decoder as 1.0
FINE, COARSE = 2, 4  # blocks of 8x8 samples a grid cell spans, each way


@dataclass(frozen=True)
class Field:
    """fine: (B, Cf, ⌈h/2⌉, ⌈w/2⌉); coarse: (B, slices, Cc, ⌈h/4⌉, ⌈w/4⌉); whole numbers, float while training."""

    fine: Tensor
    coarse: Tensor


def grid_shapes(config: InnVCConfig, h: int, w: int, frames: int) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Shapes of fine and coarse grids (without batch) for a segment of so many frames on an h x w block grid."""
    slices = -(-frames // config.slice_frames)
    fine = (config.fine_channels, -(-h // FINE), -(-w // FINE))
    return fine, (slices, config.coarse_channels, -(-h // COARSE), -(-w // COARSE))


class FieldDecoder(nn.Module):
    """Grids and time → features, (B, field_features, h, w)."""

    def __init__(self, config: InnVCConfig) -> None:
        super().__init__()
        features = config.field_features
        self.slice_frames, self.segment_frames = config.slice_frames, config.segment_frames
        self.enter = nn.Conv2d(config.fine_channels + config.coarse_channels + 1, features, 1)
        self.smooth = nn.Conv2d(features, features, 3, padding=1, groups=features)
        self.leave = nn.Conv2d(features, features, 1)
        self.fine_scale = QPTable(config.fine_channels)
        self.coarse_scale = QPTable(config.coarse_channels)
        with torch.no_grad():
            # The field starts nearly empty and nearly free, and grows where it pays.
            self.fine_scale.knots.fill_(18.0)  # a Laplace scale of 0.64 grid steps
            self.coarse_scale.knots.fill_(10.0)  # 0.2

    def forward(self, field: Field, frame: int, h: int, w: int, arithmetic: Arithmetic) -> Tensor:
        """Features of the segment's frame number `frame`."""
        unit = arithmetic.constant(1 / STEPS_PER_UNIT)
        fine = field.fine.repeat_interleave(FINE, 2).repeat_interleave(FINE, 3)[:, :, :h, :w]
        coarse = field.coarse[:, frame // self.slice_frames]
        coarse = coarse.repeat_interleave(COARSE, 2).repeat_interleave(COARSE, 3)[:, :, :h, :w]
        time = torch.full_like(fine[:, :1], arithmetic.constant(frame / self.segment_frames))
        x = torch.cat([fine * unit, coarse * unit, time], dim=1)
        x = arithmetic.relu(arithmetic.conv(self.enter, x))
        return arithmetic.relu(arithmetic.conv(self.leave, arithmetic.conv(self.smooth, x)))


class FieldEncoder(nn.Module):
    """Proposes the grids from log magnitudes of the transformed frames and of their differences. Encoder only."""

    def __init__(self, config: InnVCConfig, channels: int, width: int = 64) -> None:
        super().__init__()
        self.slice_frames = config.slice_frames
        self.direct = nn.Conv2d(2 * channels, config.fine_channels, 1)
        self.enter = nn.Conv2d(2 * channels + 1, width, 1)
        self.halve = nn.Conv2d(width, width, 2, stride=2)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.fine = nn.Conv2d(width, config.fine_channels, 1)
        self.halve_again = nn.Conv2d(width, width, 2, stride=2)
        self.coarse = nn.Conv2d(width, config.coarse_channels, 1)
        self._initialize(channels)

    def _initialize(self, channels: int) -> None:
        """Begin with what is worth saying: how busy a place is, and how much it changes. The rest is learned."""
        for layer in (self.fine, self.coarse, self.direct):
            nn.init.normal_(layer.weight, std=0.002)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        middle = slice(3, channels // 3)
        with torch.no_grad():
            for grid, first in enumerate((0, channels)[: self.direct.out_channels]):
                part = self.direct.weight[grid, first : first + channels]
                part[middle] += 0.4 / (channels // 3 - 3)
                self.direct.bias[grid] = -0.25  # type: ignore[index]

    def forward(self, texture: Tensor, change: Tensor, qp: Tensor) -> Field:
        """Real-valued grids.

        texture: (B, C, h, w) log magnitudes of the segment's first frame, zero where it is not intra;
        change: (B, T - 1, C, h, w) those of each frame minus the one before; qp: (B,).
        """
        h, w = texture.shape[2:]
        frames = change.shape[1] + 1
        level = (qp.float() / 32 - 1).view(-1, 1, 1, 1)
        halves, fines = [], []
        for start in range(0, frames, self.slice_frames):
            # Differences belong to the later frame; a slice's first frame at 0 has none.
            part = change[:, max(start - 1, 0) : start + self.slice_frames - 1]
            mean = part.mean(1) if part.shape[1] else torch.zeros_like(texture)
            seen = torch.cat([texture, mean], dim=1)
            seen = F.pad(seen, (0, -w % COARSE, 0, -h % COARSE), mode="replicate")
            x = F.relu(self.enter(torch.cat([seen, level.expand(-1, 1, *seen.shape[2:])], dim=1)))
            x = F.relu(self.halve(x))
            x = x + F.relu(self.mix(x))
            fines.append(self.fine(x) + self.direct(F.avg_pool2d(seen, FINE)))
            halves.append(self.coarse(F.relu(self.halve_again(x))))
        fine = torch.stack(fines).mean(0)[:, :, : -(-h // FINE), : -(-w // FINE)] * STEPS_PER_UNIT
        return Field(fine, torch.stack(halves, dim=1) * STEPS_PER_UNIT)
