"""Small clips for evaluation tests: a textured picture that moves, with a little noise, as .y4m files and sources."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from codec.frames import Frame, VideoFormat, frames_digest
from infra.evaluation_source import EvaluationSource
from pipeline.video_files import open_writer


def moving_frames(width: int, height: int, count: int, seed: int = 0) -> list[Frame]:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (3, height // 8 + 8, width // 8 + 8))
    planes = np.kron(coarse, np.ones((8, 8)))
    frames = []
    for i in range(count):
        moved = np.roll(planes, (i, 2 * i), axis=(1, 2))[:, :height, :width]
        y = 128 + 40 * moved[0] + rng.normal(0, 1.5, (height, width))
        u, v = (128 + 15 * moved[k, ::2, ::2] for k in (1, 2))
        frames.append(Frame(*(np.clip(np.rint(p), 0, 255).astype(np.uint8) for p in (y, u, v))))
    return frames


def moving_clip(path: Path, width: int = 64, height: int = 64, count: int = 5, seed: int = 0) -> Path:
    with open_writer(path, VideoFormat(width, height, Fraction(25))) as writer:
        for frame in moving_frames(width, height, count, seed):
            writer.write(frame)
    return path


def moving_source(folder: Path, width: int, height: int, count: int) -> EvaluationSource:
    frames = moving_frames(width, height, count)
    path = folder / f"moving-{width}x{height}.yuv"
    path.write_bytes(b"".join(f.to_bytes() for f in frames))
    return EvaluationSource(
        name="moving", video="moving", path=str(path), width=width, height=height, fps="25", matrix="bt709",
        full_range=False, frame_count=count, digest=frames_digest(frames), downscale=1, original_width=width,
        original_height=height,
    )  # fmt: skip
