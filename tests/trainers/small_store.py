"""A clip store of a few made-up moving pictures, in the format that ingest writes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from pipeline.manifest import CLIP_SCHEMA, MANIFEST, SHARDS, create_or_check_store, write_fragment


def make_store(folder: Path, clips: int = 12, frames: int = 4, size: int = 64, held_out: int = 0) -> Path:
    """Noise that moves one pixel a frame, smoothed; the last `held_out` clips are of the split "val"."""
    draw = np.random.default_rng(7)
    made = []
    for _ in range(clips):
        coarse = draw.integers(0, 256, (size * 3 // 16, size // 8), dtype=np.uint8)
        still = coarse.repeat(8, 0).repeat(8, 1)
        made.append(np.stack([np.roll(still, shift, axis=1) for shift in range(frames)]))
    return write_clips(folder, {"made-up": made}, held_out)


def write_clips(folder: Path, sources: Mapping[str, Sequence[NDArray[np.uint8]]], held_out: int = 0) -> Path:
    """Clips of planes, (frames, height * 3/2, width), by the name of their source, all but a source's last `held_out`
    for training. Those of other sources that the store has stay."""
    create_or_check_store(folder, {"pixels": "yuv420"})
    for source, clips in sources.items():
        shard, rows = folder / SHARDS / f"{source}.tar", []
        with tarfile.open(shard, "w") as tar:
            for number, planes in enumerate(clips):
                rows.append(_add(tar, f"{source}{number:03d}", planes) | {"source_checksum": source, "source": source})
        with tarfile.open(shard) as tar:
            places = {info.name: {"offset": info.offset_data, "length": info.size} for info in tar}
        rows = [row | places[f"{row['key']}.npy"] | {"shard": shard.name, "split": "train"} for row in rows]
        for row in rows[len(rows) - held_out :]:
            row["split"] = "val"
        write_fragment(folder, f"{MANIFEST}/{source}", rows, CLIP_SCHEMA)
    return folder


def _add(tar: tarfile.TarFile, key: str, planes: NDArray[np.uint8]) -> dict[str, Any]:
    array = io.BytesIO()
    np.save(array, planes)
    frames, rows, width = planes.shape
    facts = {"key": key, "frames": frames, "stored_width": width, "stored_height": rows * 2 // 3}
    facts["clip_id"] = blake3(array.getvalue()).hexdigest()
    for ending, content in (("json", json.dumps(facts).encode()), ("npy", array.getvalue())):
        info = tarfile.TarInfo(f"{key}.{ending}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return dict.fromkeys(CLIP_SCHEMA.names) | facts
