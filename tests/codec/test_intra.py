"""Intra coding: what the decoder has is what the encoder saw, at every QP, and damage does no harm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import StreamError
from codec.inter.quantization import intra_steps
from codec.intra.coding import IntraSettings, Planes, decode_intra, encode_intra, scans
from codec.intra.coefficient_kernels import STAGES
from codec.intra.prediction_kernels import fill_context, predict_from_luma, predict_mode
from codec.intra.start import CONTEXT_SIZES, learned_mixer, mode_matrices
from codec.intra.transform_kernels import forward_block, inverse_block, transform_tables
from codec.lifting import forward_transform, inverse_transform

SIZES = [(16, 16), (48, 32), (32, 48)]  # height, width


def _picture(kind: str, height: int, width: int, seed: int = 3) -> Planes:
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    if kind == "noise":
        luma = draw.integers(0, 256, (height, width))
    elif kind == "flat":
        luma = np.full((height, width), 77)
    elif kind == "gradient":
        luma = 3 * rows + 2 * columns
    else:  # edges and texture
        luma = 128 + 50 * np.sin(rows / 5 + columns / 9) + 40 * ((rows + 2 * columns) // 24 % 2)
        luma = luma + draw.normal(0, 2, (height, width))
    y = np.clip(np.round(luma), 0, 255).astype(np.int32)
    half = y[::2, ::2]
    return y, np.ascontiguousarray(half // 2 + 60), np.ascontiguousarray(255 - half)


def _settings(qp: int, activity: int = 0) -> IntraSettings:
    return IntraSettings(qp, intra_steps(), activity)


def _encode(planes: Planes, qp: int, activity: int = 0) -> tuple[bytes, Planes, float]:
    coder = SymbolEncoder()
    intervals, coded = encode_intra(planes, _settings(qp, activity))
    coder.encode_intervals(intervals)
    return coder.finish(), coded, coder.estimated_bits


def _decode(payload: bytes, like: Planes, qp: int, activity: int = 0) -> Planes:
    coder = SymbolDecoder(payload)
    height, width = like[0].shape
    found = decode_intra(coder, height, width, _settings(qp, activity))
    coder.finish()
    return found


def _same(a: Planes, b: Planes) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _error(a: Planes, b: Planes) -> float:
    return float(np.mean([np.square(x - y).mean() for x, y in zip(a, b, strict=True)]))


@pytest.mark.parametrize("qp", [0, 20, 45, 62])
@pytest.mark.parametrize("kind", ["noise", "flat", "gradient", "scene"])
@pytest.mark.parametrize("size", SIZES)
def test_the_decoder_has_what_the_encoder_saw(size: tuple[int, int], kind: str, qp: int) -> None:
    planes = _picture(kind, *size)
    payload, coded, _ = _encode(planes, qp)
    assert _same(_decode(payload, planes, qp), coded)
    for plane in coded:
        assert plane.min() >= 0 and plane.max() <= 255
    assert _error(coded, planes) < max(int(intra_steps()[qp, 0]) / 16, 1.5) ** 2


@pytest.mark.parametrize("activity", [4, 16])
def test_steps_that_follow_the_contrast_are_followed_back(activity: int) -> None:
    planes = _picture("scene", 48, 64)
    plain = _encode(planes, 30)
    payload, coded, _ = _encode(planes, 30, activity)
    assert payload != plain[0]
    assert _same(_decode(payload, planes, 30, activity), coded)


def test_extremes_at_the_finest_step() -> None:
    """Black and white samples side by side: the largest residuals there are."""
    draw = np.random.default_rng(5)
    y, u, v = ((255 * draw.integers(0, 2, shape)).astype(np.int32) for shape in ((32, 32), (16, 16), (16, 16)))
    payload, coded, _ = _encode((y, u, v), 62)
    assert _error(coded, (y, u, v)) < 0.5
    assert _same(_decode(payload, (y, u, v), 62), coded)


def test_what_is_regular_costs_little() -> None:
    flat, noise = (len(_encode(_picture(kind, 48, 32), 45)[0]) for kind in ("flat", "noise"))
    assert flat < 40
    assert noise > 20 * flat


def test_quality_and_rate_rise_with_qp() -> None:
    planes = _picture("scene", 64, 64)
    found = [_encode(planes, qp) for qp in (8, 20, 32, 44, 56, 62)]
    sizes, errors = [len(payload) for payload, _, _ in found], [_error(coded, planes) for _, coded, _ in found]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5


@pytest.mark.parametrize("qp", [30, 60])
def test_the_estimate_is_what_is_paid(qp: int) -> None:
    payload, _, bits = _encode(_picture("scene", 128, 128), qp)
    assert abs(8 * len(payload) / bits - 1) < 0.01


def test_coding_leaves_the_start_as_it_is() -> None:
    planes = _picture("scene", 32, 48)
    before = learned_mixer()
    first = _encode(planes, 30)
    assert np.array_equal(learned_mixer().chances, before.chances)
    assert np.array_equal(learned_mixer().weights, before.weights)
    again = _encode(planes, 30)
    assert again[0] == first[0]


@pytest.mark.parametrize("qp", [25, 60])
def test_any_bytes_give_a_picture_or_are_refused(qp: int) -> None:
    planes = _picture("scene", 32, 48)
    payload, coded, _ = _encode(planes, qp)
    draw = np.random.default_rng(9)
    payloads = [b"", b"\xff" * 300, bytes(200), payload[:-1], payload[: len(payload) // 2], payload + b"\1"]
    payloads += [draw.bytes(int(draw.integers(1, 600))) for _ in range(30)]
    for _ in range(30):
        changed = bytearray(payload)
        changed[int(draw.integers(0, len(payload)))] ^= int(draw.integers(1, 256))
        payloads.append(bytes(changed))
    refused = 0
    for tried in payloads:
        coder = SymbolDecoder(tried)
        found = decode_intra(coder, 32, 48, _settings(qp))
        assert [plane.shape for plane in found] == [plane.shape for plane in planes]
        assert all(plane.min() >= 0 and plane.max() <= 255 for plane in found)
        try:
            coder.finish()
        except StreamError:
            refused += 1
        else:
            # What ends where its symbols do is another picture's stream, never this one's.
            assert not _same(found, coded)
    assert refused > 50


@pytest.mark.parametrize("fraction", [0, 4])
@pytest.mark.parametrize("size", [8, 4])
def test_transform_kernels_do_what_the_tensors_do(size: int, fraction: int) -> None:
    draw = torch.Generator().manual_seed(size)
    luma = torch.randint(-255, 256, (32, 32), generator=draw, dtype=torch.int32)
    chroma = torch.randint(-255, 256, (2, 16, 16), generator=draw, dtype=torch.int32)
    expected = forward_transform(luma, chroma, fraction)
    back = inverse_transform(expected, 0)  # without rounding to whole samples
    tables = transform_tables()
    block = np.zeros(64, np.int64)
    for plane, first, source, rebuilt in (
        [(luma, 0, luma, back[0])] if size == 8 else [(chroma[p], 64 + 16 * p, chroma[p], back[1][p]) for p in (0, 1)]
    ):
        for by in range(plane.shape[0] // size):
            for bx in range(plane.shape[1] // size):
                window = slice(size * by, size * (by + 1)), slice(size * bx, size * (bx + 1))
                block[: size * size] = (source[window].numpy() << fraction).reshape(-1)
                given = block.copy()
                forward_block(block, size, tables)
                assert np.array_equal(block[: size * size], expected[first : first + size * size, by, bx].numpy())
                inverse_block(block, size, tables)
                assert np.array_equal(block, given)
                assert np.array_equal(block[: size * size], rebuilt[window].numpy().reshape(-1))


@pytest.mark.parametrize("size", [8, 4])
def test_a_context_is_what_lies_beside_the_block(size: int) -> None:
    draw = np.random.default_rng(size)
    plane = draw.integers(0, 256, (48, 48)).astype(np.int32)
    context = np.zeros(64, np.int32)
    count = CONTEXT_SIZES[size]
    for top, left in ((16, 24), (0, 24), (16, 0), (0, 0)):
        mean = fill_context(plane, top, left, size, True, context)
        found = context[:count] + mean
        beside = [*plane[top - 1, left : left + size]] if top else []
        beside += [*plane[top : top + size, left - 1]] if left else []
        if top and left:
            before = 2 if size == 8 else 1
            assert np.array_equal(found[before : before + size], beside[:size])
            assert np.array_equal(found[count - 2 * size : count - size], beside[size:])
            assert np.array_equal(found[count - size :], plane[top : top + size, left - 2])
            assert mean == (sum(int(value) for value in beside) + size) // (2 * size)
        elif not top and not left:
            assert (found == 128).all()
    full, less = context.copy(), context.copy()
    fill_context(plane, 16, 24, size, True, full)
    plane[15, 24 + size :] += 1000  # beyond what is decoded: must not be looked at
    fill_context(plane, 16, 24, size, False, less)
    assert (abs(less[:count]) < 256).all()
    assert np.array_equal(less[count - 2 * size : count], full[count - 2 * size : count])


def test_modes_predict_flat_surroundings_as_flat() -> None:
    for matrix, size in zip(mode_matrices(), (8, 4), strict=True):
        context, out = np.zeros(64, np.int32), np.zeros(64, np.int64)
        for mode in matrix:
            predict_mode(mode, context, 90, CONTEXT_SIZES[size], out)
            assert (out[: size * size] == 90).all()


def test_chroma_follows_luma_along_a_line() -> None:
    rows, columns = np.mgrid[:16, :16]
    luma = (4 * rows + 6 * columns + 10).astype(np.int32)
    half = (luma[::2, ::2] + luma[::2, 1::2] + luma[1::2, ::2] + luma[1::2, 1::2] + 2) >> 2
    chroma = (200 - half).astype(np.int32)
    out = np.zeros(64, np.int64)
    predict_from_luma(luma, chroma, 4, 4, out)
    assert abs(out[:16].reshape(4, 4) - chroma[4:, 4:]).max() <= 2
    predict_from_luma(luma, chroma, 0, 0, out)
    assert (out[:16] == 128).all()


@pytest.mark.parametrize(("number", "size"), [(0, 8), (2, 4)])
def test_scans_go_through_all_frequencies_by_diagonal(number: int, size: int) -> None:
    order, diagonals = scans()[number : number + 2]
    assert sorted(order) == list(range(size * size))
    assert (np.diff(diagonals) >= 0).all()
    assert np.array_equal(diagonals, order // size + order % size)


def test_the_largest_magnitudes_have_room_in_the_code() -> None:
    """Coefficients of the finest step stay under what Exp-Golomb reaches."""
    finest, tables = int(intra_steps().min()), transform_tables()
    for size, count in ((8, 64), (4, 16)):
        basis = np.empty((count, count), np.int64)
        for k in range(count):
            block = np.zeros(64, np.int64)
            block[k] = 1 << 12
            forward_block(block, size, tables)
            basis[:, k] = block[:count]
        for row in np.where(basis >= 0, 255 << 4, -255 << 4):  # what drives each frequency furthest
            block = np.zeros(64, np.int64)
            block[:count] = row
            forward_block(block, size, tables)
            largest = int(abs(block[:count]).max())
            assert 255 << 4 < largest < (STAGES + (1 << 14)) * finest
