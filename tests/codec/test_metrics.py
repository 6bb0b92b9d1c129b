"""Quality figures by their definitions, and their edges; against FFmpeg on footage: test_metrics_against_ffmpeg."""

from __future__ import annotations

import numpy as np
import pytest

from codec.frames import Frame
from codec.metrics import frame_quality, ms_ssim, psnr, psnr_rgb, psnr_yuv


def test_exact_frame_counts_as_100_db() -> None:
    rng = np.random.default_rng(0)
    frame = Frame(*(rng.integers(0, 256, size, dtype=np.uint8) for size in ((48, 64), (24, 32), (24, 32))))
    quality = frame_quality(frame, frame)
    assert (quality.psnr_y, quality.psnr_u, quality.psnr_v, quality.psnr_yuv) == (100.0, 100.0, 100.0, 100.0)
    assert quality.ms_ssim is None


def test_one_level_everywhere_is_48_db() -> None:
    plane = np.full((16, 16), 100, np.uint8)
    assert psnr(plane, plane + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(plane + np.uint8(1), plane) == pytest.approx(48.1308, abs=1e-4)  # no wrap-around either way


def test_nearly_exact_counts_as_no_more_than_exact() -> None:
    plane = np.zeros((2160, 3840), np.uint8)
    changed = plane.copy()
    changed[0, 0] = 1
    assert psnr(plane, changed) == 100.0  # 117 dB by the formula


def test_weights_are_6_1_1() -> None:
    assert psnr_yuv(40.0, 48.0, 32.0) == pytest.approx((240 + 48 + 32) / 8)


def test_rgb_error_is_taken_over_all_channels() -> None:
    picture = np.full((6, 10, 3), 100, np.uint8)
    changed = picture.copy()
    changed[..., 2] += 3  # a squared error of 9 in one channel of three: as much as 3 in each
    assert psnr_rgb(picture, changed) == pytest.approx(10 * np.log10(255**2 / 3))
    assert psnr_rgb(picture, picture) == 100.0
    with pytest.raises(ValueError, match="not an RGB picture"):
        psnr_rgb(picture[..., 0], picture[..., 0])


def test_ms_ssim_only_above_160() -> None:
    small, large = np.zeros((160, 400), np.uint8), np.zeros((161, 161), np.uint8)
    assert ms_ssim(small, small) is None
    assert ms_ssim(large, large) == pytest.approx(1.0)


def test_other_sizes_are_refused() -> None:
    small, large = np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)
    for measure in (psnr, ms_ssim):
        with pytest.raises(ValueError, match="differ in size"):
            measure(small, large)
