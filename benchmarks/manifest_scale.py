"""A manifest of a million clips: how long do writing, merging, listing, filtering and verifying take?

Makes a store whose manifest has `--clips` rows of `--sources` sources, 10 clips a shard, and shards that are sparse
files of the right length (nothing here reads pixels). Measures fragments (`--fragments` of them, one a source, as
ingest leaves them) and the merged manifest.

Example: python -m benchmarks.manifest_scale --clips 1000000 --json scale.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from pipeline.compaction import GROUP_ROWS, PART_ROWS, _encoded, compact_manifest
from pipeline.ingest_calls import fragment_name
from pipeline.manifest import (
    CLIP_SCHEMA,
    MANIFEST,
    PARTS_FILE,
    SHARDS,
    create_or_check_store,
    read_manifest,
    write_fragment,
)
from pipeline.near_duplicates import near_duplicates
from pipeline.store import list_sources, store_stats
from pipeline.store_folder import open_store_folder
from pipeline.verification import verify_layout

CLIP_BYTES = 128 + 16 * 256 * 256 * 3 // 2
SAMPLE_BYTES = 3072 + CLIP_BYTES // 512 * 512


def clip_table(first_source: int, sources: int, clips_each: int) -> pa.Table:
    """Rows of sources, sorted as a manifest is, with hashes that look random."""
    checksums = sorted(blake3(str(first_source + i).encode()).hexdigest() for i in range(sources))
    count = sources * clips_each
    dice = np.random.default_rng(first_source)
    names = np.repeat([fragment_name(checksum) for checksum in checksums], clips_each)
    place = np.tile(np.arange(clips_each), sources)
    columns: dict[str, Any] = {
        "clip_id": [bytes(row).hex() for row in dice.integers(0, 256, (count, 32), dtype=np.uint8)],
        "source": np.repeat([f"/videos/{checksum[:2]}/{checksum}.mp4" for checksum in checksums], clips_each),
        "source_checksum": np.repeat(checksums, clips_each),
        "source_frames": np.full(count, clips_each * 16),
        "first_frame": place * 16,
        "frames": np.full(count, 16),
        "shard": [f"{name}-{part:04d}.tar" for name, part in zip(names, place // 10, strict=True)],
        "key": [f"{name}-{frame:07d}" for name, frame in zip(names, place * 16, strict=True)],
        "offset": 1536 + place % 10 * SAMPLE_BYTES,
        "length": np.full(count, CLIP_BYTES),
        "motion": dice.gamma(2, 2, count),
        "sharpness": dice.gamma(2, 3, count),
        "brightness": dice.normal(110, 30, count),
        "phash": [bytes(row).hex() for row in dice.integers(0, 256, (count, 16), dtype=np.uint8)],
        "split": np.repeat(dice.choice(["train", "val", "test"], sources, p=[0.8, 0.1, 0.1]), clips_each),
    }
    filled = {"width": 256, "height": 256, "decoder": "pyav", "decoder_version": "1", "source_pixel_format": "yuv420p"}
    arrays = []
    for field in CLIP_SCHEMA:
        if field.name in columns:
            arrays.append(pa.array(columns[field.name]).cast(field.type))
        elif field.name == "notes":
            arrays.append(pa.array([[]] * count, field.type))
        else:
            empty = "" if field.type == pa.string() else 1
            arrays.append(pa.array([filled.get(field.name, empty)] * count, field.type))
    return pa.Table.from_arrays(arrays, schema=CLIP_SCHEMA)


def timed(name: str, figures: dict[str, float], action: Callable[[], Any]) -> Any:
    begin = time.monotonic()
    result = action()
    figures[name] = time.monotonic() - begin
    print(f"{name:<52} {figures[name]:8.2f} s", flush=True)
    return result


def measure(folder: Path, clips: int, sources: int, fragments: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    store = folder / "store"
    create_or_check_store(store, {"pixels": "yuv420", "clip_frames": 16, "crop": [256, 256], "downscale": 1})
    table = clip_table(0, sources, clips // sources)
    ends = table.group_by("shard").aggregate([("offset", "max")]).to_pydict()
    for shard, offset in zip(ends["shard"], ends["offset_max"], strict=True):
        with (store / SHARDS / shard).open("wb") as handle:
            handle.truncate(offset + CLIP_BYTES + 10240)
    parts = []
    opened = open_store_folder(store)
    for first in range(0, table.num_rows, PART_ROWS):
        parts.append(f"part-{first // PART_ROWS:05d}-made.parquet")
        opened.write(f"{MANIFEST}/{parts[-1]}", _encoded(table.slice(first, PART_ROWS)))
    opened.write(PARTS_FILE, json.dumps({"parts": parts}).encode())
    size = sum(file.size for file in opened.listing(MANIFEST).values())
    print(f"{table.num_rows} clips, {sources} sources, {len(ends['shard'])} shards")
    print(f"merged manifest: {size} bytes, {size / table.num_rows:.0f} a clip, groups of {GROUP_ROWS} rows")
    figures |= {"rows": table.num_rows, "manifest_bytes": size}
    checksum = table["source_checksum"][table.num_rows // 2].as_py()

    timed("read what a loader needs (8 columns, train)", figures, lambda: read_manifest(
        store, ["shard", "key", "offset", "length", "frames", "stored_width", "stored_height", "source_checksum"],
        where=pc.field("split") == "train"))  # fmt: skip
    one = timed("one source of all (row-group statistics)", figures, lambda: read_manifest(
        store, where=pc.field("source_checksum") == checksum))  # fmt: skip
    assert one.num_rows == clips // sources
    timed("filter by motion and sharpness, keys only", figures, lambda: read_manifest(
        store, ["key"], where=(pc.field("motion") > 4) & (pc.field("sharpness") > 6)))  # fmt: skip
    timed("store ls", figures, lambda: list_sources(store))
    timed("store stats", figures, lambda: store_stats(store))
    problems = timed("store verify --quick", figures, lambda: verify_layout(store)).problems
    assert problems == [], problems[:3]
    timed("near-duplicates", figures, lambda: near_duplicates(
        read_manifest(store, ["phash", "source_checksum", "first_frame", "split"])))  # fmt: skip

    loose = clip_table(10**9, fragments, 10)
    rows = loose.to_pylist()

    def write() -> None:
        for first in range(0, len(rows), 10):
            name = fragment_name(rows[first]["source_checksum"])
            write_fragment(store, f"{MANIFEST}/{name}", rows[first : first + 10], CLIP_SCHEMA)

    timed(f"write {fragments} fragments of 10 clips", figures, write)
    timed(f"read 8 columns of all, {fragments} fragments unmerged", figures, lambda: read_manifest(
        store, ["shard", "key", "offset", "length", "frames", "split"]))  # fmt: skip
    timed("store compact", figures, lambda: compact_manifest(store))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--sources", type=int, default=20_000)
    parser.add_argument("--fragments", type=int, default=1000)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        figures = measure(Path(folder), arguments.clips, arguments.sources, arguments.fragments)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
