"""Making a damaged store whole again, by forgetting the sources that are damaged: the next ingest takes them anew.

The manifest is replaced before shards are removed, so that it never names what is gone. Stopped in between, the same
repair again does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from codec.errors import BitreelError
from pipeline.compaction import replace_manifest
from pipeline.manifest import (
    CLIP_SCHEMA,
    MANIFEST,
    NAME_LENGTH,
    PARTS_FILE,
    QUARANTINE,
    SHARDS,
    Store,
    is_readable,
    manifest_files,
    read_clips,
    read_store_settings,
)
from pipeline.shards import blaming_store
from pipeline.store_folder import StoreFolder, open_store_folder
from pipeline.store_lock import sole_writer
from pipeline.verification import Verification, check_layout, check_shards, written_clips


@dataclass
class Repair:
    """What was wrong, a line each, and what was done about it: sources whose clips were forgotten, files that were
    removed. Sources that were in a damaged part of the manifest alone are not known by name any more."""

    problems: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def repair_store(store: Store, dry_run: bool = False, on_shard: Callable[[int, int], None] | None = None) -> Repair:
    """Drop damaged files of manifest and quarantine, forget the sources that do not verify, and remove their shards and
    those of sources that the manifest does not know (any more).

    Reads every shard; on_shard gets (shards done, shards in all). dry_run: nothing is changed. Raises UsageError where
    there is no store, BitreelError where `store.json` is damaged or another process is writing (a remote store is the
    caller's to keep quiet), StoreWriteError where the store can't be written.
    """
    folder = open_store_folder(store)
    read_store_settings(folder)
    with sole_writer(folder):
        repair = Repair()
        parts, fragments = _manifest_files(folder, repair)
        quarantine = [f"{QUARANTINE}/{name}" for name in sorted(folder.listing(QUARANTINE))]
        damaged = {name for name in [*parts, *fragments, *quarantine] if not is_readable(folder, name)}
        repair.problems += [f"{name}: damaged or gone" for name in sorted(damaged)]
        clips = read_clips(
            folder,
            [n for n in parts if n not in damaged],
            [n for n in fragments if n not in damaged],
            CLIP_SCHEMA.names,
        ).sort_by([("source_checksum", "ascending"), ("first_frame", "ascending")])

        present, found = folder.listing(SHARDS), Verification()
        check_layout(written_clips(clips), present, found)
        check_shards(folder, written_clips(clips), present, found, on_shard)
        repair.problems += dict.fromkeys(found.problems)
        sources = pc.utf8_slice_codeunits(clips["source_checksum"], 0, NAME_LENGTH)
        bad = pc.is_in(sources, value_set=pa.array(sorted(found.damaged), pa.string()))
        repair.forgotten = sorted(clips.filter(bad)["source"].unique().to_pylist())
        kept = clips.filter(pc.invert(bad))

        known, named = ({*table["shard"].unique().to_pylist()} for table in (clips, kept))
        strays = [n for n, file in present.items() if n not in known and file.age >= folder.leftover_age]
        repair.problems += [f"{SHARDS}/{name}: not in the manifest" for name in sorted(strays)]
        shards = sorted(name for name in {*(known & present.keys()) - named, *strays} if name.endswith(".tar"))
        repair.removed = [*sorted(damaged), *(f"{SHARDS}/{name}" for name in shards)]
        if repair.problems and not dry_run:
            replace_manifest(folder, kept, [*parts, *fragments])
            with blaming_store(folder):
                for name in [*sorted(damaged & {*quarantine}), *(f"{SHARDS}/{name}" for name in shards)]:
                    folder.remove(name)
    return repair


def _manifest_files(folder: StoreFolder, repair: Repair) -> tuple[list[str], list[str]]:
    """As `manifest_files`; where the list of parts is damaged, all that are there."""
    try:
        return manifest_files(folder)
    except BitreelError:
        repair.problems.append(f"{PARTS_FILE}: damaged")
        names = [f"{MANIFEST}/{name}" for name in sorted(folder.listing(MANIFEST)) if name.endswith(".parquet")]
        merged = [name for name in names if name.startswith(f"{MANIFEST}/part-")]
        return merged, [name for name in names if name not in merged]
