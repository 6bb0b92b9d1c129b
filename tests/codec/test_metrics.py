"""Quality figures against FFmpeg's own filters, and their edges."""

from __future__ import annotations

import re
import statistics
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from codec.frames import Frame
from codec.metrics import frame_quality, ms_ssim, psnr, psnr_yuv


def _pair(width: int, height: int, count: int) -> tuple[list[Frame], list[Frame]]:
    """Frames with structure, and the same with noise and blur on them."""
    rng = np.random.default_rng(7)
    first, second = [], []
    for i in range(count):
        y, x = np.mgrid[:height, :width]
        luma = (128 + 60 * np.sin((x + 3 * i) / 9.0) + 50 * np.cos((y * x) / 900.0)).clip(0, 255)
        noisy = (0.5 * luma + 0.5 * np.roll(luma, 1, axis=1) + rng.normal(0, 3 + i, luma.shape)).clip(0, 255)
        chroma = rng.integers(0, 256, (2, height // 2, width // 2), dtype=np.uint8)
        changed = (chroma.astype(int) + rng.integers(-4, 5, chroma.shape)).clip(0, 255).astype(np.uint8)
        first.append(Frame(luma.astype(np.uint8), chroma[0], chroma[1]))
        second.append(Frame(noisy.astype(np.uint8), changed[0], changed[1]))
    return first, second


def _ffmpeg(tmp_path: Path, source: list[Frame], decoded: list[Frame], filters: str) -> str:
    size = f"{source[0].width}x{source[0].height}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner"]
    for name, frames in (("decoded", decoded), ("source", source)):
        (tmp_path / name).write_bytes(b"".join(f.to_bytes() for f in frames))
        command += ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-i", str(tmp_path / name)]
    command += ["-lavfi", filters, "-f", "null", "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stderr


def test_psnr_is_ffmpegs(tmp_path: Path) -> None:
    source, decoded = _pair(176, 144, 5)
    _ffmpeg(tmp_path, source, decoded, "[0:v][1:v]psnr=stats_file=psnr.log")
    for line, a, b in zip((tmp_path / "psnr.log").read_text().splitlines(), source, decoded, strict=True):
        theirs = {k: float(v) for k, v in re.findall(r"psnr_([yuv]):([\d.]+)", line)}
        ours = frame_quality(a, b)
        assert (ours.psnr_y, ours.psnr_u, ours.psnr_v) == pytest.approx(
            (theirs["y"], theirs["u"], theirs["v"]),
            abs=0.006,  # FFmpeg prints two digits
        )


def test_ms_ssim_is_near_libvmafs(tmp_path: Path) -> None:
    source, decoded = _pair(352, 288, 3)
    ours = statistics.fmean(ms_ssim(a.y, b.y) or 0.0 for a, b in zip(source, decoded, strict=True))
    _ffmpeg(
        tmp_path, source, decoded,
        "[0:v][1:v]libvmaf=feature=name=float_ms_ssim:model=version=vmaf_v0.6.1:log_fmt=csv:log_path=vmaf.csv",
    )  # fmt: skip
    head, *rows = [line.split(",") for line in (tmp_path / "vmaf.csv").read_text().splitlines()]
    theirs = statistics.fmean(float(row[head.index("float_ms_ssim")]) for row in rows)
    assert 0.9 < ours < 1.0
    assert ours == pytest.approx(theirs, abs=0.002)


def test_exact_frame_counts_as_100_db() -> None:
    (frame,), _ = _pair(176, 144, 1)
    quality = frame_quality(frame, frame)
    assert (quality.psnr_y, quality.psnr_u, quality.psnr_v, quality.psnr_yuv) == (100.0, 100.0, 100.0, 100.0)


def test_one_level_everywhere_is_48_db() -> None:
    plane = np.full((16, 16), 100, np.uint8)
    assert psnr(plane, plane + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(plane + np.uint8(1), plane) == pytest.approx(48.1308, abs=1e-4)  # no wrap-around either way


def test_weights_are_6_1_1() -> None:
    assert psnr_yuv(40.0, 48.0, 32.0) == pytest.approx((240 + 48 + 32) / 8)


def test_ms_ssim_only_above_160() -> None:
    small, large = np.zeros((160, 400), np.uint8), np.zeros((161, 161), np.uint8)
    assert ms_ssim(small, small) is None
    assert ms_ssim(large, large) == pytest.approx(1.0)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        psnr(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))
