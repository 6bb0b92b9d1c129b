"""Steps that follow the picture: flat places finer, busy ones coarser, nothing at the ends of the scale."""

from __future__ import annotations

import io

import torch

from codec.api import EncodeOptions
from codec.frames import VideoFormat, frames_digest
from codec.innvc.activity import block_qps
from tests.codec.test_innvc import make_codec, make_frames


def _half_busy() -> torch.Tensor:
    luma = torch.full((1, 48, 96), 120.0)
    noise = torch.randint(-60, 61, (1, 48, 48), generator=torch.Generator().manual_seed(1))
    luma[:, :, 48:] += noise
    return luma


def test_flat_places_are_finer_and_busy_ones_coarser() -> None:
    qps = block_qps(_half_busy(), torch.tensor([30]), 8)
    assert qps.shape == (1, 6, 12)
    assert (qps[:, :, :5] > 30).all()
    assert (qps[:, :, 7:] < 30).all()
    steeper = block_qps(_half_busy(), torch.tensor([30]), 16)
    assert (steeper[:, :, 7:] <= qps[:, :, 7:]).all()
    assert steeper.min() >= 30 - 12
    assert steeper.max() <= 30 + 12


def test_qps_stay_in_range() -> None:
    for qp in (0, 62):
        found = block_qps(_half_busy(), torch.tensor([qp]), 16)
        assert found.min() >= 0
        assert found.max() <= 62


def test_one_octave_of_variance_is_half_an_octave_of_step() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 240, 240, generator=generator)
    quiet, loud = (torch.round(128 + noise * spread) for spread in (8.0, 16.0))  # two octaves of variance
    mean = [float(block_qps(luma, torch.tensor([30]), 16).double().mean()) for luma in (quiet, loud)]
    assert abs(mean[0] - mean[1] - 9) < 1


def test_streams_with_steps_of_blocks_decode_to_the_encoders_frames() -> None:
    codec, frames = make_codec(activity=8), make_frames(5)
    for qp in (12, 40, 63):
        sink, seen = io.BytesIO(), []
        codec.encode(frames, VideoFormat(80, 48), sink, EncodeOptions(qp), lambda _, frame, to=seen: to.append(frame))  # type: ignore[misc]
        assert frames_digest(codec.decode(io.BytesIO(sink.getvalue()))) == frames_digest(seen)
    assert frames_digest(seen) == frames_digest(frames)
