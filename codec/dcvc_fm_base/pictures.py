"""Between 4:2:0 planes of 8 bits and what the networks see: YCbCr 4:4:4 in [0, 1], padded to whole cells.

Chroma is repeated 2x2 going in and averaged 2x2 coming out (DCVC-FM).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.dcvc_fm_base.config import CELL
from codec.frames import Frame, VideoFormat


def coded_side(side: int) -> int:
    """A picture's side in luma samples as it is coded: a multiple of 64."""
    return -(-side // CELL) * CELL


def network_frame(luma: Tensor, chroma: Tensor) -> Tensor:
    """luma (B, 1, H, W), chroma (B, 2, ceil(H/2), ceil(W/2)), 0..255 of any type → (B, 3, H', W') in [0, 1], H' and W'
    the next multiples of 64; the border is repeated."""
    h, w = luma.shape[2:]
    height, width = coded_side(h), coded_side(w)
    y = _grown(luma.float(), height, width)
    uv = _grown(chroma.float(), height // 2, width // 2)
    return torch.cat([y, F.interpolate(uv, scale_factor=2.0, mode="nearest")], dim=1) / 255


def planes(frame: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The inverse, real-valued 0..255 where the frame is in [0, 1]: (B, 1, height, width) and (B, 2, ceil of half)."""
    luma, chroma = frame[:, :1] * 255, F.avg_pool2d(frame[:, 1:], 2) * 255
    return luma[:, :, :height, :width], chroma[:, :, : (height + 1) // 2, : (width + 1) // 2]


def to_network(frame: Frame, device: torch.device) -> Tensor:
    """(1, 3, H', W') float32."""
    luma, chroma = (np.ascontiguousarray(p) for p in (frame.y[None, None], np.stack([frame.u, frame.v])[None]))
    return network_frame(torch.from_numpy(luma).to(device), torch.from_numpy(chroma).to(device))


def to_frame(frame: Tensor, fmt: VideoFormat) -> Frame:
    """A network's frame (1, 3, H', W') as it is shown: rounded and cropped."""
    whole = [torch.round(p[0]).to(torch.uint8).cpu().numpy() for p in planes(frame, fmt.height, fmt.width)]
    return Frame(*(np.ascontiguousarray(p) for p in (whole[0][0], whole[1][0], whole[1][1])))


def _grown(plane: Tensor, height: int, width: int) -> Tensor:
    return F.pad(plane, (0, width - plane.shape[3], 0, height - plane.shape[2]), mode="replicate")
