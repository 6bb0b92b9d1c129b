"""Samples without loss: what goes in comes out, whatever it is; and it takes few bits where much is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError, StreamError
from codec.sample_coding import SampleModel, decode_samples, encode_samples
from codec.sample_model import exact_tables

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


def noise(height: int, width: int, seed: int = 0) -> Planes:
    rng = np.random.default_rng(seed)
    half = (height + 1) // 2, (width + 1) // 2
    y, u, v = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((height, width), half, half))
    return y, u, v


def flat(height: int, width: int, value: int) -> Planes:
    y, u, v = (np.full_like(plane, value) for plane in noise(height, width))
    return y, u, v


def picture(height: int, width: int, shift: float = 0, strength: int = 2) -> Planes:
    """Waves and some noise."""
    grain = noise(height, width, int(shift * 10))
    planes = []
    for number, plane in enumerate(grain):
        rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]] * (2 if number else 1)
        waves = 128 + 50 * np.sin((columns + shift) / 7) + 40 * np.cos((rows + columns / 3) / (11 + number))
        planes.append(np.clip(waves + plane % (strength + 1), 0, 255).astype(np.uint8))
    return planes[0], planes[1], planes[2]


def encode(planes: Planes, guesses: list[Planes], model: SampleModel) -> bytes:
    coder = SymbolEncoder()
    encode_samples(coder, planes, guesses, model)
    return coder.finish()


def decode(payload: bytes, like: Planes, guesses: list[Planes], model: SampleModel) -> Planes:
    coder = SymbolDecoder(payload)
    planes = decode_samples(coder, [plane.shape for plane in like], guesses, model)
    coder.finish()
    return planes


def same(one: Planes, other: Planes) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("height,width", [(16, 16), (8, 48), (48, 17), (1, 1), (3, 2), (35, 61)])
def test_any_size_comes_back_over_several_frames(height: int, width: int) -> None:
    sent, got = SampleModel(), SampleModel()
    before: Planes | None = None
    for number in range(4):
        planes = picture(height, width, number / 2)
        guesses = [] if before is None else [before, noise(height, width), picture(height, width)][: number + 1]
        assert same(decode(encode(planes, guesses, sent), planes, guesses, got), planes)
        before = planes


@pytest.mark.parametrize("inter", [False, True])
def test_noise_costs_hardly_more_than_its_samples(inter: bool) -> None:
    planes, guesses = noise(64, 96), [noise(64, 96, 1)] if inter else []
    payload = encode(planes, guesses, SampleModel())
    assert same(decode(payload, planes, guesses, SampleModel()), planes)
    assert len(payload) < 1.06 * sum(plane.size for plane in planes)


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_constant_planes_cost_almost_nothing(value: int) -> None:
    planes = flat(64, 96, value)
    payload = encode(planes, [], SampleModel())
    assert same(decode(payload, planes, [], SampleModel()), planes)
    assert len(payload) < 150


def test_planes_that_may_not_be_written_to_are_coded() -> None:
    planes = noise(16, 16)
    for plane in planes:
        plane.setflags(write=False)
    assert same(decode(encode(planes, [], SampleModel()), planes, [], SampleModel()), planes)


def test_extremes_side_by_side() -> None:
    planes = flat(32, 48, 0)
    for plane in planes:
        plane[::2, 1::3] = 255
        plane[5:9, 5:9] = 255
    for guesses in ([], [flat(32, 48, 255)]):
        assert same(decode(encode(planes, guesses, SampleModel()), planes, guesses, SampleModel()), planes)


def test_what_is_repeated_exactly_costs_almost_nothing() -> None:
    still = picture(96, 128, strength=9)
    moved = tuple(plane.copy() for plane in still)
    moved[0][40:56, 40:56] ^= 21
    model = SampleModel()
    first = encode(still, [], model)
    assert len(encode((moved[0], moved[1], moved[2]), [still], model)) < 0.05 * len(first)


def test_good_guesses_and_what_was_learned_are_worth_bits() -> None:
    frames = [picture(96, 128, number / 2, strength=3) for number in range(3)]
    alone = len(encode(frames[2], [], SampleModel()))
    fresh = len(encode(frames[2], [frames[1]], SampleModel()))
    model = SampleModel()
    encode(frames[1], [frames[0]], model)
    assert alone < 0.5 * sum(plane.size for plane in frames[2])
    assert len(encode(frames[2], [frames[1]], model)) < fresh


def test_a_copy_learns_for_itself_and_intra_frames_begin_anew() -> None:
    frames = [picture(32, 48, number) for number in range(4)]
    model = SampleModel()
    encode(frames[0], [], model)
    encode(frames[1], [frames[0]], model)
    tried = model.copy()
    once = encode(frames[2], [frames[1]], tried)
    encode(frames[3], [frames[2]], tried)
    assert encode(frames[2], [frames[1]], model) == once
    assert encode(frames[3], [], model) == encode(frames[3], [], SampleModel())


@pytest.mark.parametrize("inter", [False, True])
def test_damage_is_noticed_or_decodes_to_other_samples(inter: bool) -> None:
    planes, guesses = picture(32, 48, 1), [picture(32, 48)] if inter else []
    payload = encode(planes, guesses, SampleModel())
    rng = np.random.default_rng(0)
    for number in range(30):
        damaged = bytearray(payload)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        broken = [bytes(damaged), payload[: int(rng.integers(len(payload)))], rng.bytes(int(rng.integers(400)))][
            number % 3
        ]
        try:
            found = decode(broken, planes, guesses, SampleModel())
        except StreamError:
            continue
        assert not same(found, planes)


def test_sizes_that_do_not_belong_together_are_refused() -> None:
    y, u, v = picture(32, 48)
    with pytest.raises(BitreelError, match="chroma"):
        encode((y, u, v[1:]), [], SampleModel())
    with pytest.raises(BitreelError, match="guess"):
        encode((y, u, v), [picture(32, 46)], SampleModel())
    model = SampleModel()
    encode((y, u, v), [picture(32, 48)], model)
    with pytest.raises(BitreelError, match="one before"):
        encode(picture(32, 46), [picture(32, 46)], model)


def test_no_table_entry_is_so_near_to_a_half_that_machines_could_round_it_apart() -> None:
    for exact in exact_tables().values():
        fraction = np.array(exact) % 1
        assert np.abs(fraction - 0.5).min() > 1e-6
