"""Merging the manifest's many small fragments into few large parts, sorted so that statistics can rule rows out.

The parts become the manifest when `parts.json` names them; fragments are removed after that. Stopped in between, the
fragments still there say the same as the parts.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from pipeline.manifest import MANIFEST, PARTS_FILE, Store, manifest_files, read_manifest, read_store_settings
from pipeline.shards import blaming_store
from pipeline.store_folder import StoreFolder, open_store_folder
from pipeline.store_lock import sole_writer

PART_ROWS, GROUP_ROWS = 500_000, 20_000


def compact_manifest(store: Store) -> int:
    """Merge all fragments; gives how many there were. No ingest may be writing meanwhile: a local store is locked
    (BitreelError where another has the lock), a remote one is the caller's to keep quiet."""
    folder = open_store_folder(store)
    read_store_settings(folder)
    with sole_writer(folder):
        return merge_fragments(folder)


def merge_fragments(folder: StoreFolder) -> int:
    """As `compact_manifest`, for the one who has the lock."""
    parts, fragments = manifest_files(folder)
    if fragments:
        replace_manifest(folder, read_manifest(folder, dropped=True), [*parts, *fragments])
    return len(fragments)


def replace_manifest(folder: StoreFolder, table: pa.Table, old: list[str]) -> None:
    """Write a table of whole rows, ordered as `read_manifest` gives it, as the parts that take the place of the `old`
    files. For the one who has the lock."""
    parts = []
    with blaming_store(folder):
        for first in range(0, table.num_rows, PART_ROWS):
            data = _encoded(table.slice(first, PART_ROWS))
            parts.append(f"part-{first // PART_ROWS:05d}-{blake3(data).hexdigest(8)}.parquet")
            folder.write(f"{MANIFEST}/{parts[-1]}", data)
        folder.write(PARTS_FILE, (json.dumps({"parts": parts}, indent=1) + "\n").encode())
        for name in old:
            if name.rsplit("/", 1)[-1] not in parts:
                folder.remove(name)


def _encoded(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=GROUP_ROWS, compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())
