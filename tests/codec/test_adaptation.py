"""What a stream says about the model: it survives coding, it changes what is coded, and `fit` finds what pays."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec.api import EncodeOptions, FitSettings
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import UsageError
from codec.exact.layers import CHANGE_UNIT, ExactConv2d
from codec.frames import Frame, VideoFormat, frames_digest
from codec.innvc.adaptation import change_count, changes_of, receive_changes, send_changes, set_changes
from tests.codec.test_innvc import make_codec, make_frames

if TYPE_CHECKING:
    from codec.innvc.model import InnVC

FORMAT = VideoFormat(80, 48)


def _codec() -> InnVC:
    codec = make_codec()
    return codec  # type: ignore[return-value]


def _streamed(codec: InnVC, frames: list[Frame], options: EncodeOptions) -> tuple[bytes, list[Frame]]:
    sink, seen = io.BytesIO(), []
    codec.encode(frames, FORMAT, sink, options, lambda _, frame: seen.append(frame))
    return sink.getvalue(), seen


@pytest.mark.parametrize("spread", [0, 1, 9])
def test_changes_survive_coding(spread: int) -> None:
    codec = _codec()
    changes: NDArray[np.int32] = np.random.default_rng(1).integers(-spread, spread + 1, 700, np.int32)
    for sent in (changes, None):
        coder = SymbolEncoder()
        send_changes(coder, sent, codec.lossless_tables)
        decoder = SymbolDecoder(coder.finish())
        found = receive_changes(decoder, 700, codec.lossless_tables)
        decoder.finish()
        assert (found is None) if sent is None else np.array_equal(found, changes)


def test_a_change_moves_an_exact_layer_by_half_activations() -> None:
    layer = ExactConv2d(4, 3)
    inputs = torch.randint(-40, 40, (1, 4, 5, 5)).float()
    with torch.no_grad():
        before = layer(inputs)
        layer.change = torch.tensor([0.0, 2.0, -6.0])
        after = layer(inputs)
    moved = torch.tensor([0.0, 2.0, -6.0]).view(1, 3, 1, 1) * CHANGE_UNIT
    assert torch.equal(after, before + moved)


@pytest.mark.parametrize("period", [-1, 3])
def test_the_unchanged_model_decodes_what_a_changed_one_encoded(period: int) -> None:
    codec, frames, options = _codec(), make_frames(7), EncodeOptions(30, intra_period=period)
    plain, _ = _streamed(codec, frames, options)
    given = np.random.default_rng(2).integers(-3, 4, change_count(codec), np.int32)
    set_changes(codec, torch.from_numpy(given).float())
    assert np.array_equal(changes_of(codec), given)
    changed, seen = _streamed(codec, frames, options)
    assert changed != plain
    other = _codec()
    assert frames_digest(other.decode(io.BytesIO(changed))) == frames_digest(seen)
    assert _streamed(other, frames, options)[0] == plain  # decoding left no trace
    if period > 0:
        assert frames_digest(other.decode(io.BytesIO(changed), from_frame=4)) == frames_digest(seen[4:])


def test_fitting_pays_on_the_video_and_leaves_the_codec_alone() -> None:
    codec, frames, options = _codec(), make_frames(12), EncodeOptions(36)
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    losses: list[float] = []
    fitted = codec.fit(
        frames, FORMAT, options, FitSettings(steps=40, learning_rate=3e-3, crop=64, batch_size=2),
        lambda _, loss: losses.append(loss),
    )  # fmt: skip
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert fitted.model_hash() == codec.model_hash()
    assert all(torch.equal(before[name], value) for name, value in codec.state_dict().items())
    stream, seen = _streamed(fitted, frames, options)
    assert frames_digest(codec.decode(io.BytesIO(stream))) == frames_digest(seen)
    if (found := changes_of(fitted)) is not None:
        assert np.abs(found).max() > 0
    again = codec.fit(frames, FORMAT, options, FitSettings(steps=2, crop=64, batch_size=2))
    assert (found := changes_of(again)) is None or len(found) == change_count(codec)


def test_fitting_takes_pictures_smaller_than_a_crop_and_refuses_no_picture() -> None:
    codec = _codec()
    small = [Frame(f.y[:38, :50], f.u[:19, :25], f.v[:19, :25]) for f in make_frames(2)]
    fitted = codec.fit(small, VideoFormat(50, 38), EncodeOptions(20), FitSettings(steps=1, batch_size=1))
    sink = io.BytesIO()
    fitted.encode(small, VideoFormat(50, 38), sink, EncodeOptions(20))
    assert len(list(codec.decode(io.BytesIO(sink.getvalue())))) == 2
    with pytest.raises(UsageError, match="without frames"):
        codec.fit([], VideoFormat(50, 38), EncodeOptions(20), FitSettings(steps=1))
