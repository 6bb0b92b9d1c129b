"""A worker commits what it has read, and only while that is what it was told to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline import ingest_worker
from pipeline.ingest_calls import IngestSettings
from pipeline.ingest_worker import IngestWorker
from pipeline.manifest import create_or_check_store, read_manifest, write_fragment
from pipeline.store_folder import LocalFolder, open_store_folder
from pipeline.store_settling import remove_leftovers
from pipeline.verification import verify_store

MakeVideo = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    create_or_check_store(tmp_path / "store", {"pixels": "yuv420", "clip_frames": 4, "crop": None, "downscale": 1})
    return tmp_path / "store"


def worker_for(store: Path) -> IngestWorker:
    return IngestWorker(IngestSettings(str(store), 4, None, "yuv420", 1, None, 0.0, 0.0))


def nothing_in(store: Path) -> bool:
    return not [*(store / "shards").iterdir(), *(store / "manifest").iterdir()]


def test_a_source_that_changes_meanwhile_is_not_committed(store: Path, make_video: MakeVideo) -> None:
    path = make_video("a.mkv", frames=8)
    worker = worker_for(store)
    found = worker.identify(str(path))
    make_video("a.mkv", frames=12)
    outcome = worker.ingest(str(path), found.checksum, found.stamp)
    assert "changed while it was read" in outcome.error and outcome.retry
    assert nothing_in(store)
    found = worker.identify(str(path))
    assert worker.ingest(str(path), found.checksum, found.stamp).frames == 12


def test_a_fetched_source_is_looked_at_again_by_a_fresh_process(store: Path, make_video: MakeVideo) -> None:
    remote = fsspec.filesystem("memory")
    remote.pipe_file("/fetched/a.mkv", make_video("a.mkv", frames=8).read_bytes())
    found = worker_for(store).identify("memory://fetched/a.mkv")
    assert worker_for(store).ingest("memory://fetched/a.mkv", found.checksum, found.stamp).frames == 8
    remote.pipe_file("/fetched/a.mkv", make_video("a.mkv", frames=12).read_bytes())
    outcome = worker_for(store).ingest("memory://fetched/a.mkv", "0" * 64, found.stamp)
    assert "changed since it was identified" in outcome.error and outcome.retry
    remote.rm("/fetched", recursive=True)
    outcome = worker_for(store).ingest("memory://fetched/a.mkv", "0" * 64, found.stamp)
    assert "no such file" in outcome.error and outcome.retry


@pytest.mark.parametrize("when", ["before its commit", "after its commit was looked for"])
def test_no_commit_outlives_its_shards(
    store: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The worker of a stopped run commits while the next run clears leftovers away."""
    path = str(make_video("a.mkv", frames=8))
    folder, worker, exists = open_store_folder(store), worker_for(store), LocalFolder.exists
    found = worker.identify(path)
    if when == "before its commit":

        def late(*arguments: Any) -> None:
            remove_leftovers(folder)
            write_fragment(*arguments)

        monkeypatch.setattr(ingest_worker, "write_fragment", late)
        outcome = worker.ingest(path, found.checksum, found.stamp)
        assert "another ingest removed its shards" in outcome.error and outcome.retry
    else:
        shard = store / "shards" / f"{found.checksum[:20]}-0000.tar"
        shard.touch()

        def committed_then(self: LocalFolder, name: str) -> bool:
            answer = exists(self, name)
            if name.startswith("manifest/") and name.endswith(".parquet"):
                monkeypatch.setattr(LocalFolder, "exists", exists)
                worker.ingest(path, found.checksum, found.stamp)
            return answer

        monkeypatch.setattr(LocalFolder, "exists", committed_then)
        remove_leftovers(folder)
    assert nothing_in(store)
    monkeypatch.undo()
    assert worker.ingest(path, found.checksum, found.stamp).clips == 2
    assert verify_store(store).problems == [] and read_manifest(store).num_rows == 2
