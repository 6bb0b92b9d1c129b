"""Batches by global step over all phases: ahead of the trainer, the same after a stop, and true to the run's clips."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.errors import BitreelError
from pipeline.loader import ClipBatch, ClipLoader
from pipeline.manifest import MANIFEST
from tests.trainers.small_store import write_clips
from trainers import phase_batches
from trainers.phase_batches import PhaseBatches
from trainers.recipe import Phase, Recipe
from trainers.run_clips import CLIPS_FILE, pin_clips, pinned_clips

PHASES = (
    Phase(name="first", steps=5, learning_rate=(1e-3, 1e-3), clip_frames=2, crop=16),
    Phase(name="second", steps=6, learning_rate=(1e-3, 1e-3), clip_frames=3, crop=32),
)
RECIPE = Recipe(name="two-phases", codec="innvc", phases=PHASES, batch_size=4, seed=3)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "store", {"a": noise(1, 9), "b": noise(2, 6)})


def noise(seed: int, clips: int) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, (3, 60, 48), dtype=np.uint8) for _ in range(clips)]


def same(one: ClipBatch, other: ClipBatch) -> bool:
    return one.keys == other.keys and torch.equal(one.luma, other.luma) and torch.equal(one.chroma, other.chroma)


def test_the_next_batch_after_a_stop_is_the_very_next(store: Path) -> None:
    whole = PhaseBatches(store, RECIPE)
    walked = [whole.batch(step) for step in range(11)]
    assert [tuple(batch.luma.shape) for batch in walked] == 5 * [(4, 2, 1, 16, 16)] + 6 * [(4, 3, 1, 32, 32)]
    assert len({key for batch in walked[:3] for key in batch.keys}) == 12  # no clip twice in an epoch of 15 ...
    keys = [key for batch in walked for key in batch.keys]
    assert len(set(keys[:15])) == len(set(keys[15:30])) == 15  # ... and a change of phase does not begin a new one
    for stopped in (1, 4, 5, 10):
        for world in (1, 3):
            ranks = [PhaseBatches(store, RECIPE, rank, world) for rank in range(world)]
            for step in range(stopped, 11):
                shares = [rank.batch(step) for rank in ranks]
                joined = ClipBatch(
                    torch.cat([share.luma for share in shares]),
                    torch.cat([share.chroma for share in shares]),
                    [key for share in shares for key in share.keys],
                )
                assert same(joined, walked[step])


def test_batches_are_ready_when_the_trainer_asks(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, announced = [], []
    cut, announce = ClipLoader.batch, ClipLoader.announce

    def slow(self: ClipLoader, step: int) -> ClipBatch:
        time.sleep(0.05)
        read.append(step)
        return cut(self, step)

    def note(self: ClipLoader, step: int) -> None:
        announced.append(step)
        announce(self, step)

    monkeypatch.setattr(ClipLoader, "batch", slow)
    monkeypatch.setattr(ClipLoader, "announce", note)
    batches = PhaseBatches(store, RECIPE)
    batches.batch(0)
    first = batches.waited_seconds
    assert first >= 0.05
    deadline = time.monotonic() + 30
    while len(read) < 1 + phase_batches.READY_BATCHES and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read == [0, 1, 2, 3]
    assert max(announced) == 10  # all the recipe has: deeper than what is cut
    for step in (1, 2):
        batches.batch(step)
    assert batches.waited_seconds - first < 0.05
    jumped = batches.batch(9)  # anywhere, though not at once
    assert same(jumped, PhaseBatches(store, RECIPE).batch(9))
    assert sorted(announced[:11]) == list(range(11))
    batches.close()


def test_closing_ends_the_thread(store: Path) -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("next-batch")}

    before = threads()  # other tests' may end at any moment
    batches = PhaseBatches(store, RECIPE)
    batches.batch(0)
    (own,) = threads() - before
    batches.close()
    assert not own.is_alive()


def test_a_run_keeps_to_its_clips_while_the_store_grows(store: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "run", []
    pin_clips(run, store, said.append)
    expected = [PhaseBatches(store, RECIPE, clips=pinned_clips(run)).batch(step) for step in range(8)]
    pin_clips(run, store, said.append)
    assert said == []

    write_clips(store, {"0": noise(3, 5)})
    assert not same(PhaseBatches(store, RECIPE).batch(7), expected[7])  # what would have come without the list
    pin_clips(run, store, said.append)
    assert said == [
        "run 'run' keeps to the 15 clips it began with (5 came to the store since); "
        "a new run takes all that the store has"
    ]
    going_on = PhaseBatches(store, RECIPE, clips=pinned_clips(run))
    assert all(same(going_on.batch(step), expected[step]) for step in range(3, 8))


def test_a_run_goes_on_without_clips_that_left_the_manifest_and_not_with_others(store: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "run", []
    pin_clips(run, store)
    expected = PhaseBatches(store, RECIPE, clips=pinned_clips(run)).batch(6)
    fragment = store / MANIFEST / "b.parquet"
    kept = fragment.read_bytes()
    fragment.unlink()  # its shard is still there
    pin_clips(run, store, said.append)
    assert said[0].startswith("run 'run' keeps to the 15 clips it began with (6 are no longer there for training)")
    assert same(PhaseBatches(store, RECIPE, clips=pinned_clips(run)).batch(6), expected)

    write_clips(store, {"b": noise(4, 6)})  # the same names, other pictures
    with pytest.raises(BitreelError, match=r"made anew since run 'run' began: 6 of its 15 clips"):
        pin_clips(run, store)
    fragment.write_bytes(kept)
    pin_clips(run, store)
    os.truncate(run / CLIPS_FILE, 100)
    with pytest.raises(BitreelError, match=r"clips\.parquet' is missing or damaged"):
        pin_clips(run, store)
