"""Pictures and features moved along a flow. Floats: for transforms only, never for a probability."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """x (B, C, H, W) at the places that flow (B, 2, H, W), (across, down) in pixels, points to: bilinear, the border
    repeated."""
    h, w = x.shape[2:]
    rows = torch.arange(h, device=x.device, dtype=x.dtype).view(1, h, 1) + flow[:, 1]
    columns = torch.arange(w, device=x.device, dtype=x.dtype).view(1, 1, w) + flow[:, 0]
    # -1 and 1 are the centres of the outermost pixels; one pixel wide is all centre.
    grid = torch.stack([columns * (2 / max(w - 1, 1)) - 1, rows * (2 / max(h - 1, 1)) - 1], dim=3)
    return F.grid_sample(x, torch.nan_to_num(grid), "bilinear", "border", align_corners=True)


def resized_flow(flow: Tensor, size: Sequence[int]) -> Tensor:
    """A flow for another size (h, w): interpolated, and as many pixels longer or shorter."""
    scale = size[0] / flow.shape[2]
    return F.interpolate(flow, list(size), mode="bilinear", align_corners=False) * scale
