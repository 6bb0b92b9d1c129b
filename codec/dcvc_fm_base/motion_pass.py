"""Training motion estimation by itself, on frames moved by a known flow, before a codec has to make do with it.

Source of the order (flow first, then the codec around it): the DCVC family's training; of the loss at every scale:
SpyNet (CVPR 2017), which trains its scales one after another on the same error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.api import TrainingOutput
from codec.dcvc_fm_base.moved_frames import DRAWS, MovedFrames, moved_frames
from codec.dcvc_fm_base.pictures import network_frame, planes
from codec.dcvc_fm_base.warping import warp
from codec.draws import ClipDraws, seeds_each

if TYPE_CHECKING:
    from codec.dcvc_fm_base.model import DCVCFMBase

_LEAST = 0.01  # pixels: below it an error's slope fades, else a flow that is right would never rest


def motion_pass(codec: DCVCFMBase, luma: Tensor, chroma: Tensor) -> TrainingOutput:
    """As `Codec.forward`, each frame of the clips by itself.

    No bits are spent. sse, luma and chroma are of the later frame made from the earlier one along the flow that was
    found; motion_error is that flow's end-point error, the mean over the network's scales.
    """
    clips, frames = luma.shape[:2]
    height, width = luma.shape[3:]
    shown, errors, squared = [], [], []
    seeds = seeds_each(clips)
    draws = ClipDraws(seeds)
    for t in range(frames):
        given = network_frame(luma[:, t], chroma[:, t])
        each = [
            moved_frames(frame[None], draw[None], seed + t)
            for frame, draw, seed in zip(given, draws.draw(DRAWS, device=luma.device), seeds, strict=True)
        ]
        pair = MovedFrames(
            *(torch.cat([getattr(p, part) for p in each]) for part in ("now", "before", "flow", "known"))
        )
        pair.known[:, :, height:], pair.known[:, :, :, width:] = 0, 0  # padding
        flows = codec.inter.estimation.flows(pair.now, pair.before)
        errors.append(torch.stack([end_point_error(flow, pair) for flow in flows]).mean(dim=0))
        with torch.no_grad():
            made = planes(warp(pair.before, flows[-1]), height, width)
            wanted = planes(pair.now, height, width)
            squared.append(0.75 * _squared(wanted[0], made[0]) + 0.5 * _squared(wanted[1], made[1]))
            shown.append([torch.round(torch.nan_to_num(plane)).clamp(0, 255) for plane in made])
    sse = torch.stack(squared, dim=1)
    return TrainingOutput(
        bits=torch.zeros_like(sse),
        field_bits=sse.new_zeros(clips),
        sse=sse,
        luma=torch.stack([y for y, _ in shown], dim=1),
        chroma=torch.stack([uv for _, uv in shown], dim=1),
        motion_error=torch.stack(errors, dim=1).mean(dim=1),
    )


def end_point_error(flow: Tensor, pair: MovedFrames) -> Tensor:
    """(N,) in pixels of the whole picture: how far a flow (N, 2, h, w) of it or of a smaller one is from the true one,
    where that is known."""
    scale = pair.flow.shape[2] // flow.shape[2]
    true, known = F.avg_pool2d(pair.flow * pair.known, scale), F.avg_pool2d(pair.known, scale)
    sure = (known == 1).to(flow.dtype)
    distance = ((flow * scale - true).square().sum(dim=1, keepdim=True) + _LEAST**2).sqrt() - _LEAST
    return (distance * sure).flatten(1).sum(1) / sure.flatten(1).sum(1).clamp_min(1)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).sum(1)
