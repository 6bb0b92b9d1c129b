"""Looking at a store: what it holds, whether every byte of it is right, and its figures."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from pipeline.manifest import SHARDS, read_manifest, read_quarantine, read_store_settings

_HASHED_AT_ONCE = 1 << 22


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


@dataclass
class Verification:
    """What `verify_store` checked, and one line for each thing that is wrong."""

    shards: int = 0
    clips: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


def list_sources(store: Path) -> list[SourceSummary]:
    """One entry a source, by name. Raises as `read_manifest`."""
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in read_manifest(store).to_pylist():
        by_source.setdefault(row["source_checksum"], []).append(row)
    found = [
        SourceSummary(
            rows[0]["source"],
            len(rows),
            sum(row["frames"] for row in rows),
            rows[0]["source_frames"],
            f"{rows[0]['width']}x{rows[0]['height']}",
            rows[0]["split"],
            f"{rows[0]['decoder']} {rows[0]['decoder_version']}",
            rows[0]["notes"],
        )
        for rows in by_source.values()
    ]
    return sorted(found, key=lambda summary: summary.source)


def store_stats(store: Path) -> dict[str, Any]:
    """Figures of a store: settings, counts by split, size and pixel format, motion and sharpness, bytes, quarantine."""
    rows = read_manifest(store).to_pylist()
    splits = {
        split: {
            "sources": len({row["source_checksum"] for row in rows if row["split"] == split}),
            "clips": sum(row["split"] == split for row in rows),
            "frames": sum(row["frames"] for row in rows if row["split"] == split),
        }
        for split in ("train", "val", "test")
    }
    return {
        "settings": read_store_settings(store),
        "splits": splits,
        "sources": len({row["source_checksum"] for row in rows}),
        "clips": len(rows),
        "frames": sum(row["frames"] for row in rows),
        "shards": len({row["shard"] for row in rows}),
        "bytes": sum(row["length"] for row in rows),
        "sizes": dict(Counter(f"{row['width']}x{row['height']}" for row in rows).most_common()),
        "source_pixel_formats": dict(Counter(row["source_pixel_format"] for row in rows).most_common()),
        "decoders": dict(Counter(f"{row['decoder']} {row['decoder_version']}" for row in rows).most_common()),
        "motion": _spread([row["motion"] for row in rows]),
        "sharpness": _spread([row["sharpness"] for row in rows]),
        "quarantine": [
            {"source": row["source"], "reason": row["reason"]} for row in read_quarantine(store).to_pylist()
        ],
    }


def verify_store(store: Path, on_shard: Callable[[int, int], None] | None = None) -> Verification:
    """Check every shard against the manifest, both ways: each clip is where the manifest says, with the very bytes
    (hash) and facts it says, and the shards hold nothing else. on_shard gets (shards done, shards in all)."""
    result = Verification()
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for row in read_manifest(store).to_pylist():
        by_shard.setdefault(row["shard"], []).append(row)
    present = {path.name for path in (store / SHARDS).iterdir()}
    for name in sorted(present - by_shard.keys()):
        result.problems.append(f"{SHARDS}/{name}: not in the manifest")
    for done, (name, rows) in enumerate(sorted(by_shard.items()), start=1):
        result.shards += 1
        if name not in present:
            result.problems.append(f"{SHARDS}/{name}: missing, the manifest has {len(rows)} clips in it")
        else:
            _verify_shard(store / SHARDS / name, rows, result)
        if on_shard is not None:
            on_shard(done, len(by_shard))
    return result


def _verify_shard(path: Path, rows: list[dict[str, Any]], result: Verification) -> None:
    where = f"{SHARDS}/{path.name}"
    try:
        with tarfile.open(path, "r:") as tar:
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


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}
