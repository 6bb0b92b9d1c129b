"""A clip store of a few made-up moving pictures, in the format that ingest writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.manifest import CLIP_SCHEMA, MANIFEST, SHARDS, create_or_check_store, write_fragment
from pipeline.shards import ShardWriter


def make_store(folder: Path, clips: int = 12, frames: int = 4, size: int = 64) -> Path:
    """Noise that moves one pixel a frame, smoothed; every clip is of the split "train"."""
    draw = np.random.default_rng(7)
    made = []
    for _ in range(clips):
        coarse = draw.integers(0, 256, (size * 3 // 16, size // 8), dtype=np.uint8)
        still = coarse.repeat(8, 0).repeat(8, 1)
        made.append(np.stack([np.roll(still, shift, axis=1) for shift in range(frames)]))
    return write_clips(folder, {"made-up": made})


def write_clips(folder: Path, sources: Mapping[str, Sequence[NDArray[np.uint8]]]) -> Path:
    """Clips of planes, (frames, height * 3/2, width), by the name of their source; more may be written later."""
    create_or_check_store(folder, {"pixels": "yuv420"})
    for name, clips in sources.items():
        writer = ShardWriter(folder / SHARDS, name)
        for number, planes in enumerate(clips):
            frames, rows, width = planes.shape
            facts: dict[str, Any] = {"frames": frames, "stored_width": width, "stored_height": rows * 2 // 3}
            writer.add(f"{name}-{number:07d}", planes, facts)
        empty = dict.fromkeys(CLIP_SCHEMA.names)
        rows_ = [empty | row | {"source": name, "split": "train"} for row in writer.commit()]
        write_fragment(folder / MANIFEST, name, rows_, CLIP_SCHEMA)
    return folder
