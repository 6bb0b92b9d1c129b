"""SVT-AV1, VVenC and VMAF through a real FFmpeg program; skipped where there is none that has them."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from codec.errors import UsageError
from codec.frames import Frame
from infra import ffmpeg_build
from infra.anchors import ANCHORS, anchor_point
from infra.ffmpeg_build import encoder_build, filter_build
from infra.vmaf import MODEL, VmafMeter
from tests.infra.moving_clips import moving_frames, moving_source

NAMES = {"svt-av1-ld": "libsvtav1", "vvenc-ld": "libvvenc"}


def need(encoder: str | None = None, filter_name: str | None = None) -> ffmpeg_build.FfmpegBuild:
    try:
        return encoder_build(encoder) if encoder else filter_build(filter_name or "")
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_one_intra_frame_low_delay_and_video_only(name: str, tmp_path: Path) -> None:
    build = need(NAMES[name])
    source = moving_source(tmp_path, 64, 64, 5)
    fine, picture = anchor_point(source, name, ANCHORS[name].ladder.first[0], tmp_path / "cache")
    coarse, _ = anchor_point(source, name, ANCHORS[name].ladder.first[-1], tmp_path / "cache")
    assert [f.type == "I" for f in fine.frames] == [True, False, False, False, False]
    assert sum(f.bytes for f in fine.frames) == fine.bytes == max(p.stat().st_size for p in _streams(tmp_path, name))
    assert coarse.bytes < fine.bytes and coarse.psnr_yuv < fine.psnr_yuv - 3 and fine.psnr_yuv > 35
    assert NAMES[name] in fine.details["command"] and build.version in fine.details["encoder"]
    assert NAMES[name].removeprefix("lib") in fine.details["encoder"].lower() and "." in fine.details["encoder"]
    assert picture.read_bytes()[8:12] == b"WEBP"
    # The very same figures where FFmpeg decodes and measures, without any of our code between.
    stream = next(p for p in _streams(tmp_path, name) if p.stat().st_size == fine.bytes)
    raw = tmp_path / "decoded.yuv"
    build.run(["-i", str(stream), "-f", "rawvideo", str(raw)], "decode")
    deep = name == "vvenc-ld"
    decoded = np.fromfile(raw, "<u2" if deep else np.uint8).reshape(5, -1)[:, : 64 * 64].astype(int)
    luma = np.minimum((decoded + 2) >> 2, 255) if deep else decoded
    original = np.fromfile(source.path, np.uint8).reshape(5, -1)[:, : 64 * 64]
    errors = np.mean((original.astype(float) - luma) ** 2, axis=1)
    assert [f.psnr_y for f in fine.frames] == pytest.approx(list(10 * np.log10(255**2 / errors)), abs=1e-6)


def _streams(folder: Path, name: str) -> list[Path]:
    return list((folder / "cache").glob(f"*.{ANCHORS[name].suffix}"))


@pytest.mark.parametrize("name", NAMES)
def test_intra_period_and_odd_sizes(name: str, tmp_path: Path) -> None:
    need(NAMES[name])
    point, _ = anchor_point(moving_source(tmp_path, 67, 51, 5), name, 22, tmp_path / "cache", intra_period=3)
    assert [f.type == "I" for f in point.frames] == [True, False, False, True, False]
    assert point.bpp == pytest.approx(8 * point.bytes / (67 * 51 * 5)) and point.psnr_yuv > 35


def test_cached_by_content(tmp_path: Path) -> None:
    need("libsvtav1")
    source = moving_source(tmp_path, 64, 64, 2)
    anchor_point(source, "svt-av1-ld", 40, tmp_path / "cache")
    (entry,) = (tmp_path / "cache").glob("*.json")
    marked = json.loads(entry.read_text())
    assert marked["identity"]["version"] == ANCHORS["svt-av1-ld"].version()
    marked["point"]["encode_fps"] = 12345.0
    entry.write_text(json.dumps(marked))
    assert anchor_point(source, "svt-av1-ld", 40, tmp_path / "cache")[0].encode_fps == 12345.0
    assert anchor_point(source, "svt-av1-ld", 41, tmp_path / "cache")[0].encode_fps != 12345.0


def test_an_ffmpeg_without_the_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ffmpeg version 0.1 Copyright nobody\necho ' V..... libx264 H.264'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(ffmpeg_build, "_programs", lambda: iter([str(program)]))
    ffmpeg_build._describe.cache_clear()
    assert encoder_build("libx264").version == "0.1"
    with pytest.raises(UsageError, match=r"no FFmpeg with the encoder libvvenc: pip install imageio-ffmpeg.*\(0\.1\)"):
        encoder_build("libvvenc")
    monkeypatch.setattr(ffmpeg_build, "_programs", lambda: iter([]))
    with pytest.raises(UsageError, match="BITREEL_FFMPEG"):
        filter_build("libvmaf")


def test_a_named_ffmpeg_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ffmpeg_build.VARIABLE, "/no/such/ffmpeg")
    with pytest.raises(UsageError, match="/no/such/ffmpeg"):
        encoder_build("libvvenc")


def test_vmaf_is_libvmafs_own_figure(tmp_path: Path) -> None:
    build = need(filter_name="libvmaf")
    source = moving_source(tmp_path, 96, 64, 4)
    rng = np.random.default_rng(1)
    frames = moving_frames(96, 64, 4)
    noisy = [Frame(np.clip(f.y + rng.normal(0, 9, f.y.shape), 0, 255).astype(np.uint8), f.u, f.v) for f in frames]
    scores = {}
    folder = tmp_path / "odd, [na]me's"
    for name, decoded in (("same", frames), ("noisy", noisy)):
        with VmafMeter(source, folder) as meter:
            for frame in decoded:
                meter.add(frame)
            scores[name] = meter.scores()
    assert not list(folder.iterdir()), "what was decoded is not kept"
    assert len(scores["same"]) == len(scores["noisy"]) == 4
    assert min(scores["same"]) > 90 and scores["noisy"][0] < scores["same"][0] - 3
    path, log = tmp_path / "noisy.yuv", tmp_path / "log.csv"
    path.write_bytes(b"".join(frame.to_bytes() for frame in noisy))
    raw = ["-f", "rawvideo", "-s", "96x64", "-i"]
    graph = f"libvmaf=model=version={MODEL}:log_fmt=csv:log_path=log.csv"
    inputs = [*raw, "noisy.yuv", *raw, source.path]
    command = [build.path, "-loglevel", "error", *inputs, "-lavfi", graph, "-f", "null", "-"]
    subprocess.run(command, cwd=tmp_path, check=True)
    head, *rows = [line.split(",") for line in log.read_text().split()]
    assert [float(row[head.index("vmaf")]) for row in rows] == pytest.approx(scores["noisy"], abs=1e-3)


def test_vmaf_goes_with_the_point(tmp_path: Path) -> None:
    need(filter_name="libvmaf")
    source = moving_source(tmp_path, 96, 64, 3)
    plain, _ = anchor_point(source, "x265-medium", 32, tmp_path / "cache")
    scored, _ = anchor_point(source, "x265-medium", 32, tmp_path / "cache", vmaf=True)
    worse, _ = anchor_point(source, "x265-medium", 44, tmp_path / "cache", vmaf=True)
    assert plain.vmaf is None and plain.bytes == scored.bytes
    assert scored.vmaf is not None and worse.vmaf is not None and 0 <= worse.vmaf < scored.vmaf <= 100
    assert scored.vmaf == pytest.approx(np.mean([f.vmaf for f in scored.frames]))
    assert scored.details["vmaf"].startswith(MODEL)
