"""What all tests share: tiny videos made on the spot, a local Ray, and real footage where somebody has some."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from codec.frames import Frame, VideoFormat

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

MakeVideo = Callable[..., Path]
_STATUS = pytest.StashKey[int]()


def moving_picture(width: int, height: int, t: int, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth random picture (H, W, 3) uint8 that moves 2 pixels a frame to the left; another seed, another scene."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 236, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.roll(coarse.repeat(8, 0).repeat(8, 1)[:height, :width], -2 * t, axis=1)


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Writes a small video with PyAV and gives its path.

    name: decides the container. times: presentation time of each frame, in frames (for a variable rate).
    seeds: the scene of each frame; a change is a hard cut. rotation: degrees for the rotation tag.
    """

    def make(
        name: str,
        *,
        size: tuple[int, int] = (64, 48),
        frames: int = 8,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        options: dict[str, str] | None = None,
        full_range: bool = False,
        rotation: int | None = None,
        times: list[int] | None = None,
        seeds: list[int] | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        given = dict(options or {})
        if codec == "libx265":
            given["x265-params"] = "log-level=none:" + given.get("x265-params", "")
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(25), options=given)
            stream.width, stream.height, stream.pix_fmt = (*size, pix_fmt)
            stream.codec_context.color_range = 2 if full_range else 1
            stream.codec_context.thread_count = 1
            if rotation is not None:
                stream.set_display_rotation(rotation)
            for t in range(frames):
                seed = seeds[t] if seeds else 0
                picture = av.VideoFrame.from_ndarray(moving_picture(*size, t, seed), format="rgb24")
                picture = picture.reformat(
                    format=pix_fmt, dst_colorspace=5, dst_color_range=2 if full_range else 1, threads=1
                )
                picture.pts, picture.time_base = (times[t] if times else t), Fraction(1, 25)
                for packet in stream.encode(picture):
                    container.mux(packet)
            for packet in stream.encode(None):
                container.mux(packet)
        return path

    return make


@pytest.fixture
def random_frames() -> Callable[..., list[Frame]]:
    """Frames of pure noise: nothing that is off by one anywhere goes unseen."""

    def make(fmt: VideoFormat, count: int, seed: int = 0) -> list[Frame]:
        rng = np.random.default_rng(seed)
        width, height = fmt.chroma_size

        def plane(h: int, w: int) -> NDArray[np.uint8]:
            return rng.integers(0, 256, (h, w), dtype=np.uint8)

        return [Frame(plane(fmt.height, fmt.width), plane(height, width), plane(height, width)) for _ in range(count)]

    return make


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real footage named by BITREEL_TEST_CLIPS."""
    folder = os.environ.get("BITREEL_TEST_CLIPS", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("BITREEL_TEST_CLIPS names no folder of real clips")
    return Path(folder)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of this machine with two CPUs for the tests of a module; others may want theirs set up differently."""
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    if started_here:
        ray.shutdown()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave without taking the interpreter down.

    A dozen native libraries, each with threads of its own, have been through this one process; now and then, when all
    tests had passed and been reported, one of them crashed in its teardown.
    """
    if _STATUS not in config.stash:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(config.stash[_STATUS])
