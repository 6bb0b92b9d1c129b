"""Looking at a store: what it holds and its figures. Columns only, so that a million clips take seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest import Store, read_manifest, read_quarantine, read_store_settings

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SourceSummary:
    """One source of a store."""

    source: str
    clips: int
    frames: int  # in its clips
    source_frames: int
    size: str  # of its clips' pictures
    split: str
    decoder: str
    notes: list[str]


def list_sources(store: Store, split: str | None = None) -> list[SourceSummary]:
    """One entry a source, by name; with `split`, of that split alone. Raises as `read_manifest`."""
    firsts = ("source", "source_frames", "width", "height", "split", "decoder", "decoder_version")
    columns = [*firsts, "source_checksum", "frames", "notes"]
    table = read_manifest(store, columns, where=None if split is None else pc.field("split") == split)
    if table.num_rows == 0:
        return []
    # Ordered by source, so each source is a run of rows and what is the same in all of them is read off its first.
    runs = pc.run_end_encode(table["source_checksum"].combine_chunks()).run_ends
    ends = runs.to_numpy()
    starts = pa.array([0, *ends[:-1].tolist()])
    first = {name: table[name].take(starts).to_pylist() for name in (*firsts, "notes")}
    frames = table.group_by("source_checksum", use_threads=False).aggregate([("frames", "sum"), ("frames", "count")])
    sums, counts = frames["frames_sum"].to_pylist(), frames["frames_count"].to_pylist()
    found = [
        SourceSummary(
            first["source"][i],
            counts[i],
            sums[i],
            first["source_frames"][i],
            f"{first['width'][i]}x{first['height'][i]}",
            first["split"][i],
            f"{first['decoder'][i]} {first['decoder_version'][i]}",
            first["notes"][i],
        )
        for i in range(len(counts))
    ]
    return sorted(found, key=lambda summary: summary.source)


def store_stats(store: Store) -> dict[str, Any]:
    """Figures of a store: settings, counts by split, size and pixel format, measures, bytes, what the curation rules
    left out or trimmed, quarantine."""
    columns = ("source_checksum", "split", "frames", "shard", "length", "width", "height", "source_pixel_format")
    measures = ("motion", "sharpness", "brightness")
    every = read_manifest(store, [*columns, "decoder", "decoder_version", *measures, "bars", "dropped"], dropped=True)
    reasons = pc.fill_null(every["dropped"], "")
    table = every.filter(pc.equal(reasons, ""))
    dropped = every.filter(pc.not_equal(reasons, ""))
    return {
        "settings": read_store_settings(store),
        "splits": {split: _counts(table.filter(pc.equal(table["split"], split))) for split in _SPLITS},
        **_counts(table),
        "shards": pc.count_distinct(table["shard"]).as_py(),
        "bytes": pc.sum(table["length"]).as_py() or 0,
        "sizes": _tally(_joined(table, "width", "height", "x")),
        "source_pixel_formats": _tally(table["source_pixel_format"]),
        "decoders": _tally(_joined(table, "decoder", "decoder_version", " ")),
        **{name: _spread(table[name]) for name in measures},
        "dropped": _tally(dropped["dropped"]),
        "dropped_bytes": pc.sum(dropped["length"]).as_py() or 0,
        "trimmed_bars": pc.sum(pc.not_equal(pc.fill_null(table["bars"], ""), "")).as_py() or 0,
        "quarantine": [
            {"source": row["source"], "reason": row["reason"]} for row in read_quarantine(store).to_pylist()
        ],
    }


def _counts(table: pa.Table) -> dict[str, int]:
    return {
        "sources": pc.count_distinct(table["source_checksum"]).as_py(),
        "clips": table.num_rows,
        "frames": pc.sum(table["frames"]).as_py() or 0,
    }


def _joined(table: pa.Table, first: str, second: str, between: str) -> pa.ChunkedArray:
    left, right = (pc.cast(table[name], pa.string()) for name in (first, second))
    return pc.binary_join_element_wise(left, right, between)


def _tally(values: pa.ChunkedArray) -> dict[str, int]:
    """Counts, the most frequent first."""
    counted = [(entry["values"], entry["counts"]) for entry in pc.value_counts(values).to_pylist()]
    return dict(sorted(counted, key=lambda entry: -entry[1]))


def _spread(values: pa.ChunkedArray) -> dict[str, float]:
    values = values.drop_null()
    if len(values) == 0:
        return {}
    bounds = pc.min_max(values).as_py()
    median = pc.quantile(values, 0.5, interpolation="nearest")[0].as_py()
    return {"min": bounds["min"], "median": median, "max": bounds["max"]}
