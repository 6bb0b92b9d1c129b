"""Frames moved by a flow that is known, to train motion estimation on: no footage says what its own motion is.

A camera's motion (across, turned, zoomed, sheared), a bent one, and a patch that goes its own way. The earlier frame is
footage as it is; the later one is taken from it along the flow, so that the flow is right everywhere, at edges as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.dcvc_fm_base.warping import warp

_CAMERA = 6  # draws: how far, where to, zoom, turn, two shears
_GRID = 5  # a bent motion's vectors across and down
_PATCH = 6  # cells of the noise that outlines a patch
_PATCH_DRAWS = 3  # how large, how far, where to
_LOUDNESS = 2  # draws: the later frame's brightness, the noise of both
DRAWS = _CAMERA + 2 * _GRID**2 + 1 + _PATCH**2 + _PATCH_DRAWS + _LOUDNESS

# Of a side: a shift is log-uniform between these, so that small motion is as common as it is in footage.
_SHORTEST, _LONGEST = 1 / 1024, 1 / 10
_BENT = 1 / 40  # of a side, at most
_AFFINE = 0.06  # zoom, turn and shear at most: radians, shares
_PATCH_SHARE = (0.0, 0.5)  # of the picture
_BRIGHTER = 0.03
_NOISE = 2.5 / 255


@dataclass(frozen=True)
class MovedFrames:
    """now, before: (N, 3, H, W) in [0, 1]; flow: (N, 2, H, W) in pixels, (across, down), from a pixel of `now` to where
    it was in `before`; known: (N, 1, H, W), 1 where that lies inside the picture, else 0."""

    now: Tensor
    before: Tensor
    flow: Tensor
    known: Tensor


def moved_frames(frames: Tensor, draws: Tensor, noise_seed: int) -> MovedFrames:
    """Pairs made of frames (N, 3, H, W) in [0, 1]. draws: (N, DRAWS) in [0, 1), which decide all but the noise."""
    camera, bent, patch, loudness = draws.split([_CAMERA, 2 * _GRID**2 + 1, _PATCH**2 + _PATCH_DRAWS, _LOUDNESS], 1)
    height, width = frames.shape[2:]
    flow = _camera_flow(camera, height, width) + _bent_flow(bent, height, width)
    flow = flow + _patch_flow(patch, height, width)
    now = warp(frames, flow) * (1 + _BRIGHTER * (2 * loudness[:, :1] - 1)).view(-1, 1, 1, 1)
    generator = torch.Generator().manual_seed(noise_seed)
    level = _NOISE * loudness[:, 1:].view(-1, 1, 1, 1)
    noise = torch.randn((2, *frames.shape), generator=generator).to(frames) * level
    known = _inside(flow)
    return MovedFrames((now + noise[0]).clamp(0, 1), (frames + noise[1]).clamp(0, 1), flow, known)


def _camera_flow(draws: Tensor, height: int, width: int) -> Tensor:
    shift = _shift(draws[:, 0], draws[:, 1], min(height, width))
    zoom, turn, across, down = (_AFFINE * (2 * draws[:, 2:] - 1)).unbind(1)
    rows = torch.linspace(-0.5, 0.5, height, device=draws.device).view(1, height, 1) * height
    columns = torch.linspace(-0.5, 0.5, width, device=draws.device).view(1, 1, width) * width
    zoom, turn, across, down = (part.view(-1, 1, 1) for part in (zoom, turn, across, down))
    x = zoom * columns + (across - turn) * rows
    y = zoom * rows + (down + turn) * columns
    return torch.stack([x, y], dim=1) + shift


def _bent_flow(draws: Tensor, height: int, width: int) -> Tensor:
    most = _BENT * min(height, width) * draws[:, :1].square()  # mostly little
    vectors = (2 * draws[:, 1:] - 1) * most
    return _smooth(vectors.view(-1, 2, _GRID, _GRID), height, width)


def _patch_flow(draws: Tensor, height: int, width: int) -> Tensor:
    field = _smooth(draws[:, _PATCH_DRAWS:].view(-1, 1, _PATCH, _PATCH), height, width)
    least, most = _PATCH_SHARE
    share = least + (most - least) * draws[:, 0]
    levels = torch.stack(
        [torch.quantile(f[:: _stride(f)], 1 - s) for f, s in zip(field.flatten(1), share, strict=True)]
    )
    return (field > levels.view(-1, 1, 1, 1)) * _shift(draws[:, 1], draws[:, 2], min(height, width))


def _stride(values: Tensor) -> int:
    return max(1, len(values) // 4096)  # an outline needs no exact share


def _shift(length: Tensor, direction: Tensor, side: int) -> Tensor:
    pixels = side * _SHORTEST * (_LONGEST / _SHORTEST) ** length
    angle = 2 * math.pi * direction
    return torch.stack([pixels * angle.cos(), pixels * angle.sin()], dim=1).view(-1, 2, 1, 1)


def _smooth(cells: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(cells, (height, width), mode="bicubic", align_corners=True)


def _inside(flow: Tensor) -> Tensor:
    height, width = flow.shape[2:]
    columns = torch.arange(width, device=flow.device).view(1, 1, width) + flow[:, 0]
    rows = torch.arange(height, device=flow.device).view(1, height, 1) + flow[:, 1]
    found = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    return found[:, None].to(flow.dtype)
