"""The post filter: its kernels against plain NumPy, its flags both ways, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.api import create_codec
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError
from codec.frames import VideoFormat
from codec.innvc.coding_state import CodingState
from codec.innvc.starts import POST_FILTER
from codec.inter.post_filter import (
    BAND,
    BLOCK,
    GUESSES,
    SHAPES,
    FilterDecoding,
    FilterEncoding,
    Flags,
    Picture,
    Planes,
    PostFilter,
    filter_weights,
    plane_step,
    shipped_filter,
    weight_name,
    weight_shape,
)


def make_source(seed: int = 0, height: int = 64, width: int = 80) -> Planes:
    """Smooth waves with an edge through them."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16.0
    luma = 110 + 60 * np.sin(x + draw.random() * 6) * np.cos(y * 0.7) + 50 * (x + 0.6 * y > 4)
    chroma = np.stack([128 + 40 * np.cos(x[::2, ::2] + k) + 20 * (y[::2, ::2] > 2) for k in range(2)])
    return luma.clip(0, 255).astype(np.uint8), chroma.clip(0, 255).astype(np.uint8)


def noisy(planes: Planes, qp: int, seed: int) -> Planes:
    """What quantization at this QP may leave of them."""
    draw = np.random.default_rng(seed)

    def one(plane: np.ndarray, kind: int) -> np.ndarray:
        off = draw.normal(0, 0.25 * plane_step(kind, qp) / 16, plane.shape)
        return np.round(plane + off).clip(0, 255).astype(np.uint8)

    return one(planes[0], 0), one(planes[1], 1)


def make_picture(qp: int, intra: bool, seed: int = 0) -> tuple[Picture, Planes]:
    source = make_source(seed)
    guesses = [noisy(source, qp, seed + 1 + k) for k in range(0 if intra else GUESSES)]
    luma = np.array([guess[0] for guess in guesses], np.uint8).reshape(-1, *source[0].shape)
    chroma = np.array([guess[1] for guess in guesses], np.uint8).reshape(-1, *source[1].shape).transpose(1, 0, 2, 3)
    return Picture(qp, noisy(source, qp, seed + 9), (luma, np.ascontiguousarray(chroma))), source


def plain_filter(
    plane: np.ndarray, guesses: np.ndarray, kind: int, qp: int, weights: dict[str, np.ndarray], gains: np.ndarray
) -> np.ndarray:
    """A whole plane filtered, by the format's description alone. gains: (H, W, 2 + G) in 64ths."""
    shape, step = SHAPES[kind], plane_step(kind, qp)
    height, width = plane.shape
    x = plane.astype(np.int64)
    wide = np.pad(x, 3, mode="edge")

    def at(down: int, right: int) -> np.ndarray:
        return wide[3 + down : 3 + down + height, 3 + right : 3 + right + width]

    def summed(values: np.ndarray) -> np.ndarray:
        cell = shape.cell
        cells = np.pad(values.reshape(height // cell, cell, width // cell, cell).sum((1, 3)), 1, mode="edge")
        rows, columns = height // cell, width // cell
        return sum(cells[i : i + rows, j : j + columns] for i in range(3) for j in range(3))

    down, across, falling, rising = (
        summed(abs(2 * x - at(-dy, -dx) - at(dy, dx))) for dy, dx in ((1, 0), (0, 1), (1, 1), (1, -1))
    )
    scale = 9 * shape.cell**2 * step
    level = sum((1024 * (down + across) >= bound * scale).astype(int) for bound in shape.levels)
    a, b = np.maximum(down, across), np.minimum(down, across) + 1
    c, d = np.maximum(falling, rising), np.minimum(falling, rising) + 1
    straight = a * d >= c * b
    most, least = np.where(straight, a, c), np.where(straight, b, d)
    way = np.where(straight, np.where(down >= across, 0, 1), np.where(falling >= rising, 2, 3))
    strength = sum((16 * most >= bound * least).astype(int) for bound in shape.leans)
    lean = np.where(strength == 0, 0, 1 + way * len(shape.leans) + strength - 1)
    change = np.zeros_like(lean)
    if len(guesses):
        off = summed(abs(x - guesses[0].astype(np.int64)))
        change = sum((1024 * off >= bound * scale).astype(int) for bound in shape.changes)
    number = (change * (len(shape.levels) + 1) + level) * (1 + 4 * len(shape.leans)) + lean
    number = number.repeat(shape.cell, 0).repeat(shape.cell, 1)

    chosen = weights[weight_name(kind, not len(guesses))][qp // BAND][number].astype(np.int64)
    total, tap = np.full(plane.shape, 32768, np.int64), 0
    for pair, (dy, dx) in enumerate(shape.pairs):
        for bound in shape.near:
            b = max(1, (bound * step + 512) >> 10)
            both = np.clip(at(dy, dx) - x, -b, b) + np.clip(at(-dy, -dx) - x, -b, b)
            total += gains[..., 0 if pair < 4 else 1] * chosen[..., tap] * both
            tap += 1
    for number, guess in enumerate(guesses):
        for bound in shape.far:
            b = max(1, (bound * step + 512) >> 10)
            total += gains[..., 2 + number] * chosen[..., tap] * np.clip(guess.astype(np.int64) - x, -b, b)
            tap += 1
    return (x + (total >> 16)).clip(0, 255)


@pytest.mark.parametrize("qp", [0, 17, 40, 62])
@pytest.mark.parametrize("frame", ["intra", "inter", "inter with gains"])
def test_kernels_do_what_the_format_says(qp: int, frame: str) -> None:
    intra = frame == "intra"
    draw = np.random.default_rng(qp)
    shapes = {weight_name(k, i): weight_shape(k, i) for k in range(2) for i in (False, True)}
    weights = {name: draw.integers(-400, 401, shape).astype(np.int16) for name, shape in shapes.items()}
    picture, _ = make_picture(qp, intra)
    flags = draw.integers(0, 2, (3, *picture.grid)).astype(np.uint8)
    flags[:, 0, 0], flags[:, 0, 1] = 0, 1
    gains = [np.full((*picture.grid, 2 + len(picture.guesses[0])), 64, np.int32) for _ in range(2)]
    if "gains" in frame:
        gains = [draw.integers(-256, 257, part.shape).astype(np.int32) for part in gains]
    made = PostFilter(weights).apply(picture, flags, (gains[0], gains[1]) if "gains" in frame else None)
    for number in range(3):
        kind, k = min(number, 1), number - 1
        before = picture.planes[1][k] if kind else picture.planes[0]
        guesses = picture.guesses[1][k] if kind else picture.guesses[0]
        size = BLOCK >> kind
        height, width = before.shape
        on = flags[number].repeat(size, 0).repeat(size, 1)[:height, :width]
        spread = gains[kind].repeat(size, 0).repeat(size, 1)[:height, :width]
        expected = np.where(on, plain_filter(before, guesses, kind, qp, weights, spread), before)
        found = made[1][k] if kind else made[0]
        assert (expected != before).any()
        assert (found == expected).all()


def test_without_flags_nothing_changes() -> None:
    picture, _ = make_picture(20, False)
    made = shipped_filter(POST_FILTER).apply(picture, np.zeros((3, *picture.grid), np.uint8))
    assert all((a == b).all() for a, b in zip(made, picture.planes, strict=True))


@pytest.mark.parametrize("intra", [False, True])
def test_decoder_finds_the_encoders_planes(intra: bool) -> None:
    given, learned, told = Flags(), Flags(), SymbolEncoder()
    pictures = [make_picture(qp, intra, seed) for seed, qp in enumerate((10, 30, 30, 50))]
    made = [
        FilterEncoding(told, source).exchange(shipped_filter(POST_FILTER), picture, given)
        for picture, source in pictures
    ]
    coder = SymbolDecoder(told.finish())
    for (picture, _), expected in zip(pictures, made, strict=True):
        found = FilterDecoding(coder).exchange(shipped_filter(POST_FILTER), picture, learned)
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    coder.finish()
    assert (given.chances == learned.chances).all() and (given.seen == learned.seen).all()


@pytest.mark.parametrize("intra", [False, True])
@pytest.mark.parametrize("qp", [12, 24, 36])
def test_it_lowers_the_error(qp: int, intra: bool) -> None:
    picture, source = make_picture(qp, intra)
    made = FilterEncoding(SymbolEncoder(), source).exchange(shipped_filter(POST_FILTER), picture, Flags())

    def error(planes: Planes) -> list[float]:
        return [float(((a.astype(float) - b) ** 2).mean()) for a, b in zip(planes, source, strict=True)]

    before, after = error(picture.planes), error(made)
    assert after[0] < 0.9 * before[0]
    assert after[1] <= before[1]


def test_a_filter_that_does_harm_is_left_out() -> None:
    weights = {name: np.full_like(part, 300) for name, part in filter_weights(POST_FILTER).items()}
    picture, source = make_picture(45, False)
    coder = SymbolEncoder()
    made = FilterEncoding(coder, source).exchange(PostFilter(weights), picture, Flags())
    assert all((a == b).all() for a, b in zip(made, picture.planes, strict=True))
    assert coder.estimated_bits < 3 * picture.grid[0] * picture.grid[1]


def test_a_fork_keeps_its_own_chances() -> None:
    torch.manual_seed(0)
    state = CodingState(create_codec("innvc", {"width": 16, "state_channels": 8}), VideoFormat(32, 32))
    fork = state.fork()
    fork.flags.chances[:] = 1
    assert (state.flags.chances != 1).all()


def test_a_damaged_file_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "post_filter.npz"
    weights = dict(filter_weights(POST_FILTER))
    weights["luma_inter"] = weights["luma_inter"][:, :-1]
    np.savez_compressed(file, **weights)
    with pytest.raises(BitreelError, match="damaged"):
        filter_weights(file)
