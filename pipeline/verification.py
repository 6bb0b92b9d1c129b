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
from pipeline.store_folder import StoreFolder, open_store_folder

_HASHED_AT_ONCE = 1 << 22
_TAR_ENDING = 1024  # two empty blocks


@dataclass
class Verification:
    """What was checked, and one line for each thing that is wrong."""

    shards: int = 0
    clips: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


def verify_store(store: Store, on_shard: Callable[[int, int], None] | None = None) -> Verification:
    """Check every shard against the manifest, both ways: each clip is where the manifest says, with the very bytes
    (hash) and facts it says, and the shards hold nothing else. on_shard gets (shards done, shards in all)."""
    folder, result = open_store_folder(store), Verification()
    table = _written_clips(folder).sort_by([("shard", "ascending"), ("offset", "ascending")])
    present = folder.listing(SHARDS)
    names = table["shard"].unique().to_pylist()
    for name in sorted(present.keys() - set(names)):
        result.problems.append(f"{SHARDS}/{name}: not in the manifest")
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(table["shard"]).to_pylist()}
    first = 0
    for done, name in enumerate(names, start=1):
        rows = table.slice(first, counts[name])  # one shard's rows at a time become Python objects
        first += counts[name]
        result.shards += 1
        if name not in present:
            result.problems.append(f"{SHARDS}/{name}: missing, the manifest has {rows.num_rows} clips in it")
        else:
            _verify_shard(folder, f"{SHARDS}/{name}", rows.to_pylist(), result)
        if on_shard is not None:
            on_shard(done, len(names))
    return result


def verify_layout(store: Store) -> Verification:
    """Check without reading shards: every shard the manifest names is there, no clip lies outside its shard or over
    another one, no clip and no stretch of a source is there twice, and no shard is unknown."""
    folder, result = open_store_folder(store), Verification()
    table = _written_clips(folder)
    order = pc.sort_indices(table, [("shard", "ascending"), ("offset", "ascending")])
    table = table.select(["shard", "key", "offset", "length"]).take(order)
    present = folder.listing(SHARDS)
    shards = table["shard"].combine_chunks().dictionary_encode()
    names = shards.dictionary.to_pylist()
    codes = shards.indices.to_numpy()
    begins, lengths = table["offset"].to_numpy(), table["length"].to_numpy()
    sizes = np.array([present[name].size if name in present else -1 for name in names], np.int64)
    result.shards, result.clips, result.bytes = len(names), table.num_rows, int(lengths.sum())
    for code in np.flatnonzero(sizes < 0):
        result.problems.append(f"{SHARDS}/{names[code]}: missing, the manifest has {(codes == code).sum()} clips in it")
    for name in sorted(present.keys() - set(names)):
        result.problems.append(f"{SHARDS}/{name}: not in the manifest")
    if table.num_rows == 0:
        return result
    ends = begins + lengths
    outside = (sizes[codes] >= 0) & ((ends + _TAR_ENDING > sizes[codes]) | (begins < 0))
    overlapping = np.r_[False, (codes[1:] == codes[:-1]) & (begins[1:] < ends[:-1])]
    for wrong, words in ((outside, "lies beyond the shard's end"), (overlapping, "lies over the clip before it")):
        for place in np.flatnonzero(wrong):
            where = f"{SHARDS}/{names[codes[place]]}: clip {table['key'][int(place)].as_py()}"
            result.problems.append(f"{where}: {words}")
    keys = pc.value_counts(table["key"])
    twice = keys.filter(pc.greater(keys.field("counts"), 1))
    result.problems += [
        f"clip {entry['values']}: {entry['counts']} times in the manifest" for entry in twice.to_pylist()
    ]
    return result


def _written_clips(folder: StoreFolder) -> pa.Table:
    table = read_manifest(folder, dropped=True)
    return table.filter(pc.not_equal(table["shard"], ""))


def _verify_shard(folder: StoreFolder, where: str, rows: list[dict[str, Any]], result: Verification) -> None:
    try:
        with folder.open(where) as handle, tarfile.open(fileobj=handle, mode="r:") as tar:
            members = {member.name: member for member in tar}
            for row in rows:
                problem = _verify_clip(tar, members, row)
                result.clips += 1
                result.bytes += row["length"]
                if problem:
                    result.problems.append(f"{where}: clip {row['key']}: {problem}")
    except (tarfile.TarError, OSError, EOFError) as error:
        result.problems.append(f"{where}: not a whole tar ({error})")
        return
    expected = {f"{row['key']}.{ending}" for row in rows for ending in ("npy", "json")}
    for name in sorted(members.keys() - expected):
        result.problems.append(f"{where}: {name} is not in the manifest")


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
