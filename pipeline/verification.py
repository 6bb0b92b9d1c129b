"""Is every byte of a store right? The shards against the manifest, both ways."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from pipeline.manifest import SHARDS, Store, read_manifest
from pipeline.store_folder import StoredFile, StoreFolder, open_store_folder
from pipeline.store_lock import has_writer

_HASHED_AT_ONCE = 1 << 22
_TAR_ENDING = 1024  # two empty blocks


@dataclass
class Verification:
    """What was checked, and one line for each thing that is wrong. damaged: the sources with damage, as the names of
    their shards begin; uncommitted: shards that an ingest under way may still commit."""

    shards: int = 0
    clips: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    uncommitted: int = 0

    def blame(self, name: str, problem: str) -> None:
        """name: of the shard or the clip that is damaged."""
        self.problems.append(problem)
        self.damaged.add(name.rsplit("-", 1)[0])


def verify_store(store: Store, on_shard: Callable[[int, int], None] | None = None) -> Verification:
    """Check every shard against the manifest, both ways: each clip is where the manifest says, with the very bytes
    (hash) and facts it says, and the shards hold nothing else. An ingest may go on meanwhile. on_shard gets (shards
    done, shards in all)."""
    folder, result = open_store_folder(store), Verification()
    table, present = _look(folder, result)
    check_shards(folder, table, present, result, on_shard)
    return result


def verify_layout(store: Store) -> Verification:
    """Check without reading shards: every shard the manifest names is there, no clip lies outside its shard or over
    another one, no clip and no stretch of a source is there twice, and no shard is unknown. An ingest may go on
    meanwhile."""
    folder, result = open_store_folder(store), Verification()
    table, present = _look(folder, result)
    check_layout(table, present, result)
    return result


def written_clips(clips: pa.Table) -> pa.Table:
    """Those of the manifest's rows that are in shards."""
    return clips.filter(pc.not_equal(clips["shard"], ""))


def _look(folder: StoreFolder, result: Verification) -> tuple[pa.Table, dict[str, StoredFile]]:
    """The clips in shards, and the shards by name; shards that nobody knows are told of.

    A shard gets its name just before its source is committed. So unknown ones are looked for among those that were
    there before the manifest was read, missing ones among those that are there after it; and what an ingest under way
    has not committed yet is no damage.
    """
    before = folder.listing(SHARDS)
    table = written_clips(read_manifest(folder, dropped=True))
    unknown = before.keys() - set(table["shard"].unique().to_pylist())
    if unknown:
        writing = has_writer(folder)  # asked for first: one that ends now has committed what it will
        unknown -= set(read_manifest(folder, ["shard"], dropped=True)["shard"].unique().to_pylist())
        fresh = {name for name in unknown if writing or before[name].age < folder.leftover_age}
        result.uncommitted = len(fresh)
        result.problems += [f"{SHARDS}/{name}: not in the manifest" for name in sorted(unknown - fresh)]
    return table, folder.listing(SHARDS)


def check_shards(
    folder: StoreFolder,
    table: pa.Table,
    present: dict[str, StoredFile],
    result: Verification,
    on_shard: Callable[[int, int], None] | None = None,
) -> None:
    """Read the shards of a table of written clips, and add to the result what is wrong. present: the shards there."""
    table = table.sort_by([("shard", "ascending"), ("offset", "ascending")])
    names = table["shard"].unique().to_pylist()
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(table["shard"]).to_pylist()}
    first = 0
    for done, name in enumerate(names, start=1):
        rows = table.slice(first, counts[name])  # one shard's rows at a time become Python objects
        first += counts[name]
        result.shards += 1
        if name not in present:
            result.blame(name, f"{SHARDS}/{name}: missing, the manifest has {rows.num_rows} clips in it")
        else:
            _verify_shard(folder, name, rows.to_pylist(), result)
        if on_shard is not None:
            on_shard(done, len(names))


def check_layout(table: pa.Table, present: dict[str, StoredFile], result: Verification) -> None:
    """As `check_shards`, without reading them."""
    order = pc.sort_indices(table, [("shard", "ascending"), ("offset", "ascending")])
    table = table.select(["shard", "key", "offset", "length"]).take(order)
    shards = table["shard"].combine_chunks().dictionary_encode()
    names = shards.dictionary.to_pylist()
    codes = shards.indices.to_numpy()
    begins, lengths = table["offset"].to_numpy(), table["length"].to_numpy()
    sizes = np.array([present[name].size if name in present else -1 for name in names], np.int64)
    result.shards, result.clips, result.bytes = len(names), table.num_rows, int(lengths.sum())
    for code in np.flatnonzero(sizes < 0):
        count = (codes == code).sum()
        result.blame(names[code], f"{SHARDS}/{names[code]}: missing, the manifest has {count} clips in it")
    if table.num_rows == 0:
        return
    ends = begins + lengths
    outside = (sizes[codes] >= 0) & ((ends + _TAR_ENDING > sizes[codes]) | (begins < 0))
    overlapping = np.r_[False, (codes[1:] == codes[:-1]) & (begins[1:] < ends[:-1])]
    for wrong, words in ((outside, "lies beyond the shard's end"), (overlapping, "lies over the clip before it")):
        for place in np.flatnonzero(wrong):
            name = names[codes[place]]
            result.blame(name, f"{SHARDS}/{name}: clip {table['key'][int(place)].as_py()}: {words}")
    keys = pc.value_counts(table["key"])
    twice = keys.filter(pc.greater(keys.field("counts"), 1))
    for entry in twice.to_pylist():
        result.blame(entry["values"], f"clip {entry['values']}: {entry['counts']} times in the manifest")


def _verify_shard(folder: StoreFolder, name: str, rows: list[dict[str, Any]], result: Verification) -> None:
    where = f"{SHARDS}/{name}"
    try:
        with folder.open(where) as handle, tarfile.open(fileobj=handle, mode="r:") as tar:
            members = {member.name: member for member in tar}
            for row in rows:
                problem = _verify_clip(tar, members, row)
                result.clips += 1
                result.bytes += row["length"]
                if problem:
                    result.blame(name, f"{where}: clip {row['key']}: {problem}")
    except (tarfile.TarError, OSError, EOFError) as error:
        result.blame(name, f"{where}: not a whole tar ({error})")
        return
    expected = {f"{row['key']}.{ending}" for row in rows for ending in ("npy", "json")}
    for member in sorted(members.keys() - expected):
        result.blame(name, f"{where}: {member} is not in the manifest")


def _verify_clip(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], row: dict[str, Any]) -> str:
    array, facts = members.get(f"{row['key']}.npy"), members.get(f"{row['key']}.json")
    if array is None or facts is None:
        return "missing"
    if (array.offset_data, array.size) != (row["offset"], row["length"]):
        return "not where the manifest says"
    handle = tar.extractfile(array)
    digest = blake3()
    while handle is not None and (block := handle.read(_HASHED_AT_ONCE)):
        digest.update(block)
    if digest.hexdigest() != row["clip_id"]:
        return "its pixels are not those that were written"
    handle = tar.extractfile(facts)
    try:
        written = json.loads(handle.read()) if handle is not None else {}
    except ValueError:
        return "its JSON is damaged"
    differing = [k for k, v in written.items() if not _same(v, row.get(k))]
    if differing or "clip_id" not in written:
        return f"its JSON differs from the manifest ({', '.join(differing) or 'empty'})"
    return ""


def _same(written: Any, row: Any) -> bool:
    if isinstance(written, float) and isinstance(row, float):
        return abs(written - row) <= 1e-5 * max(1.0, abs(written))  # the manifest has float32
    return bool(written == row)
