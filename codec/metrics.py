"""How far a decoded frame is from its source: PSNR per plane on the stored 8-bit values, and MS-SSIM on luma.

PSNR equals that of FFmpeg's psnr filter and of libvmaf to all digits they print. MS-SSIM is pytorch-msssim's, which the
literature on learned codecs uses: each scale is the mean of 2x2 of the one before, and contrast times structure is
averaged as one map (Wang, Simoncelli and Bovik 2003). libvmaf's float_ms_ssim halves with a 9/7 wavelet filter and
averages the two apart. On x265 at QP 10..48 the two lie up to 0.0007 apart above 0.99 and up to 0.007 below, that is up
to 0.5 dB of -10·log10(1 - MS-SSIM): compare values of one kind only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import MS_SSIM

from codec.frames import Frame

EXACT_PSNR_DB = 100.0  # what an exact plane counts as
MS_SSIM_SHORT_SIDE = 160  # five scales of an 11-tap window need more than this many pixels


@dataclass(frozen=True)
class FrameQuality:
    """Quality of one frame: PSNR of each plane in dB, MS-SSIM of luma in 0..1 (None where the frame is too small)."""

    psnr_y: float
    psnr_u: float
    psnr_v: float
    ms_ssim: float | None

    @property
    def psnr_yuv(self) -> float:
        """(6·Y + U + V) / 8."""
        return psnr_yuv(self.psnr_y, self.psnr_u, self.psnr_v)


def frame_quality(source: Frame, decoded: Frame) -> FrameQuality:
    """All distortion figures of one frame. Raises ValueError where the sizes differ."""
    return FrameQuality(
        psnr(source.y, decoded.y),
        psnr(source.u, decoded.u),
        psnr(source.v, decoded.v),
        ms_ssim(source.y, decoded.y),
    )


def psnr(source: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """PSNR in dB of two uint8 planes (H, W), peak 255; an exact plane counts as 100 dB.

    Raises ValueError where the shapes differ.
    """
    _check_sizes(source, decoded)
    difference = source.astype(np.int32) - decoded.astype(np.int32)
    squared = int(np.square(difference).sum(dtype=np.int64))
    if squared == 0:
        return EXACT_PSNR_DB
    return min(EXACT_PSNR_DB, 10.0 * float(np.log10(255.0**2 * source.size / squared)))


def psnr_yuv(y: float, u: float, v: float) -> float:
    """The weighted PSNR of a 4:2:0 frame in dB: (6·Y + U + V) / 8."""
    return (6.0 * y + u + v) / 8.0


def psnr_rgb(source: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """PSNR in dB of two RGB pictures (H, W, 3) uint8, from one squared error over all three channels.

    An exact picture counts as 100 dB. Raises ValueError where the shapes differ or are no RGB pictures.
    """
    if source.ndim != 3 or source.shape[2] != 3:
        raise ValueError(f"not an RGB picture (H, W, 3): {source.shape}")
    return psnr(source, decoded)


def ms_ssim(source: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float | None:
    """MS-SSIM of two uint8 luma planes (H, W), in 0..1; None where the short side is 160 or less.

    Raises ValueError where the shapes differ.
    """
    _check_sizes(source, decoded)
    if min(source.shape) <= MS_SSIM_SHORT_SIDE:
        return None
    pair = np.stack([source, decoded])[:, None, None]
    with torch.inference_mode():
        first, second = torch.from_numpy(pair).float()
        return float(_ms_ssim_module()(first, second))


def _check_sizes(source: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> None:
    if source.shape != decoded.shape:
        raise ValueError(f"pictures differ in size: {source.shape} and {decoded.shape}")


@cache
def _ms_ssim_module() -> MS_SSIM:
    return MS_SSIM(data_range=255.0, channel=1, size_average=True)
