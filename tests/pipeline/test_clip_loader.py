"""The loader on real stores: what a batch holds, and what happens where shards are missing, damaged or failing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.errors import BitreelError, UsageError
from pipeline import shard_reader
from pipeline.ingest_worker import IngestSettings, IngestWorker
from pipeline.loader import ClipLoader
from pipeline.manifest import create_or_check_store, read_manifest

MakeVideo = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path, make_video: MakeVideo) -> Path:
    """13 clips of 4 frames, 64x48, and a last one of 3: two videos, written by a worker without Ray."""
    folder = tmp_path / "store"
    create_or_check_store(folder, {"pixels": "yuv420", "clip_frames": 4})
    worker = IngestWorker(IngestSettings(str(folder), 4, None, "yuv420", 1, None, 0.0, 0.0))
    for name, frames, seeds in (("a.mkv", 52, [1] * 52), ("b.mkv", 3, [2] * 3)):
        path = make_video(name, codec="ffv1", frames=frames, seeds=seeds)
        found = worker.identify(str(path))
        assert worker.ingest(str(path), found.checksum, found.stamp).error == ""
    return folder


def loader(store: Path, **changes: object) -> ClipLoader:
    settings = {"split": "train", "clip_frames": 3, "crop": 32, "batch_size": 2, "seed": 5} | changes
    return ClipLoader(store, **settings)  # type: ignore[arg-type]


def stored_clips(store: Path) -> dict[str, np.ndarray]:
    clips = {}
    for row in read_manifest(store).to_pylist():
        with (store / "shards" / row["shard"]).open("rb") as handle:
            handle.seek(row["offset"])
            clips[row["key"]] = np.load(handle)
    return clips


def test_a_batch_depends_on_its_step_alone(store: Path) -> None:
    walked, jumped = loader(store), loader(store)
    for step in range(20):
        walked.announce(step + 3)
        last = walked.batch(step)
    again = jumped.batch(19)
    assert again.keys == last.keys
    assert torch.equal(again.luma, last.luma)
    assert torch.equal(again.chroma, last.chroma)
    assert last.luma.shape == (2, 3, 1, 32, 32)
    assert last.chroma.shape == (2, 3, 2, 16, 16)
    assert last.luma.dtype == last.chroma.dtype == torch.uint8
    assert not torch.equal(loader(store, seed=6).batch(19).luma, last.luma)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_share_the_batch_that_one_alone_would_have(store: Path, world: int) -> None:
    whole = loader(store, batch_size=5)
    ranks = [loader(store, batch_size=5, rank=rank, world=world) for rank in range(world)]
    for step in range(6):  # over the end of the epoch
        expected, shares = whole.batch(step), [rank.batch(step) for rank in ranks]
        assert [key for share in shares for key in share.keys] == expected.keys
        assert torch.equal(torch.cat([share.luma for share in shares]), expected.luma)
        assert torch.equal(torch.cat([share.chroma for share in shares]), expected.chroma)
        sizes = [len(share.keys) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_pixels_are_those_of_the_store(store: Path) -> None:
    stored, directions, flips = stored_clips(store), set(), set()
    for step in range(2):
        batch = loader(store, crop=64, clip_frames=4, batch_size=14).batch(step)
        for key, luma, chroma in zip(batch.keys, batch.luma.numpy(), batch.chroma.numpy(), strict=True):
            clip = stored[key]
            order = [0, 1, 2, 3] if len(clip) == 4 else [0, 1, 2, 1]  # too short: back and forth
            planes = [clip[:, :48], *clip[:, 48:].reshape(len(clip), 2, 24, 32).transpose(1, 0, 2, 3)]
            # 48 lines are mirrored downwards to make 64.
            tall = [np.concatenate([plane, plane[:, ::-1][:, : plane.shape[1] // 3]], axis=1) for plane in planes]
            got = luma[:, 0], chroma[:, 0], chroma[:, 1]
            found = [
                (way, side)
                for way in (1, -1)
                for side in (1, -1)
                if all(np.array_equal(g, t[order[::way], :, ::side]) for g, t in zip(got, tall, strict=True))
            ]
            assert found, f"{key} is not what the store holds"
            directions.add(found[0][0])
            flips.add(found[0][1])
    assert directions == flips == {1, -1}


def test_a_window_has_the_same_place_in_all_planes_and_frames(tmp_path: Path) -> None:
    """Each sample tells its own place, so a crop that is off by one in any plane or frame is seen."""
    from tests.trainers.small_store import write_clips

    frames, height, width = 6, 40, 56
    rows, columns = np.mgrid[:height, :width]
    luma = np.stack([(rows * 3 + columns * 5 + t * 40) % 256 for t in range(frames)]).astype(np.uint8)
    u, v = luma[:, ::2, ::2], 255 - luma[:, ::2, ::2]
    clip = np.concatenate([plane.reshape(frames, -1) for plane in (luma, u, v)], axis=1)
    store = write_clips(tmp_path / "store", {"places": [clip.reshape(frames, height * 3 // 2, width)] * 3})
    wide, places = loader(store, crop=16, clip_frames=2, batch_size=3), set()
    for step in range(12):
        batch = wide.batch(step)
        assert torch.equal(batch.chroma[:, :, 0] + batch.chroma[:, :, 1], torch.full_like(batch.chroma[:, :, 0], 255))
        for got, small in zip(batch.luma[:, :, 0].numpy(), batch.chroma[:, :, 0].numpy(), strict=True):
            flat = got[:, :, ::-1] if (int(got[0, 0, 1]) - int(got[0, 0, 0])) % 256 != 5 else got
            matches = [
                (t, x, y)
                for t in range(frames - 1)
                for y in range(0, height - 15, 2)
                for x in range(0, width - 15, 2)
                if luma[t, y, x] == flat[0, 0, 0] and luma[t, y + 15, x + 15] == flat[0, 15, 15]
            ]
            assert matches
            assert np.array_equal(small, got[:, ::2, ::2] if flat is got else flat[:, ::2, ::2][:, :, ::-1])
            places.add(matches[0])
    assert len(places) > 15


def test_time_keeps_its_direction_where_asked(store: Path) -> None:
    stored = stored_clips(store)
    batch = loader(store, crop=64, clip_frames=3, batch_size=13, reversal=False).batch(0)
    for key, luma in zip(batch.keys, batch.luma.numpy()[:, :, 0, :48], strict=True):
        first = [int(np.abs(luma[0].astype(int) - frame[:48]).sum()) for frame in stored[key]]
        mirrored = [int(np.abs(luma[0, :, ::-1].astype(int) - frame[:48]).sum()) for frame in stored[key]]
        assert 0 in first[:2] or 0 in mirrored[:2]  # a clip of 4 frames begins with its first or second


def test_what_can_not_be_loaded_is_refused(store: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"split": "val"}, "no clips in split 'val'"),
        ({"split": "all"}, "unknown split"),
        ({"crop": 33}, "must be even"),
        ({"rank": 2, "world": 2}, "not in a world"),
        ({"rank": 2, "world": 3}, "too small for 3 workers"),
    ):
        with pytest.raises(UsageError, match=words):
            loader(store, **changes)
    create_or_check_store(tmp_path / "rgb", {"pixels": "rgb"})
    with pytest.raises(UsageError, match="holds RGB"):
        loader(tmp_path / "rgb")
    with pytest.raises(UsageError, match="not a clip store"):
        loader(tmp_path)


def test_missing_and_short_shards_are_named(store: Path) -> None:
    """At the start where they are so already, later where they become so while a training runs."""
    running = loader(store, batch_size=14)
    shard = max((store / "shards").iterdir(), key=lambda path: path.stat().st_size)
    whole = shard.read_bytes()
    os.truncate(shard, 10000)
    with pytest.raises(BitreelError, match=f"{shard.name}' is shorter than the manifest says; run `bitreel store"):
        loader(store)
    with pytest.raises(BitreelError, match=f"{shard.name}' is shorter"):
        running.batch(0)
    shard.write_bytes(whole)
    assert len(running.batch(0).keys) == 14
    shard.unlink()
    with pytest.raises(BitreelError, match=f"{shard.name}' is missing"):
        loader(store)
    with pytest.raises(BitreelError, match=f"{shard.name}' is missing"):
        loader_of(running).batch(0)


def loader_of(other: ClipLoader) -> ClipLoader:
    """One with the same clips that has opened no shard yet and checks nothing."""
    fresh = other.reshaped(other.clip_frames, other.crop)
    fresh.reader = shard_reader.ShardReader(other.reader._folder)
    return fresh


def test_errors_that_pass_are_waited_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = loader(store).batch(0)
    read, waits, failures = os.preadv, [], [errno.EIO, errno.ESTALE]

    def flaky(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if failures:
            number = failures.pop()
            raise OSError(number, os.strerror(number))
        return read(descriptor, [buffers[0][:1000]], offset)  # and no more than 1000 bytes at once

    monkeypatch.setattr(os, "preadv", flaky)
    monkeypatch.setattr(shard_reader.time, "sleep", waits.append)
    patient = loader(store)
    batch = patient.batch(0)
    assert torch.equal(batch.luma, expected.luma) and torch.equal(batch.chroma, expected.chroma)
    assert waits == list(shard_reader.RETRY_DELAYS[:2])
    assert patient.reader.retries == 2

    failures += [errno.EIO] * 100
    with pytest.raises(BitreelError, match="can't be read \\(Input/output error\\)"):
        loader(store).batch(0)
    assert len(failures) == 99 - len(shard_reader.RETRY_DELAYS)
    failures[:] = [errno.EACCES]
    with pytest.raises(BitreelError, match="can't be read \\(Permission denied\\)"):
        loader(store).batch(0)
    assert waits[2:] == list(shard_reader.RETRY_DELAYS)  # no wait for what will not pass


def test_it_loads_without_ray_and_without_decoders(store: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, pathlib; from pipeline.loader import ClipLoader;"
        "ClipLoader(pathlib.Path(sys.argv[1]), split='train', clip_frames=2, crop=16, batch_size=1, seed=0).batch(0);"
        "print([m for m in ('ray', 'av', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
