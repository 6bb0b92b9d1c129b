"""The loader: a pure function of the step, nothing twice in an epoch, ranks apart, and the very pixels of the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.errors import BitreelError, UsageError
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


def test_a_batch_depends_on_its_step_alone(store: Path) -> None:
    walked, jumped = loader(store), loader(store)
    for step in range(20):
        last = walked.batch(step)
    again = jumped.batch(19)
    assert again.keys == last.keys
    assert torch.equal(again.luma, last.luma)
    assert torch.equal(again.chroma, last.chroma)
    assert last.luma.shape == (2, 3, 1, 32, 32)
    assert last.chroma.shape == (2, 3, 2, 16, 16)
    assert last.luma.dtype == last.chroma.dtype == torch.uint8
    assert not torch.equal(loader(store, seed=6).batch(19).luma, last.luma)


def test_no_clip_twice_in_an_epoch_over_all_ranks(store: Path) -> None:
    ranks = [loader(store, rank=rank, world=2) for rank in range(2)]
    clips = len(ranks[0])
    assert clips == 14
    keys = [key for step in range(7) for rank in ranks for key in rank.batch(step).keys]  # 28 places: two epochs
    assert set(Counter(keys[:clips]).values()) == {1}
    assert set(Counter(keys[clips:]).values()) == {1}
    assert keys[:clips] != keys[clips:]
    alone = loader(store, batch_size=4)
    assert [key for step in range(7) for key in alone.batch(step).keys] == keys  # the order is the same for any world


def test_pixels_are_those_of_the_store(store: Path) -> None:
    rows = {row["key"]: row for row in read_manifest(store).to_pylist()}
    batch = loader(store, crop=64, clip_frames=4, batch_size=14).batch(0)
    for key, luma, chroma in zip(batch.keys, batch.luma.numpy(), batch.chroma.numpy(), strict=True):
        row = rows[key]
        with (store / "shards" / row["shard"]).open("rb") as handle:
            handle.seek(row["offset"])
            clip = np.load(handle)
        order = [0, 1, 2, 3] if row["frames"] == 4 else [0, 1, 2, 1]  # too short: back and forth
        for t, index in enumerate(order):
            for got, plane in (
                (luma[t, 0], clip[index, :48]),
                (chroma[t, 0], clip[index, 48:].reshape(2, 24, 32)[0]),
                (chroma[t, 1], clip[index, 48:].reshape(2, 24, 32)[1]),
            ):
                # 48 lines are mirrored downwards to make 64.
                expected = np.concatenate([plane, plane[::-1][: got.shape[0] - plane.shape[0]]])
                assert np.array_equal(got, expected) or np.array_equal(got, expected[:, ::-1])


def test_crops_and_flips_vary(store: Path) -> None:
    batches = [loader(store, crop=16, batch_size=14).batch(step).luma for step in range(4)]
    assert len({batch.numpy().tobytes() for batch in batches}) == 4


def test_what_can_not_be_loaded_is_refused(store: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"split": "val"}, "no clips in split 'val'"),
        ({"split": "all"}, "unknown split"),
        ({"crop": 33}, "must be even"),
        ({"rank": 2, "world": 2}, "not in a world"),
    ):
        with pytest.raises(UsageError, match=words):
            loader(store, **changes)
    create_or_check_store(tmp_path / "rgb", {"pixels": "rgb"})
    with pytest.raises(UsageError, match="holds RGB"):
        loader(tmp_path / "rgb")
    with pytest.raises(UsageError, match="not a clip store"):
        loader(tmp_path)
    shard = next((store / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:10000])
    with pytest.raises(BitreelError, match="shorter than the manifest says"):
        loader(store)


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
