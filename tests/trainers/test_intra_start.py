"""Learning what intra coding starts from: modes that predict, a mixer that has seen something, a file that codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError, UsageError
from codec.inter.quantization import intra_steps
from codec.intra.coding import IntraSettings, Planes, code_planes
from codec.intra.start import CONTEXT_SIZES, START, learned_mixer, mode_matrices
from tests.trainers.small_store import make_store
from trainers.intra_modes import MODES, UNITS, Blocks, angular_modes, collect_blocks, context_places, learn_modes
from trainers.intra_start import StartRecipe, make_start

TINY = StartRecipe(crop=64, crops=2, per_plane=150, rounds=2)


def _blocks(size: int, count: int, draw: np.random.Generator) -> Blocks:
    """Blocks that are the sample above, or the one to the left, and a little noise."""
    places = [tuple(place) for place in context_places(size)]
    contexts = draw.normal(0, 30, (count, len(places))).astype(np.float32)
    above = contexts[:, [places.index((-1, x)) for x in range(size)]]
    left = contexts[:, [places.index((y, -1)) for y in range(size)]]
    samples = np.where(
        (np.arange(count) % 2)[:, None, None], above[:, None].repeat(size, 1), left[..., None].repeat(size, 2)
    )
    noise = draw.normal(0, 1, (count, size * size))
    return Blocks(size, contexts, (samples.reshape(count, -1) + noise).astype(np.float32))


@pytest.mark.parametrize("size", [8, 4])
def test_context_places_are_those_that_the_codec_reads(size: int) -> None:
    places = {tuple(place) for place in context_places(size)}
    assert len(places) == CONTEXT_SIZES[size]
    assert {(-1, x) for x in range(-1, 2 * size)} <= places
    assert {(y, x) for y in range(size) for x in (-1, -2)} <= places
    assert all(y < 0 or (x < 0 and y < size) for y, x in places)


@pytest.mark.parametrize("size", [8, 4])
def test_angular_modes_are_averages_of_what_is_around(size: int) -> None:
    modes = angular_modes(size)
    assert modes.shape == (MODES, size * size, CONTEXT_SIZES[size])
    assert modes.min() >= 0
    assert np.allclose(modes.sum(2), 1)
    assert len(np.unique(modes.reshape(MODES, -1), axis=0)) == MODES


def test_modes_learn_what_the_blocks_do() -> None:
    draw, said = np.random.default_rng(0), []
    blocks = _blocks(4, 3000, draw)
    modes = learn_modes(blocks, 4, draw, said.append) / UNITS
    assert len(said) == 4
    errors = [np.square(blocks.samples - blocks.contexts @ mode.T).mean(1) for mode in modes]
    assert np.min(errors, axis=0).mean() < 8
    assert np.square(blocks.samples).mean() > 500


def test_noise_is_of_what_is_around_not_of_the_block() -> None:
    draw = np.random.default_rng(1)
    plane = draw.integers(40, 200, (64, 64)).astype(np.int32)
    blocks = collect_blocks([(plane, plane[::2, ::2], plane[::2, ::2])] * 2, 8, 1000, draw)
    whole = blocks.samples + np.rint(128 - blocks.samples.mean(1, keepdims=True))
    assert np.array_equal(whole, np.rint(whole))
    assert len(blocks.samples) == 2000


def test_a_start_is_made_and_codes(tmp_path: Path) -> None:
    store, file, said = make_store(tmp_path / "store"), tmp_path / "start.npz", []
    make_start(store, file, TINY, said.append)
    assert any("mixer: picture 24 of 24" in line for line in said)
    modes, mixer = mode_matrices(file), learned_mixer(file)
    assert [matrix.shape for matrix in modes] == [(32, 64, 46), (32, 16, 21)]
    assert 0 < mixer.seen.max() <= 40 and mixer.steps.max() <= 200
    assert (mixer.chances != 1 << 15).sum() > 100

    draw = np.random.default_rng(4)
    planes: Planes = tuple(
        draw.integers(0, 256, shape).astype(np.int32).repeat(4, 0).repeat(4, 1) for shape in ((8, 8), (4, 4), (4, 4))
    )
    seen, coded = (tuple(np.zeros_like(plane) for plane in planes) for _ in range(2))
    room, none = np.empty(1 << 16, np.uint32), np.zeros(0, np.uint32)
    given = (False, room, np.zeros(0, np.uint16), np.zeros(2, np.uint64))
    settings = IntraSettings(40, intra_steps())
    used = code_planes(planes, seen, given, settings, mixer.copy(), modes)
    encoder = SymbolEncoder()
    encoder.encode_intervals(room[:used])
    decoder = SymbolDecoder(encoder.finish())
    decoder.run(
        lambda words, state: code_planes(coded, coded, (True, none, words, state), settings, mixer.copy(), modes)
    )
    decoder.finish()
    assert all(np.array_equal(a, b) for a, b in zip(seen, coded, strict=True))

    make_start(store, tmp_path / "again.npz", TINY, said.append)
    again, other = mode_matrices(tmp_path / "again.npz"), learned_mixer(tmp_path / "again.npz")
    assert all(np.array_equal(a, b) for a, b in zip(modes, again, strict=True))
    assert np.array_equal(mixer.weights, other.weights) and np.array_equal(mixer.chances, other.chances)


def test_stores_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no clips"):
        make_start(make_store(tmp_path / "empty", clips=0), tmp_path / "start.npz", TINY)
    with pytest.raises(UsageError, match="ingest more videos"):
        make_start(make_store(tmp_path / "one", clips=1), tmp_path / "start.npz", TINY)
    with pytest.raises(UsageError, match="multiple of 16"):
        make_start(tmp_path / "one", tmp_path / "start.npz", StartRecipe(crop=40))
    assert not (tmp_path / "start.npz").exists()


def test_another_file_is_not_taken_for_a_start(tmp_path: Path) -> None:
    garbage, cut, partial = (tmp_path / f"{name}.npz" for name in ("garbage", "cut", "partial"))
    garbage.write_bytes(b"nothing of the sort")
    cut.write_bytes(START.read_bytes()[:1000])
    for file in (garbage, cut, tmp_path / "missing.npz"):
        with pytest.raises(BitreelError, match="can't read"):
            mode_matrices(file)
    np.savez(partial, wide=np.zeros((32, 64, 46), np.int16))
    for read in (mode_matrices, learned_mixer):
        with pytest.raises(BitreelError, match="another version"):
            read(partial)
