"""Shards hold what was put in, whether a clip was made in the writer's memory or copied into it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from numpy.typing import NDArray

from codec.frames import Frame
from pipeline.clips import Clip, ClipCutter, Geometry
from pipeline.shards import ShardWriter
from pipeline.store_folder import LocalFolder

SHAPE = (4, 36, 32)


def members(store: Path, row: dict[str, Any]) -> dict[str, bytes]:
    with tarfile.open(store / "shards" / row["shard"]) as tar:
        assert all(member.mode == 0o444 and member.uid == 0 for member in tar)
        return {member.name: handle.read() for member in tar if (handle := tar.extractfile(member)) is not None}


def check(store: Path, row: dict[str, Any], array: NDArray[np.uint8]) -> None:
    """The row's clip is `array`, as NumPy would save it, at its place, under its checksum."""
    saved = io.BytesIO()
    np.save(saved, array)
    held = members(store, row)
    assert held[f"{row['key']}.npy"] == saved.getvalue()
    assert row["clip_id"] == blake3(saved.getvalue()).hexdigest()
    assert json.loads(held[f"{row['key']}.json"]) == {"clip_id": row["clip_id"], "key": row["key"], "fact": 1}
    with (store / "shards" / row["shard"]).open("rb") as shard:
        shard.seek(row["offset"])
        assert shard.read(row["length"]) == saved.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    return tmp_path


def test_clips_made_in_place_and_clips_copied(store: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, shape, np.uint8) for shape in (SHAPE, SHAPE, (2, *SHAPE[1:]), (4, 12, 9), SHAPE)]
    writer, rows = ShardWriter(LocalFolder(store), "a"), []
    for index, clip in enumerate(clips):
        room = writer.room(SHAPE)
        room[...] = 7  # a shot that turned out to be of no use
        writer.settle(len(room))
        room = writer.room(SHAPE)
        if clip.shape[1:] == SHAPE[1:] and index != 4:
            room = room[: len(clip)]
            for t in range(len(clip)):
                room[t] = clip[t]
                writer.settle(t + 1)
        rows.append(writer.add(f"k{index}", clip if index >= 3 else room, {"fact": 1}))
    assert writer.commit() == rows
    for row, clip in zip(rows, clips, strict=True):
        check(store, row, clip)


def test_a_room_alone_makes_no_shard(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shards.SHARD_BYTES", 2 * np.prod(SHAPE))
    writer = ShardWriter(LocalFolder(store), "a")
    array = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    row = writer.add("k", array, {"fact": 1})
    writer.room((9, *SHAPE[1:]))
    assert writer.commit() == [row]
    assert [path.name for path in store.rglob("*.tar")] == ["a-0000.tar"]
    check(store, row, array)


def test_a_cutter_in_the_writer_s_memory_gives_the_same_clips(store: Path) -> None:
    """With cuts and remnants, where pictures that were put behind a clip must go to the next one."""
    rng = np.random.default_rng(1)
    shades = [10] * 7 + [200] * 9 + [60] * 2 + [140] * 13 + [20] * 5
    noise = rng.integers(0, 4, (len(shades), 24, 32), np.uint8)
    half = np.zeros((12, 16), np.uint8)
    frames = [
        Frame(n + np.uint8(s), half + np.uint8(t), half) for t, (n, s) in enumerate(zip(noise, shades, strict=True))
    ]
    found: list[NDArray[np.uint8]] = []
    rows: list[dict[str, Any]] = []
    writer = ShardWriter(LocalFolder(store), "a")

    def keep(clip: Clip) -> None:
        found.append(clip.array.copy())
        rows.append(writer.add(f"k{clip.first_frame}", clip.array, {"fact": 1}))

    cutter = ClipCutter(Geometry.of(32, 24, None, 1), 4, False, keep, memory=writer)
    for frame in frames:
        cutter.push([frame])
    cutter.finish()
    writer.commit()
    assert [row["key"] for row in rows] == ["k0", "k7", "k11", "k16", "k18", "k22", "k26", "k31"]
    for row, array in zip(rows, found, strict=True):
        first = int(row["key"][1:])
        for t, frame in enumerate(array):
            assert frame.tobytes() == frames[first + t].to_bytes()
        check(store, row, array)
