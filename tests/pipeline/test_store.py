"""`verify` sees every kind of damage, and the store commands say what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from codec.errors import BitreelError, UsageError
from infra.commands import ingest as ingest_command
from infra.commands import store as store_command
from pipeline.ingest_calls import IngestSettings
from pipeline.ingest_worker import IngestWorker
from pipeline.manifest import create_or_check_store, read_manifest
from pipeline.store import list_sources, store_stats
from pipeline.verification import verify_store

MakeVideo = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path, make_video: MakeVideo) -> Path:
    folder = tmp_path / "store"
    create_or_check_store(folder, {"pixels": "yuv420", "clip_frames": 4, "crop": None, "downscale": 1})
    worker = IngestWorker(IngestSettings(str(folder), 4, None, "yuv420", 1, None, 0.0, 0.0))
    path = make_video("a.mkv", codec="ffv1", frames=8)
    found = worker.identify(str(path))
    assert worker.ingest(str(path), found.checksum, found.stamp).clips == 2
    return folder


def bitreel(*arguments: object) -> None:
    app = typer.Typer()
    ingest_command.register(app)
    store_command.register(app)
    app([str(argument) for argument in arguments], standalone_mode=False)


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_whole_store_is_found_whole(store: Path) -> None:
    result = verify_store(store)
    assert (result.shards, result.clips, result.problems) == (1, 2, [])


def test_damage_is_found(store: Path) -> None:
    row = read_manifest(store).to_pylist()[1]
    shard = store / "shards" / row["shard"]
    whole = shard.read_bytes()

    flip_byte(shard, row["offset"] + row["length"] - 1)
    assert verify_store(store).problems == [
        f"shards/{shard.name}: clip {row['key']}: its pixels are not those that were written"
    ]

    shard.write_bytes(whole)
    position = whole.index(b'"first_frame": 4') + len('"first_frame": ')
    flip_byte(shard, position)
    assert "its JSON differs from the manifest (first_frame)" in verify_store(store).problems[0]

    shard.write_bytes(whole[: row["offset"]])
    assert len(verify_store(store).problems) >= 1

    shard.unlink()
    assert "missing, the manifest has 2 clips in it" in verify_store(store).problems[0]

    shard.write_bytes(whole)
    shard.with_name("other.tar").write_bytes(whole)
    assert verify_store(store).problems == ["shards/other.tar: not in the manifest"]
    shard.with_name("other.tar").unlink()

    fragment = next((store / "manifest").iterdir())
    fragment.unlink()
    assert verify_store(store).problems == [f"shards/{shard.name}: not in the manifest"]


def test_listing_and_figures(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [(entry.clips, entry.frames, entry.size) for entry in list_sources(store)] == [(2, 8, "64x48")]
    figures = store_stats(store)
    assert (figures["clips"], figures["splits"]["train"]["sources"], figures["quarantine"]) == (2, 1, [])
    bitreel("store", "stats", store, "--json", tmp_path / "stats.json")
    assert json.loads((tmp_path / "stats.json").read_text())["frames"] == 8
    bitreel("store", "ls", store)
    bitreel("store", "verify", store)
    said = capsys.readouterr().out
    assert "a.mkv" in said
    assert "2 clips in 1 shards agree" in said


def test_commands_refuse(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a clip store"):
        bitreel("store", "ls", tmp_path)
    next((store / "shards").iterdir()).unlink()
    with pytest.raises(BitreelError, match="has 1 problems"):
        bitreel("store", "verify", store)
    with pytest.raises(UsageError, match="is not a size"):
        bitreel("ingest", tmp_path, "--store", tmp_path / "new", "--crop", "big")
