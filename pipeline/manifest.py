"""The manifest: one row a clip, one Parquet fragment a source. A source is ingested once its fragment is there.

Layout of a store: `store.json`, `shards/*.tar`, `manifest/*.parquet`, `quarantine/*.parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from codec.atomic_files import write_atomically
from codec.errors import BitreelError, UsageError

STORE_FORMAT = 1
STORE_FILE, SHARDS, MANIFEST, QUARANTINE = "store.json", "shards", "manifest", "quarantine"

CLIP_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),  # BLAKE3 over the clip's .npy member
        ("source", pa.string()),  # path or URL as it was ingested
        ("source_checksum", pa.string()),  # BLAKE3 over the source file
        ("source_stamp", pa.string()),  # size and time of the source, to know it again without reading it
        ("source_frames", pa.int32()),
        ("first_frame", pa.int32()),  # index in the source, presentation order
        ("frames", pa.int32()),
        ("fps_num", pa.int32()),
        ("fps_den", pa.int32()),
        ("width", pa.int32()),  # picture size of the clip; stored even-sized, padded by edge at right and bottom
        ("height", pa.int32()),
        ("stored_width", pa.int32()),
        ("stored_height", pa.int32()),
        ("source_width", pa.int32()),  # after rotation
        ("source_height", pa.int32()),
        ("crop_x", pa.int32()),  # of the clip inside the downscaled picture
        ("crop_y", pa.int32()),
        ("downscale", pa.int32()),
        ("pixel_format", pa.string()),  # "yuv420p" or "rgb24": what the shard holds
        ("source_pixel_format", pa.string()),
        ("matrix", pa.string()),
        ("colour_range", pa.string()),  # "limited" or "full"
        ("shard", pa.string()),  # file name below shards/
        ("key", pa.string()),
        ("offset", pa.int64()),  # of the .npy member's first byte in the shard
        ("length", pa.int64()),  # of the .npy member, its header included
        ("decoder", pa.string()),
        ("decoder_version", pa.string()),
        ("motion", pa.float32()),  # mean absolute luma difference of neighbouring frames, 8-bit units, subsampled
        ("sharpness", pa.float32()),  # mean absolute horizontal luma difference, 8-bit units, on sampled rows
        ("split", pa.string()),  # "train", "val" or "test", the same for all clips of a source
        ("notes", pa.list_(pa.string())),  # conversions and assumptions
    ]
)

QUARANTINE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("source_checksum", pa.string()),  # empty where the file could not even be read
        ("source_stamp", pa.string()),
        ("reason", pa.string()),
        ("retry", pa.bool_()),  # True where the next ingest shall try again (a worker died, the file was missing)
    ]
)


def create_or_check_store(store: Path, settings: dict[str, Any]) -> None:
    """Make the folders of a store with these settings, or check that the one there was made with the same.

    Raises UsageError where it was made with others, BitreelError where it has another format or is damaged.
    """
    if (store / STORE_FILE).exists():
        found = read_store_settings(store)
        differing = [k for k in settings if found.get(k) != settings[k]]
        if differing:
            raise UsageError(
                f"store '{store}' was made with {', '.join(f'{k}={found.get(k)}' for k in differing)}, not "
                f"{', '.join(f'{k}={settings[k]}' for k in differing)}; use the same settings or another --store"
            )
    elif store.is_dir() and any(store.iterdir()):
        raise UsageError(f"'{store}' is a folder with other things in it; give --store a new or empty folder")
    for folder in (SHARDS, MANIFEST, QUARANTINE):
        (store / folder).mkdir(parents=True, exist_ok=True)
    if not (store / STORE_FILE).exists():
        write_atomically(
            store / STORE_FILE, (json.dumps({"format": STORE_FORMAT, **settings}, indent=2) + "\n").encode()
        )


def read_store_settings(store: Path) -> dict[str, Any]:
    """What `store.json` says. Raises UsageError where there is no store, BitreelError for another format or damage."""
    path = store / STORE_FILE
    if not path.is_file():
        raise UsageError(f"'{store}' is not a clip store (no {STORE_FILE}); make one with `bitreel ingest`")
    try:
        settings = json.loads(path.read_text())
        version = settings["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise BitreelError(f"store '{store}': {STORE_FILE} is damaged; ingest into a new store") from error
    if version != STORE_FORMAT:
        raise BitreelError(
            f"store '{store}' has format {version}, this version reads format {STORE_FORMAT}; ingest into a new store"
        )
    return dict(settings)


def read_manifest(store: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All clips of a store, ordered by source checksum and frame. Raises as `read_store_settings`."""
    read_store_settings(store)
    return _read_fragments(store / MANIFEST, CLIP_SCHEMA, columns)


def read_quarantine(store: Path) -> pa.Table:
    """The sources that could not be ingested, with reasons. Raises as `read_store_settings`."""
    read_store_settings(store)
    return _read_fragments(store / QUARANTINE, QUARANTINE_SCHEMA, None)


def write_fragment(folder: Path, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write one Parquet fragment by rename; for the manifest this is the moment that commits a source."""
    # Through JSON, because Table.from_pylist loads pandas, which costs each ingest worker more than its first video.
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    table = pj.read_json(pa.BufferReader(lines), parse_options=options) if rows else schema.empty_table()
    buffer = pa.BufferOutputStream()
    pq.write_table(table.select(schema.names).cast(schema), buffer)
    write_atomically(folder / f"{name}.parquet", buffer.getvalue().to_pybytes())


def _read_fragments(folder: Path, schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
    chosen = schema if columns is None else pa.schema([schema.field(c) for c in columns])
    tables = []
    for path in sorted(folder.glob("*.parquet")):
        if path.name.startswith("."):
            continue
        try:
            tables.append(pq.ParquetFile(path).read(columns=chosen.names).cast(chosen))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BitreelError(f"'{path}' is damaged; delete it and run `bitreel ingest` again") from error
    return pa.concat_tables(tables) if tables else chosen.empty_table()
