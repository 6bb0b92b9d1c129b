"""A clip store of a few made-up moving pictures, in the format that ingest writes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.manifest import CLIP_SCHEMA, MANIFEST, SHARDS, create_or_check_store, write_fragment


def make_store(folder: Path, clips: int = 12, frames: int = 4, size: int = 64) -> Path:
    """Noise that moves one pixel a frame, smoothed; every clip is of the split "train"."""
    create_or_check_store(folder, {"pixels": "yuv420", "clip_frames": frames})
    draw = np.random.default_rng(7)
    shard = folder / SHARDS / "made-up.tar"
    keys = [f"clip{index:03d}" for index in range(clips)]
    with tarfile.open(shard, "w") as tar:
        for key in keys:
            coarse = draw.integers(0, 256, (size * 3 // 16, size // 8), dtype=np.uint8)
            still = coarse.repeat(8, 0).repeat(8, 1)
            planes = np.stack([np.roll(still, shift, axis=1) for shift in range(frames)])
            member = io.BytesIO()
            np.save(member, planes)
            info = tarfile.TarInfo(f"{key}.npy")
            info.size = len(member.getvalue())
            tar.addfile(info, io.BytesIO(member.getvalue()))
    rows: list[dict[str, Any]] = []
    with tarfile.open(shard) as tar:
        for key, info in zip(keys, tar.getmembers(), strict=True):
            row: dict[str, Any] = dict.fromkeys(CLIP_SCHEMA.names)
            row |= {"clip_id": key, "key": key, "shard": shard.name, "offset": info.offset_data, "length": info.size}
            row |= {"frames": frames, "stored_width": size, "stored_height": size, "split": "train"}
            rows.append(row)
    write_fragment(folder, f"{MANIFEST}/made-up", rows, CLIP_SCHEMA)
    return folder
