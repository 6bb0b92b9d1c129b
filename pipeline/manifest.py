"""The manifest: one row a clip. A source is ingested once its Parquet fragment is there, so nobody needs a lock.

Layout of a store: `store.json`, `shards/*.tar`, `manifest/*.parquet`, `quarantine/*.parquet`. Fragments may be merged
into large parts, which `manifest/parts.json` lists (`pipeline.compaction`); a fragment counts more than a part's rows
of the same source.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codec.errors import BitreelError, UsageError
from pipeline.store_folder import StoreFolder, open_store_folder
from pipeline.store_lock import sole_writer

STORE_FORMAT = 1
STORE_FILE, SHARDS, MANIFEST, QUARANTINE = "store.json", "shards", "manifest", "quarantine"
PARTS_FILE = f"{MANIFEST}/parts.json"
NAME_LENGTH = 20  # of the checksum, in the names of fragments, shards and clips

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
        ("shard", pa.string()),  # file name below shards/; empty where the clip was dropped before it was written
        ("key", pa.string()),
        ("offset", pa.int64()),  # of the .npy member's first byte in the shard
        ("length", pa.int64()),  # of the .npy member, its header included
        ("decoder", pa.string()),
        ("decoder_version", pa.string()),
        ("motion", pa.float32()),  # mean absolute luma difference of neighbouring frames, 8-bit units, subsampled
        ("sharpness", pa.float32()),  # mean absolute horizontal luma difference, 8-bit units, on sampled rows
        ("brightness", pa.float32()),  # mean luma, 8-bit units, subsampled
        ("phash", pa.string()),  # perceptual hash: 128 bits in hex, see pipeline.curation
        ("bars", pa.string()),  # "top,bottom,left,right" rows and columns of black bars trimmed off; empty: none
        ("dropped", pa.string()),  # the rule that left the clip out; empty: it is in use
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
        ("timeout", pa.float64()),  # seconds without progress after which it was given up; more of them try again
    ]
)


Store = str | Path | StoreFolder
_Read = TypeVar("_Read")
_LOOKS = 3  # at a folder whose files are being merged


class _Vanished(BitreelError):
    """A file that was listed is not there any more."""


def create_or_check_store(store: Store, settings: dict[str, Any]) -> None:
    """Make the folders of a store with these settings, or check that the one there was made with the same.

    Raises UsageError where it was made with others, BitreelError where it has another format, is damaged, or is being
    made by another process.
    """
    folder = open_store_folder(store)
    if not folder.exists(STORE_FILE):
        _create_store(folder, settings)
    found = {"curation": []} | read_store_settings(folder)
    differing = [k for k in settings if found.get(k) != settings[k]]
    if differing:
        raise UsageError(
            f"store '{folder}' was made with {', '.join(f'{k}={found.get(k)}' for k in differing)}, not "
            f"{', '.join(f'{k}={settings[k]}' for k in differing)}; use the same settings or another --store"
        )


def _create_store(folder: StoreFolder, settings: dict[str, Any]) -> None:
    """Make a store, unless another process makes it meanwhile: which settings hold is decided under its lock."""
    try:
        folder.make((SHARDS, MANIFEST, QUARANTINE))
    except UsageError:
        if not folder.exists(STORE_FILE):
            raise
    with sole_writer(folder):
        if not folder.exists(STORE_FILE):
            folder.write(STORE_FILE, (json.dumps({"format": STORE_FORMAT, **settings}, indent=2) + "\n").encode())


def read_store_settings(store: Store) -> dict[str, Any]:
    """What `store.json` says. Raises UsageError where there is no store, BitreelError for another format or damage."""
    folder = open_store_folder(store)
    if not folder.exists(STORE_FILE):
        raise UsageError(f"'{folder}' is not a clip store (no {STORE_FILE}); make one with `bitreel ingest`")
    try:
        settings = json.loads(folder.read(STORE_FILE))
        version = settings["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise BitreelError(f"store '{folder}': {STORE_FILE} is damaged; ingest into a new store") from error
    if version != STORE_FORMAT:
        raise BitreelError(
            f"store '{folder}' has format {version}, this version reads format {STORE_FORMAT}; ingest into a new store"
        )
    return dict(settings)


def read_manifest(
    store: Store,
    columns: Sequence[str] | None = None,
    where: pc.Expression | None = None,
    dropped: bool = False,
) -> pa.Table:
    """The clips of a store, ordered by source checksum and frame.

    where: a filter on any columns; what the statistics of large parts rule out is not read. dropped: also the clips
    that a curation rule left out. Raises as `read_store_settings`, BitreelError where a file is damaged.
    """
    folder = open_store_folder(store)
    read_store_settings(folder)
    chosen = list(CLIP_SCHEMA.names if columns is None else columns)
    condition = where
    if not dropped:  # stores of before the rules have no such column
        in_use = pc.field("dropped").is_null() | (pc.field("dropped") == "")
        condition = in_use if where is None else in_use & where
    needed = list(dict.fromkeys([*chosen, "source_checksum", "first_frame"]))
    table = _looking_again(lambda: read_clips(folder, *manifest_files(folder), needed, condition))
    return table.sort_by([("source_checksum", "ascending"), ("first_frame", "ascending")]).select(chosen)


def read_clips(
    folder: StoreFolder,
    parts: list[str],
    fragments: list[str],
    columns: Sequence[str],
    condition: pc.Expression | None = None,
) -> pa.Table:
    """The rows of these files, in no order. Raises BitreelError where one is damaged or gone."""
    table = _read(folder, fragments, CLIP_SCHEMA, columns, condition)
    if parts:
        if fragments:
            names = pa.array([name.rsplit("/", 1)[-1].removesuffix(".parquet") for name in fragments])
            newer = pc.is_in(pc.utf8_slice_codeunits(pc.field("source_checksum"), 0, NAME_LENGTH), value_set=names)
            condition = ~newer if condition is None else condition & ~newer
        table = pa.concat_tables([_read(folder, parts, CLIP_SCHEMA, columns, condition), table])
    return table


def _looking_again(read: Callable[[], _Read]) -> _Read:
    """List and read anew where files went in between: others may be merging fragments, or taking entries out."""
    for _ in range(_LOOKS - 1):
        try:
            return read()
        except _Vanished:
            continue
    return read()


def manifest_files(folder: StoreFolder) -> tuple[list[str], list[str]]:
    """Names of the parts, and of the fragments that are not merged yet."""
    listed = folder.listing(MANIFEST)
    try:
        parts = json.loads(folder.read(PARTS_FILE))["parts"] if Path(PARTS_FILE).name in listed else []
    except (ValueError, KeyError, TypeError) as error:
        raise BitreelError(f"'{folder}/{PARTS_FILE}' is damaged; {_repair(folder)}") from error
    names = (name for name in sorted(listed) if name.endswith(".parquet") and not name.startswith("part-"))
    return [f"{MANIFEST}/{name}" for name in parts], [f"{MANIFEST}/{name}" for name in names]


def committed_names(folder: StoreFolder) -> set[str]:
    """The sources that are ingested, as the names of fragments and shards begin."""

    def read() -> set[str]:
        parts, fragments = manifest_files(folder)
        checksums = _read(folder, parts, CLIP_SCHEMA, ["source_checksum"], None)["source_checksum"].unique()
        names = {name.rsplit("/", 1)[-1].removesuffix(".parquet") for name in fragments}
        return names | {checksum[:NAME_LENGTH] for checksum in checksums.to_pylist()}

    return _looking_again(read)


def read_quarantine(store: Store) -> pa.Table:
    """The sources that could not be ingested, with reasons. Raises as `read_store_settings`."""
    folder = open_store_folder(store)
    read_store_settings(folder)

    def read() -> pa.Table:
        names = [f"{QUARANTINE}/{name}" for name in sorted(folder.listing(QUARANTINE)) if name.endswith(".parquet")]
        return _read(folder, names, QUARANTINE_SCHEMA, QUARANTINE_SCHEMA.names, None)

    return _looking_again(read)


def write_fragment(store: Store, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write one Parquet fragment ("manifest/…" without ending); this is the moment that commits a source."""
    if unknown := set().union(*rows).difference(schema.names):
        raise ValueError(f"{name}: no columns for {', '.join(sorted(unknown))}")
    columns = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
    buffer = pa.BufferOutputStream()
    # Without what pays off in large files only; fragments are merged into such.
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), buffer, use_dictionary=False, write_statistics=False)
    open_store_folder(store).write(f"{name}.parquet", buffer.getvalue().to_pybytes())


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """What `pa.array` would make, which loads pandas: that costs an ingest worker more than its first video."""
    known = None if None not in values else _bits([value is not None for value in values])
    if pa.types.is_string(kind):
        texts = [(value or "").encode(errors="backslashreplace") for value in values]  # see sources.printable
        return pa.Array.from_buffers(kind, len(values), [known, _begins(texts), pa.py_buffer(b"".join(texts))])
    if pa.types.is_list(kind):
        items = _column([item for value in values for item in value or ()], kind.value_type)
        begins = _begins([value or () for value in values])
        return pa.Array.from_buffers(kind, len(values), [known, begins], children=[items])
    if pa.types.is_boolean(kind):
        return pa.Array.from_buffers(kind, len(values), [known, _bits([bool(value) for value in values])])
    numbers = np.array([value or 0 for value in values], kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(values), [known, pa.py_buffer(numbers.tobytes())])


def _bits(values: list[bool]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array(values, bool), bitorder="little").tobytes())


def _begins(pieces: Sequence[Sequence[Any]]) -> pa.Buffer:
    return pa.py_buffer(array("i", accumulate(map(len, pieces), initial=0)))


def _read(
    folder: StoreFolder, names: list[str], schema: pa.Schema, columns: Sequence[str], where: pc.Expression | None
) -> pa.Table:
    """Read Parquet files of the store; columns that a file does not have are null. Raises _Vanished where one is gone,
    BitreelError where one is damaged."""
    if not names:
        return pa.schema([schema.field(name) for name in columns]).empty_table()
    import pyarrow.dataset as pd  # loads pandas, which ingest workers would wait for

    filesystem, root = folder.arrow()
    try:
        files = pd.dataset([f"{root}/{name}" for name in names], schema=schema, format="parquet", filesystem=filesystem)
        return files.to_table(columns=list(columns), filter=where)
    except FileNotFoundError as error:
        gone = next((name for name in names if not folder.exists(name)), names[0])
        raise _Vanished(f"'{folder}/{gone}' is gone; {_repair(folder)}") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        damaged = next((name for name in names if not is_readable(folder, name)), None)
        if damaged is None:
            raise
        raise BitreelError(f"'{folder}/{damaged}' is damaged; {_repair(folder)}") from error


def is_readable(folder: StoreFolder, name: str) -> bool:
    """Whether a Parquet file of the store is there and whole."""
    filesystem, root = folder.arrow()
    try:
        pq.read_table(f"{root}/{name}", filesystem=filesystem)
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True


def _repair(folder: StoreFolder) -> str:
    return f"`bitreel store repair {folder}` keeps what is whole, then ingest the videos again"
