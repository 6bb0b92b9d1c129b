"""From the temporal feature to contexts at three scales: adapted, taken apart, moved along the flow, fused.

temporal feature ─ adaptor of the frame's place ─┐
decoded frame, after a refresh ─ 3x3 ────────────┴─ 48 (1) ──┬─ 64 (1/2) ─┬─ 96 (1/4)
                                      offset diversity       warp, flow/2  warp, flow/4
                                         c1 ◀── fusion ──── c2 ◀──────── c3
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.dcvc_fm.config import HIERARCHY
from codec.dcvc_fm_base.blocks import BlockA, Down, Up
from codec.dcvc_fm_base.config import DCVCFMBaseConfig
from codec.dcvc_fm_base.warping import resized_flow, warp

PLACES = 1 + max(HIERARCHY)
_FARTHEST = 40.0  # pixels that an offset leads away from the flow, at most


class TemporalContexts(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: DCVCFMBaseConfig) -> None:
        super().__init__()
        full, half, quarter = config.feature, config.half, config.quarter
        self.adaptors = nn.ModuleList(nn.Conv2d(full, full, 1) for _ in range(PLACES))
        self.from_frame = nn.Conv2d(3, full, 3, padding=1)
        self.extract_full = BlockA(full)
        self.extract_half = nn.Sequential(Down(full, half), BlockA(half))
        self.extract_quarter = nn.Sequential(Down(half, quarter), BlockA(quarter))
        self.alignment = OffsetDiversity(full, config.offset_groups, config.offsets, config.half)
        self.fuse_quarter = BlockA(quarter)
        self.quarter_to_half = Up(quarter, half)
        self.fuse_half = BlockA(2 * half, half)
        self.half_to_full = Up(half, full)
        self.fuse_full = BlockA(2 * full, full)

    def adapted(self, feature: Tensor, place: int) -> Tensor:
        """The temporal feature (B, 48, H, W) for a frame of this place in the hierarchy."""
        return torch.as_tensor(self.adaptors[place](feature))

    def renewed(self, frame: Tensor) -> Tensor:
        """The temporal feature made anew from a decoded frame (B, 3, H, W) in [0, 1]."""
        return torch.as_tensor(self.from_frame(frame - 0.5))

    def forward(self, adapted: Tensor, frame: Tensor, flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c1 (B, 48, H, W), c2 (B, 64, H/2, W/2), c3 (B, 96, H/4, W/4). frame: the decoded one before."""
        full = self.extract_full(adapted)
        half = self.extract_half(full)
        quarter = self.extract_quarter(half)
        c1 = self.alignment(full, frame, flow)
        c2 = warp(half, resized_flow(flow, half.shape[2:]))
        c3 = warp(quarter, resized_flow(flow, quarter.shape[2:]))
        c3 = c3 + self.fuse_quarter(c3)
        c2 = c2 + self.fuse_half(torch.cat([c2, self.quarter_to_half(c3)], dim=1))
        c1 = c1 + self.fuse_full(torch.cat([c1, self.half_to_full(c2)], dim=1))
        return c1, c2, c3


class OffsetDiversity(nn.Module):
    """Groups of channels taken from several places about where the flow points, weighed and fused (DCVC-DC).

    Offsets and weights come from a small network at half the size.
    """

    def __init__(self, channels: int, groups: int, offsets: int, width: int) -> None:
        super().__init__()
        self.groups, self.offsets = groups, offsets
        self.first = nn.Conv2d(channels + 3 + 2, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.third = nn.Conv2d(width, 3 * groups * offsets, 3, padding=1)
        self.fusion = nn.Conv2d(offsets * channels, channels, 1, groups=groups)
        nn.init.normal_(self.third.weight, std=1e-3)

    def forward(self, feature: Tensor, frame: Tensor, flow: Tensor) -> Tensor:
        """feature (B, C, H, W), frame (B, 3, H, W), flow (B, 2, H, W) → (B, C, H, W)."""
        batch, channels, h, w = feature.shape
        groups, offsets = self.groups, self.offsets
        moved = torch.cat([warp(torch.cat([feature, frame], dim=1), flow), flow], dim=1)
        small = F.leaky_relu(self.second(F.leaky_relu(self.first(moved))))
        found = F.interpolate(self.third(small), (h, w), mode="bilinear", align_corners=False)
        found = found.view(batch, 3, groups, offsets, h, w)
        across = _FARTHEST * torch.tanh(found[:, 0]) + flow[:, None, None, 0]
        down = _FARTHEST * torch.tanh(found[:, 1]) + flow[:, None, None, 1]
        places = torch.stack([across, down], dim=3).flatten(0, 2)
        parts = feature.view(batch, groups, 1, channels // groups, h, w).expand(-1, -1, offsets, -1, -1, -1)
        taken = warp(parts.flatten(0, 2), places).view(batch, groups, offsets, channels // groups, h, w)
        weighed = taken * torch.sigmoid(found[:, 2])[:, :, :, None]
        return torch.as_tensor(self.fusion(weighed.flatten(1, 3)))
