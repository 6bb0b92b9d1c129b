"""What a stream says about the post filter survives coding and changes what is shown; `fit` finds what pays."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from codec.api import EncodeOptions, FitSettings
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import StreamError, UsageError
from codec.frames import Frame, VideoFormat, frames_digest
from codec.innvc.coding_state import CodingState
from codec.innvc.encoder import encode_frames
from codec.innvc.filter_changes import (
    LARGEST,
    FilterChanges,
    changed_filter,
    changes_shape,
    receive_filter_changes,
    send_filter_changes,
)
from codec.innvc.filter_fit import fit_changes
from codec.innvc.tuning import ONE_PASS, Tuning
from codec.inter.filter_sums import Sums, Watch
from codec.inter.post_filter import GUESSES, Picture
from tests.codec.test_innvc import make_codec, make_frames

if TYPE_CHECKING:
    from codec.innvc.model import InnVC

FORMAT = VideoFormat(80, 48)


def _codec() -> InnVC:
    codec = make_codec()
    return codec  # type: ignore[return-value]


def _changes(spread: int, seed: int = 0, share: float = 0.2) -> FilterChanges:
    draw = np.random.default_rng(seed)
    luma, chroma = (
        draw.integers(-spread, spread + 1, shape) * (draw.random(shape) < share) * (draw.random((shape[0], 1)) < 0.5)
        for shape in (changes_shape(0), changes_shape(1))
    )
    return FilterChanges(luma, chroma)


def _streamed(codec: InnVC, frames: list[Frame], options: EncodeOptions) -> tuple[bytes, list[Frame]]:
    sink, seen = io.BytesIO(), []
    codec.encode(frames, FORMAT, sink, options, lambda _, frame: seen.append(frame))
    return sink.getvalue(), seen


@pytest.mark.parametrize("spread", [0, 1, 9, LARGEST])
def test_changes_survive_coding(spread: int) -> None:
    for sent in (_changes(spread), None):
        coder = SymbolEncoder()
        send_filter_changes(coder, sent)
        coder.encode_uniform(5, 7)
        decoder = SymbolDecoder(coder.finish())
        found = receive_filter_changes(decoder)
        assert decoder.decode_uniform(7) == 5
        decoder.finish()
        if sent is None or found is None:
            assert found is sent is None
        else:
            assert np.array_equal(found.luma, sent.luma) and np.array_equal(found.chroma, sent.chroma)


def test_few_changes_take_few_bits() -> None:
    nothing, some = SymbolEncoder(), SymbolEncoder()
    send_filter_changes(nothing, FilterChanges.none())
    changes = _changes(1, share=0.1)
    send_filter_changes(some, changes)
    count = int((changes.luma != 0).sum() + (changes.chroma != 0).sum())
    assert nothing.estimated_bits < 20
    assert 2 * count < some.estimated_bits < 9 * count


def test_any_bytes_at_all_are_safe() -> None:
    """Largest changes and nonsense alike: samples stay samples, and nothing reads or writes where it should not."""
    draw = np.random.default_rng(3)
    noise = draw.integers(0, 256, (48, 80), np.uint8), draw.integers(0, 256, (2, 24, 40), np.uint8)
    guesses = (
        draw.integers(0, 2, (GUESSES, 48, 80), np.uint8) * 255,
        draw.integers(0, 2, (2, GUESSES, 24, 40), np.uint8) * 255,
    )
    flags = np.ones((3, 2, 3), np.uint8)
    wild = [FilterChanges(*(np.full(changes_shape(kind), sign * LARGEST) for kind in range(2))) for sign in (-1, 1)]
    for _ in range(20):
        try:
            found = receive_filter_changes(SymbolDecoder(draw.bytes(3000)))
        except StreamError:
            continue
        if found is not None:
            assert max(np.abs(found.luma).max(), np.abs(found.chroma).max()) <= LARGEST
            wild.append(found)
    assert len(wild) > 5
    for changes in wild:
        for qp in (0, 30, 62):
            made = changed_filter(changes).apply(Picture(qp, noise, guesses), flags)
            assert made[0].shape == noise[0].shape and made[1].shape == noise[1].shape


def test_the_largest_sum_fits_into_32_bits() -> None:
    """All differences as large as they come, all weights too: white around black is white, and does not wrap around."""
    luma = np.zeros((16, 16), np.uint8)
    guesses = np.full((GUESSES, 16, 16), 255, np.uint8)
    chroma, chroma_guesses = np.zeros((2, 8, 8), np.uint8), np.full((2, GUESSES, 8, 8), 255, np.uint8)
    changes = FilterChanges(*(np.full(changes_shape(kind), LARGEST) for kind in range(2)))
    luma[::2, ::2] = 255
    made = changed_filter(changes).apply(
        Picture(0, (luma, chroma), (guesses, chroma_guesses)), np.ones((3, 1, 1), np.uint8)
    )
    assert (made[0][1::2, 1::2] == 255).all() and (made[1] == 255).all()


@pytest.mark.parametrize("period", [-1, 3])
def test_any_decoder_plays_a_stream_that_changes_the_filter(period: int) -> None:
    codec, frames, options = _codec(), make_frames(5), EncodeOptions(20, intra_period=period)
    plain, _ = _streamed(codec, frames, options)
    codec.tuning = replace(ONE_PASS, changes=_changes(2, 2))
    changed, seen = _streamed(codec, frames, options)
    assert changed != plain
    other = _codec()
    assert frames_digest(other.decode(io.BytesIO(changed))) == frames_digest(seen)
    assert _streamed(other, frames, options)[0] == plain  # decoding left no trace
    if period > 0:
        assert frames_digest(other.decode(io.BytesIO(changed), from_frame=4)) == frames_digest(seen[4:])


def test_changes_are_of_what_is_shown_alone_and_hold_until_the_next_intra_frame() -> None:
    codec, frames = _codec(), make_frames(4)
    reference: list[list[Frame]] = []
    for changes in (None, _changes(3, 1)):
        codec.tuning = replace(ONE_PASS, changes=changes)
        reference.append(_streamed(codec, frames, EncodeOptions(20))[1])
    assert reference[0][0].to_bytes() == reference[1][0].to_bytes()
    assert any(a.to_bytes() != b.to_bytes() for a, b in zip(*reference, strict=True))


@pytest.mark.parametrize("tuning", [Tuning(3, 2, (4, 0)), Tuning(0, 3, (2, -1, 60)), Tuning(60, 8)])
def test_any_decoder_plays_what_other_settings_made(tuning: Tuning) -> None:
    codec, frames, options = _codec(), make_frames(6), EncodeOptions(30)
    codec.tuning = tuning
    stream, seen = _streamed(codec, frames, options)
    assert frames_digest(_codec().decode(io.BytesIO(stream))) == frames_digest(seen)


def test_changes_that_sums_ask_for_leave_less_error() -> None:
    codec, frames = _codec(), make_frames(6)
    sums = Sums()
    state = CodingState(codec, FORMAT)
    watch = Watch(state, sums)
    before = []
    for coded in encode_frames(codec, frames, FORMAT, EncodeOptions(40), state):
        watch.take(coded.reconstruction)
        before.append(coded)
    # Of what was tried out only what was kept counts.
    assert sums.counts["luma_inter"].sum() == 5 * FORMAT.width * FORMAT.height
    assert sums.counts["chroma_intra"].sum() == FORMAT.width * FORMAT.height / 2
    # As if the same were seen a hundred times: then even so small a clip is worth changes.
    for parts in (sums.squares, sums.products, sums.counts):
        for name in parts:
            parts[name] *= 100
    changes = fit_changes(sums, (0.16, 0.11), 1)
    assert changes is not None and changes.luma.any()
    codec.tuning = replace(ONE_PASS, changes=changes)
    after = list(codec.encode_frames(frames, FORMAT, EncodeOptions(40)))

    def error(shown: list[Frame]) -> int:
        return sum(int(((a.y.astype(int) - b.y) ** 2).sum()) for a, b in zip(frames, shown, strict=True))

    assert error([f.reconstruction for f in after]) < 0.99 * error([f.reconstruction for f in before])
    assert fit_changes(Sums(), (0.16, 0.11), 1) is None


def test_fitting_pays_on_the_video_and_leaves_the_codec_alone() -> None:
    codec, frames, options = _codec(), make_frames(12), EncodeOptions(30)
    costs: list[float] = []
    fitted = codec.fit(frames, FORMAT, options, FitSettings(steps=5), lambda _, cost: costs.append(cost))
    # The second encode is at another QP, and only tells what a decibel is worth.
    assert len(costs) == 5 and costs[1] == pytest.approx(costs[0]) and costs[-1] == min(costs[0], *costs[2:])
    assert fitted.model_hash() == codec.model_hash()
    assert codec.tuning == ONE_PASS
    stream, seen = _streamed(fitted, frames, options)
    assert frames_digest(codec.decode(io.BytesIO(stream))) == frames_digest(seen)
    again = codec.fit(frames[:3], FORMAT, options, FitSettings(steps=1))
    assert replace(again.tuning, changes=None) == ONE_PASS


def test_fitting_takes_pictures_of_any_size_and_refuses_no_picture() -> None:
    codec = _codec()
    small = [Frame(f.y[:38, :50], f.u[:19, :25], f.v[:19, :25]) for f in make_frames(2)]
    for qp in (20, 63):
        fitted = codec.fit(small, VideoFormat(50, 38), EncodeOptions(qp), FitSettings(steps=2))
        sink = io.BytesIO()
        fitted.encode(small, VideoFormat(50, 38), sink, EncodeOptions(qp))
        assert len(list(codec.decode(io.BytesIO(sink.getvalue())))) == 2
    with pytest.raises(UsageError, match="without frames"):
        codec.fit([], VideoFormat(50, 38), EncodeOptions(20), FitSettings(steps=1))
