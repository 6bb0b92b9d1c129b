"""DCVC-FM end to end: streams decode to the encoder's frames on any arithmetic, quality goes where it is steered."""

import io
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.api import Codec, EncodeOptions, StreamReport, TrainingConditions, create_codec, load_codec, save_codec
from codec.builtin import builtin_models
from codec.dcvc_fm.config import refreshes
from codec.dcvc_fm.encoder import inter_quality
from codec.dcvc_fm.scalers import QP_PARTS, QuantizationScalers
from codec.errors import BitreelError, StreamError, UsageError
from codec.exact.reference import on_numpy
from codec.frames import Frame, VideoFormat, frames_digest

SMALL = {"width": 16, "hidden": 24, "context_blocks": 1, "half_blocks": 1, "decoder_blocks": 1, "feature_channels": 12,
         "encoder_blocks": 1}  # fmt: skip


def make_codec(seed: int = 0, **settings: object) -> Codec:
    """A small codec whose networks do something: fresh weights correct nothing and lean by biases alone."""
    torch.manual_seed(seed)
    codec = create_codec("dcvc-fm", {**SMALL, **settings})
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if "heads" in name or "correction" in name or "encoder.leave" in name:
                parameter.add_(torch.randn_like(parameter) * 0.02)
            if "base_scale" in name:
                parameter.add_(8)  # the drawn scenes have sharper edges than photographs
    return codec.eval()


def make_frames(count: int, width: int = 80, height: int = 48, seed: int = 0) -> list[Frame]:
    """A textured scene that drifts, with a little noise."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : height + 2 * count, 0 : width + 4 * count]
    scene = 128 + 60 * np.sin(rows / 7) * np.cos(columns / 11) + 30 * ((rows // 16 + columns // 16) % 2)
    frames = []
    for t in range(count):
        y = scene[t : t + height, 2 * t : 2 * t + width] + generator.normal(0, 2, (height, width))
        half = scene[t : t + height : 2, 2 * t : 2 * t + width : 2]
        y, u, v = (np.clip(np.round(p), 0, 255).astype(np.uint8) for p in (y, half * 0.5 + 60, 255 - half))
        frames.append(Frame(y, u, v))
    return frames


def encode(codec: Codec, frames: list[Frame], options: EncodeOptions) -> tuple[bytes, list[Frame], StreamReport]:
    sink, seen = io.BytesIO(), []
    fmt = VideoFormat(frames[0].width, frames[0].height, Fraction(30000, 1001))
    report = codec.encode(iter(frames), fmt, sink, options, lambda _, frame: seen.append(frame))
    return sink.getvalue(), seen, report


def mse(a: list[Frame], b: list[Frame]) -> float:
    return float(np.mean([np.square(x.y.astype(float) - y.y).mean() for x, y in zip(a, b, strict=True)]))


def as_batch(frames: list[Frame], copies: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    luma = torch.stack([torch.from_numpy(f.y) for f in frames])[None, :, None]
    chroma = torch.stack([torch.stack([torch.from_numpy(f.u), torch.from_numpy(f.v)]) for f in frames])[None]
    return luma.repeat(copies, 1, 1, 1, 1), chroma.repeat(copies, 1, 1, 1, 1)


@pytest.mark.parametrize("qp", [0, 30, 63])
@pytest.mark.parametrize("size", [(80, 48), (67, 35), (16, 16), (9, 1)])
def test_decoder_gives_the_encoders_frames(qp: int, size: tuple[int, int]) -> None:
    codec, frames = make_codec(), make_frames(4, *size)
    data, seen, report = encode(codec, frames, EncodeOptions(qp))
    assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)
    assert report.bytes == len(data)
    assert [f.frame_type for f in report.frames] == ["I", "P", "P", "P"]


def test_quality_and_rate_rise_with_qp() -> None:
    codec, frames = make_codec(), make_frames(3)
    results = [encode(codec, frames, EncodeOptions(qp)) for qp in (0, 16, 32, 48, 63)]
    rates, errors = [len(data) for data, _, _ in results], [mse(frames, seen) for _, seen, _ in results]
    assert rates == sorted(rates)
    assert errors == sorted(errors, reverse=True)


def test_a_stream_decodes_on_plain_numpy_integers() -> None:
    """Everything that decides a probability or a sample, computed by the reference implementation in torch's place."""
    codec, frames = make_codec(), make_frames(4, 64, 48)
    data, seen, _ = encode(codec, frames, EncodeOptions(30))
    with on_numpy(codec):
        assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)


def test_refreshes_are_where_the_period_says_and_survive() -> None:
    codec, frames = make_codec(refresh_period=3), make_frames(9)
    data, seen, report = encode(codec, frames, EncodeOptions(30))
    assert [f.frame_type for f in report.frames] == ["I", "P", "P", "P", "R", "P", "P", "R", "P"]
    assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)
    assert not any(refreshes(n, 0) for n in range(100))
    assert [n for n in range(70) if refreshes(n, 32)] == [33, 65]


def test_the_feature_is_what_later_frames_are_coded_with() -> None:
    """A temporal feature that is lost between two frames decodes to something else, or not at all."""
    codec, frames = make_codec(), make_frames(4)
    data, seen, _ = encode(codec, frames, EncodeOptions(30))
    feature = codec.network.feature
    renew = feature.renew
    feature.renew = lambda moved, decoded: torch.zeros_like(moved)
    try:
        found = frames_digest(codec.decode(io.BytesIO(data)))
    except StreamError:
        found = "refused"
    finally:
        feature.renew = renew
    assert found != frames_digest(seen)


def test_intra_period() -> None:
    codec, frames = make_codec(), make_frames(7)
    data, seen, report = encode(codec, frames, EncodeOptions(25, intra_period=3))
    assert [f.frame_type for f in report.frames] == ["I", "P", "P", "I", "P", "P", "I"]
    assert frames_digest(codec.decode(io.BytesIO(data), from_frame=4)) == frames_digest(seen[4:])


def test_quality_between_whole_qps_and_by_frame() -> None:
    codec, frames = make_codec(), make_frames(4)
    sizes = []
    for qp in (30, 30.5, 31):
        data, seen, report = encode(codec, frames, EncodeOptions(qp))
        assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)
        sizes.append(sum(f.payload_bytes for f in report.frames[1:]))
    assert sizes[0] < sizes[1] < sizes[2]
    data, seen, report = encode(codec, frames, EncodeOptions(0, frame_qps=(10.0, 20.0, 40.25)))
    boosts = codec.config.hierarchy_boosts
    assert [f.qp for f in report.frames[1:]] == [20 + boosts[1], 40 + boosts[0], 40 + boosts[2]]
    assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)


def test_far_from_the_intra_frame_quality_is_held_by_a_finer_qp() -> None:
    codec = make_codec()
    near, half, far, further = (inter_quality(codec, number, 30 * QP_PARTS) for number in (8, 32, 64, 800))
    assert near.place == half.place == far.place == further.place
    assert half.qp16 - near.qp16 == 6 and far.qp16 - half.qp16 == 8 and further.qp16 == far.qp16


@pytest.mark.parametrize("bits", [700.0, 6000.0])
@pytest.mark.parametrize("period", [-1, 8])
def test_bitrate_is_met(bits: float, period: int) -> None:
    codec, frames = make_codec(), make_frames(96, 64, 48)
    data, seen, _ = encode(codec, frames, EncodeOptions(30, bits_per_frame=bits, intra_period=period))
    assert abs(8 * len(data) / (bits * len(frames)) - 1) < 0.05
    assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)


def test_wrong_quality_is_refused() -> None:
    fm, frames = make_codec(), make_frames(2)
    innvc = create_codec("innvc", {"width": 16, "trunk_blocks": 1})
    for codec, options, said in (
        (fm, EncodeOptions(63.5), "outside"),
        (fm, EncodeOptions(20, frame_qps=(-1.0,)), "outside"),
        (fm, EncodeOptions(20, bits_per_frame=0.0), "above 0"),
        (fm, EncodeOptions(20, frame_qps=(3.0,), bits_per_frame=100.0), "either"),
        (innvc, EncodeOptions(20.5), "whole QPs"),
        (innvc, EncodeOptions(20, bits_per_frame=100.0), "no bitrate"),
    ):
        with pytest.raises(UsageError, match=said):
            encode(codec, frames, options)


def test_estimate_is_what_is_paid() -> None:
    codec, frames = make_codec(), make_frames(2, 320, 240)
    _, _, report = encode(codec, frames, EncodeOptions(50))
    for frame in report.frames:
        assert frame.payload_bytes > 1000
        assert abs(frame.payload_bytes * 8 / frame.estimated_bits - 1) < 0.01


def test_damage_is_refused() -> None:
    codec, frames = make_codec(), make_frames(2)
    data, _, _ = encode(codec, frames, EncodeOptions(20))
    for changed in (data[:-1], data[: len(data) // 2], data[:120] + bytes([data[120] ^ 1]) + data[121:]):
        with pytest.raises(StreamError):
            list(codec.decode(io.BytesIO(changed)))


def test_steps_are_logarithmic_between_learned_ends_and_travel_with_the_weights(tmp_path: Path) -> None:
    scalers = QuantizationScalers()
    with torch.no_grad():
        scalers.decoder[0] += 0.3
    steps = scalers.decoder_steps(torch.tensor([0.0, 31.5, 63.0]))
    assert torch.allclose(steps[1], (steps[0] * steps[2]).sqrt(), rtol=1e-5)
    assert abs(int(scalers.whole(0)[0]) / 16 / (128 * 2**0.3) - 1) < 1e-3
    assert torch.equal(scalers.whole(10 * QP_PARTS), scalers.steps[10].long())
    codec = make_codec()
    with torch.no_grad():
        codec.network.scalers.decoder += 0.1
    save_codec(codec, tmp_path / "model")
    loaded = load_codec(tmp_path / "model")
    loaded.network.scalers.decoder_steps = lambda qp: pytest.fail("steps were computed anew")  # type: ignore[method-assign]
    assert torch.equal(loaded.network.scalers.whole(333), codec.network.scalers.whole(333))
    with torch.no_grad():
        loaded.network.scalers.steps[5] = 0
    with pytest.raises(BitreelError, match="not sound"):
        loaded.network.scalers.whole(333)


def test_a_loaded_model_decodes(tmp_path: Path) -> None:
    codec, frames = make_codec(), make_frames(3)
    save_codec(codec, tmp_path / "model", half=True)
    data, seen, _ = encode(load_codec(tmp_path / "model"), frames, EncodeOptions(33))
    assert frames_digest(load_codec(tmp_path / "model").decode(io.BytesIO(data))) == frames_digest(seen)
    with pytest.raises(StreamError, match="made by model"):
        list(codec.decode(io.BytesIO(data)))


def test_small_model_keeps_its_budget() -> None:
    codec = create_codec("dcvc-fm", {"encoder_blocks": 2})
    complexity = codec.complexity()
    assert complexity["decoder_kmac_per_pixel_intra"] <= complexity["decoder_kmac_per_pixel_inter"] <= 60
    encoder = sum(p.numel() for p in codec.encoder.parameters()) / 64 / 1000
    assert encoder <= 1.5 * complexity["decoder_kmac_per_pixel_inter"]


def test_training_sees_what_coding_does() -> None:
    """Rate and distortion of the training pass's inter frames are near a real stream's of the same clip.

    The intra frame is another's; what coding learns as it goes, and the post filter, training does not have: on a
    trained model neither makes much of a difference.
    """
    codec, frames = load_codec(builtin_models()["dcvc-fm-small"]), make_frames(3, 128, 96)
    codec.config = replace(codec.config, intra_boost=0)  # as training draws it from 0 on
    luma, chroma = as_batch(frames)
    for qp in (20, 45):
        with torch.no_grad():
            output = codec(luma, chroma, torch.tensor([qp]), TrainingConditions())
        _, seen, report = encode(codec, frames, EncodeOptions(qp))
        bits = sum(f.payload_bytes for f in report.frames[1:]) * 8
        assert 0.8 < float(output.bits[0, 1:].sum()) / bits < 1.25
        shown = 10 * math.log10(255**2 / mse(frames[1:], seen[1:]))
        trained = (output.luma[0, 1:, 0] - luma[0, 1:, 0].float()).square().mean()
        assert abs(10 * math.log10(255**2 / float(trained)) - shown) < 0.7


def test_every_parameter_learns() -> None:
    torch.manual_seed(1)
    codec, frames = make_codec().train(), make_frames(6, 64, 64)
    luma, chroma = as_batch(frames, 8)
    output = codec(luma, chroma, torch.arange(0, 64, 9), TrainingConditions())
    (output.bits.sum() + output.sse.sum()).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_frame_answers_for_those_predicted_from_it_where_pictures_carry_gradients() -> None:
    """The last frame's cost, and what it asks of the steps that only the first inter frame was coded with."""
    torch.manual_seed(1)
    codec, frames = make_codec().train(), make_frames(3, 64, 64)
    luma, chroma = as_batch(frames)

    def gradient(**how: bool) -> torch.Tensor:
        codec.zero_grad()
        torch.manual_seed(4)
        output = codec(luma, chroma, torch.tensor([20]), TrainingConditions(**how))
        (output.bits[0, -1] + output.sse[0, -1]).backward()
        ends = [p.grad for n, p in codec.named_parameters() if n.startswith("network.scalers") and p.grad is not None]
        return torch.cat([each.flatten() for each in ends])

    apart, cascaded, pictures = gradient(cascaded=False), gradient(), gradient(picture_gradients=True)
    assert torch.isfinite(pictures).all()
    assert not torch.equal(pictures, cascaded) and not torch.equal(pictures, apart)
    assert torch.equal(pictures, gradient(picture_gradients=True, recompute=True)), "recomputing changes nothing"


@pytest.mark.parametrize("inside", [False, True])
def test_corrected_frames_may_be_references(inside: bool) -> None:
    torch.manual_seed(2)
    codec, frames = make_codec(correction_in_loop=inside), make_frames(4, 64, 48)
    torch.nn.init.normal_(codec.network.correction.weight, std=0.05)
    data, seen, _ = encode(codec, frames, EncodeOptions(24))
    assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)


@pytest.mark.parametrize(
    "setting", [{"width": 0}, {"refresh_period": -1}, {"hierarchy_boosts": (1, 2)}, {"distribution": "cauchy"}]
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        create_codec("dcvc-fm", {**SMALL, **setting})
