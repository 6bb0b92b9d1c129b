"""Learning what the coding of motion starts from: a mixer that has seen something, and motion that is cheaper by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.api import create_codec, save_codec
from codec.bit_mixing import Mixer, load_mixer
from codec.errors import BitreelError, UsageError
from codec.motion import Motion
from codec.motion_chances import START, MotionChances, new_mixer, start_mixer
from codec.motion_coding import motion_intervals
from tests.trainers.small_store import make_store
from trainers.motion_start import make_start


def _bits(mixer: Mixer) -> float:
    """Of a few frames that move one pixel to the right, as the clips do."""
    learned, total = MotionChances(mixer.copy()), 0.0
    motion = Motion.still(1, 64, 64)
    motion.blocks[0, 1] = -4
    for _ in range(4):
        found = motion_intervals(motion, (1,), learned)
        total += float((16 - np.log2(found >> 16)).sum())
    return total


def test_a_start_is_made_and_makes_motion_cheaper(tmp_path: Path) -> None:
    model, file, again = tmp_path / "model", tmp_path / "start.npz", tmp_path / "again.npz"
    save_codec(create_codec("innvc", {"width": 16, "trunk_blocks": 1}), model)
    store, said = make_store(tmp_path / "store", frames=8), []
    make_start(model, store, file, clips=4, crop=64, progress=said.append)
    assert said[-1].startswith("clip 4 of 4: ")
    learned = load_mixer(file, new_mixer())
    assert 0 < learned.seen.max() <= 40
    assert 0 < learned.steps.max() <= 200
    assert not np.array_equal(learned.weights, new_mixer().weights)
    assert _bits(learned) < 0.9 * _bits(new_mixer())
    make_start(model, store, again, clips=4, crop=64, progress=said.append)
    other = load_mixer(again, new_mixer())
    assert all(np.array_equal(getattr(learned, name), getattr(other, name)) for name in ("chances", "seen", "weights"))


def test_a_store_without_clips_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_codec(create_codec("innvc", {"width": 16, "trunk_blocks": 1}), model)
    with pytest.raises(UsageError, match="no clips"):
        make_start(model, make_store(tmp_path / "empty", clips=0), tmp_path / "start.npz", clips=1, crop=64)
    assert not (tmp_path / "start.npz").exists()


def test_the_shipped_start_is_one(tmp_path: Path) -> None:
    mixer = start_mixer()
    assert 0 < mixer.seen.max() <= 40 and (mixer.chances != 1 << 15).sum() > 1000
    np.savez(tmp_path / "partial.npz", chances=mixer.chances)
    with pytest.raises(BitreelError, match="another version"):
        load_mixer(tmp_path / "partial.npz", new_mixer())
    assert START.stat().st_size < 1 << 17
