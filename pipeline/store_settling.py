"""What an ingest does to the store as a whole, before its first source and after its last."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.compaction import merge_fragments
from pipeline.ingest_calls import fragment_name
from pipeline.manifest import (
    CLIP_SCHEMA,
    MANIFEST,
    QUARANTINE,
    SHARDS,
    committed_names,
    manifest_files,
    read_manifest,
    write_fragment,
)
from pipeline.near_duplicates import mark
from pipeline.shards import blaming_store
from pipeline.splits import missing_held_out
from pipeline.store_folder import LocalFolder, StoreFolder

MERGE_AT = 1000  # fragments; reading that many takes about a second


def remove_leftovers(store: StoreFolder) -> None:
    """Remove unfinished files, shards whose source was never committed, and parts that a merge did not come to use."""
    if isinstance(store, LocalFolder):
        store.remove_unfinished((SHARDS, MANIFEST, QUARANTINE))
    parts, _ = manifest_files(store)
    committed = committed_names(store)
    for name, file in store.listing(SHARDS).items():
        source = name.rsplit("-", 1)[0]
        if not name.endswith(".tar") or source in committed or file.age < store.leftover_age:
            continue
        # Looked at once more: a worker of a stopped run may have committed it meanwhile. One that commits it after that
        # look finds its shards gone, or has its commit found here.
        fragment = f"{MANIFEST}/{source}.parquet"
        if not store.exists(fragment):
            store.remove(f"{SHARDS}/{name}")
            store.remove(fragment)
    for name, file in store.listing(MANIFEST).items():
        unused = name.startswith("part-") and f"{MANIFEST}/{name}" not in parts
        if unused and file.age >= store.leftover_age:
            store.remove(f"{MANIFEST}/{name}")


def settle_store(
    store: StoreFolder, held_out: int, near_duplicates: bool, names: Mapping[str, tuple[str, str]] | None = None
) -> None:
    """Call content that was found under several names by the first of them (names: checksum -> location, stamp), see
    to it that enough sources are not in "train" (`missing_held_out`), mark near-duplicates, and merge the manifest's
    fragments once a local store has many. What comes out follows from the clips, not from the order they came in."""
    _rename(store, names or {})
    _hold_out(store, held_out)
    if near_duplicates:
        clips, changed = mark(read_manifest(store, dropped=True))
        _rewrite(store, clips, changed)
    # Behind a URL nobody has a lock: of two that merge at once one would lose what the other has just taken in.
    if isinstance(store, LocalFolder) and len(manifest_files(store)[1]) >= MERGE_AT:
        merge_fragments(store)


def _rename(store: StoreFolder, names: Mapping[str, tuple[str, str]]) -> None:
    columns = ["source_checksum", "source", "source_stamp"]
    table = read_manifest(store, columns, dropped=True).group_by(columns).aggregate([])
    better = {
        row["source_checksum"]: names[row["source_checksum"]]
        for row in table.to_pylist()
        if row["source_checksum"] in names and names[row["source_checksum"]][0] < row["source"]
    }
    if not better:
        return
    clips = read_manifest(store, where=pc.field("source_checksum").isin(list(better)), dropped=True)
    found = [better[checksum] for checksum in clips["source_checksum"].to_pylist()]
    for column, values in zip(("source", "source_stamp"), zip(*found, strict=True), strict=True):
        clips = clips.set_column(clips.schema.get_field_index(column), column, pa.array(values))
    _rewrite(store, clips, set(better))


def _hold_out(store: StoreFolder, least: int) -> None:
    table = read_manifest(store, ["source_checksum", "split"], dropped=True)
    rows = zip(table["source_checksum"].to_pylist(), table["split"].to_pylist(), strict=True)
    chosen = missing_held_out(dict(rows), least)
    if chosen:
        clips = read_manifest(store, where=pc.field("source_checksum").isin(chosen), dropped=True)
        column = clips.schema.get_field_index("split")
        _rewrite(store, clips.set_column(column, "split", pa.array(["val"] * clips.num_rows)), set(chosen))


def _rewrite(store: StoreFolder, clips: pa.Table, checksums: set[str]) -> None:
    """Write the fragments of some sources anew, from a table that has all rows of theirs."""
    if not checksums:
        return
    changed = clips.filter(pc.is_in(clips["source_checksum"], value_set=pa.array(sorted(checksums))))
    by_source: dict[str, list[dict[str, object]]] = {}
    for row in changed.to_pylist():
        by_source.setdefault(row["source_checksum"], []).append(row)
    with blaming_store(store):
        for checksum, rows in by_source.items():
            write_fragment(store, f"{MANIFEST}/{fragment_name(checksum)}", rows, CLIP_SCHEMA)
