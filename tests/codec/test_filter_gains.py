"""Gains of the post filter's parts: coded both ways, measured, chosen, and what they are good for in a stream."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from codec.api import load_codec
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError
from codec.frames import VideoFormat, frames_digest
from codec.innvc import filter_gains
from codec.innvc.filter_gains import (
    CHANNELS,
    LARGEST,
    PARTS,
    GainChances,
    gains_of,
    receive_gains,
    segment_gains,
    send_gains,
    trained,
)
from codec.innvc.segment_filter import choose_values, weigh
from codec.innvc.starts import POST_FILTER
from codec.inter.filter_sums import Sums
from codec.inter.post_filter import (
    BLOCK,
    GAIN,
    PRICE,
    SHARES,
    Gains,
    PartSums,
    Picture,
    Planes,
    filter_weights,
    shipped_filter,
    weight_name,
)
from codec.inter.quantization import step_size
from codec.streams import CodedFrame, EncodeOptions
from tests.codec.test_innvc import make_frames
from tests.codec.test_post_filter import make_picture

GRID = 3, 5


def drawn_values(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.integers(-LARGEST, LARGEST + 1, (CHANNELS, *GRID)) * (draw.random((CHANNELS, *GRID)) < 0.4)


def test_a_decoder_finds_the_gains_of_each_segment() -> None:
    sent = [drawn_values(0), None, drawn_values(1), np.zeros((CHANNELS, *GRID), np.int64), drawn_values(2)]
    coder, told = SymbolEncoder(), GainChances(GRID)
    expected: list[Gains | None] = []
    for values in sent:
        send_gains(coder, values, told)
        expected.append(segment_gains(told))
    found, learned = SymbolDecoder(coder.finish()), GainChances(GRID)
    for gains in expected:
        received = receive_gains(found, learned)
        assert (received is None) == (gains is None)
        if received is not None and gains is not None:
            assert all((a == b).all() for a, b in zip(received, gains, strict=True))
    found.finish()
    assert (told.chances == learned.chances).all() and (told.before == learned.before).all()
    assert expected[1] is not None and (expected[1][0] == gains_of(sent[0], trained()["basis"])[0]).all()
    assert expected[3] is None


def test_what_was_sent_before_makes_the_same_cheap() -> None:
    chances, values = GainChances(GRID), drawn_values(3)
    bits = []
    for _ in range(6):
        coder = SymbolEncoder()
        send_gains(coder, values, chances)
        bits.append(coder.estimated_bits)
    assert bits[-1] < 0.8 * bits[0]


def test_gains_stay_within_what_the_filter_can_take() -> None:
    most = np.full((CHANNELS, 1, 1), LARGEST)
    for basis in (np.full((CHANNELS, 2, PARTS), 500), np.full((CHANNELS, 2, PARTS), -500)):
        for gains in gains_of(most, basis):
            assert gains.dtype == np.int32 and abs(gains).max() == 4 * GAIN


def squared_error(planes: Planes, source: Planes) -> list[np.ndarray]:
    """Of each block of Y, U and V."""
    found = []
    for number in range(3):
        size = BLOCK >> min(number, 1)
        a, b = (part[1][number - 1] if number else part[0] for part in (planes, source))
        square = (a.astype(float) - b) ** 2
        rows, columns = -(-square.shape[0] // size), -(-square.shape[1] // size)
        wide = np.zeros((rows * size, columns * size))
        wide[: square.shape[0], : square.shape[1]] = square
        found.append(wide.reshape(rows, size, columns, size).sum((1, 3)))
    return found


def on_everywhere(picture: Picture) -> np.ndarray:
    return np.ones((3, *picture.grid), np.uint8)


@pytest.mark.parametrize("qp", [10, 30])
def test_measured_parts_foretell_the_error(qp: int) -> None:
    picture, source = make_picture(qp, intra=False)
    post_filter, draw = shipped_filter(POST_FILTER), np.random.default_rng(qp)
    sums = post_filter.measure(picture, source)
    luma, chroma = (draw.integers(0, 129, (*picture.grid, PARTS)).astype(np.int32) for _ in range(2))
    before = squared_error(picture.planes, source)
    after = squared_error(post_filter.apply(picture, on_everywhere(picture), (luma, chroma)), source)
    for number in range(3):
        given = (chroma if number else luma) / GAIN
        squared = np.einsum("yxp,yxpq,yxq->yx", given, sums[number].squares, given)
        foretold = before[number] + squared - 2 * (given * sums[number].products).sum(-1)
        # The filter rounds each sample, up to a half.
        assert np.allclose(after[number], foretold, rtol=0.02, atol=0.35 * (BLOCK >> min(number, 1)) ** 2)


def test_sums_for_fitting_count_on_the_gains() -> None:
    picture, source = make_picture(30, intra=False)
    draw = np.random.default_rng(1)
    gains = tuple(draw.integers(0, 129, (*picture.grid, PARTS)).astype(np.int32) for _ in range(2))
    sums = Sums()
    sums.add(picture, source, (gains[0], gains[1]))
    before = squared_error(picture.planes, source)
    made = shipped_filter(POST_FILTER).apply(picture, on_everywhere(picture), (gains[0], gains[1]))
    after = squared_error(made, source)
    for kind, numbers in ((0, [0]), (1, [1, 2])):
        name = weight_name(kind, False)
        given = filter_weights(POST_FILTER)[name] / 1024
        squared = np.einsum("bct,bcts,bcs->", given, sums.squares[name], given)
        foretold = sum(before[number].sum() for number in numbers) + squared - 2 * (given * sums.products[name]).sum()
        samples = sum(before[number].size for number in numbers) * (BLOCK >> kind) ** 2
        assert sum(after[number].sum() for number in numbers) == pytest.approx(foretold, rel=0.02, abs=0.35 * samples)


def sums_that_want(values: np.ndarray, scale: float = 1.0) -> list[PartSums]:
    """Parts of that scale that would leave nothing of the error with the gains of these values."""
    draw = np.random.default_rng(0)
    both = gains_of(values, trained()["basis"])
    made = []
    for number in range(3):
        parts = scale * draw.normal(0, 6, (*GRID, 200, PARTS))
        missing = np.einsum("yxnp,yxp->yxn", parts, both[min(number, 1)] / GAIN)
        squares = np.einsum("yxnp,yxnq->yxpq", parts, parts)
        made.append(PartSums(squares, np.einsum("yxnp,yxn->yxp", parts, missing)))
    return made


@pytest.mark.parametrize("left", [(3, 0, 0), (0, -2, 0), (0, 0, 2), (-2, 2, -1)])
def test_the_encoder_finds_the_values_that_leave_least(left: tuple[int, int, int]) -> None:
    wanted = np.zeros((CHANNELS, *GRID), np.int64)
    wanted[:, :, : GRID[1] // 2] = np.array(left)[:, None, None]
    values = choose_values([weigh(sums_that_want(wanted), 30)] * 8, GainChances(GRID))
    assert values is not None and (values == wanted).all()


def test_what_is_not_worth_its_bits_is_not_sent() -> None:
    nothing = np.zeros((CHANNELS, *GRID), np.int64)
    assert choose_values([weigh(sums_that_want(nothing), 30)], GainChances(GRID)) is None
    assert choose_values([weigh(sums_that_want(nothing + 2, scale=1e-3), 30)], GainChances(GRID)) is None


def test_a_damaged_file_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    np.savez(tmp_path / "wrong.npz", basis=np.zeros((1, 2, PARTS)), chances=np.zeros(3))
    monkeypatch.setattr(filter_gains, "FILTER_GAINS", tmp_path / "wrong.npz")
    trained.cache_clear()
    try:
        with pytest.raises(BitreelError, match="install bitreel anew"):
            GainChances(GRID)
    finally:
        trained.cache_clear()


def test_gains_of_two_segments_come_back_and_pay() -> None:
    codec = load_codec("innvc-small")
    frames, fmt, qp = make_frames(18, 160, 96), VideoFormat(160, 96), 26

    def cost(field: bool) -> tuple[list[CodedFrame], float]:
        coded = list(codec.encode_frames(frames, fmt, EncodeOptions(qp, field=field)))
        error = sum(
            share * float(((getattr(frame, plane).astype(float) - getattr(one.reconstruction, plane)) ** 2).sum())
            for plane, share in (("y", SHARES[0]), ("u", SHARES[1]), ("v", SHARES[1]))
            for frame, one in zip(frames, coded, strict=True)
        )
        bits = 8 * sum(len(one.payload) for one in coded)
        return coded, bits + PRICE / float(step_size(torch.tensor(qp))) ** 2 * error

    with_field, less = cost(field=True)
    without, more = cost(field=False)
    assert less < more
    assert with_field[0].field_bytes > 1
    assert not any(one.field_bytes for number, one in enumerate(with_field) if number % 16)
    assert not any(one.field_bytes for one in without)
    stream = io.BytesIO()
    codec.encode(iter(frames), fmt, stream, EncodeOptions(qp))
    stream.seek(0)
    shown = [one.reconstruction for one in with_field]
    assert frames_digest(codec.decode(stream)) == frames_digest(shown)
