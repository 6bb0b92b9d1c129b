"""InnVC end to end: streams decode to the very frames the encoder saw, and damage is refused."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.api import (
    Codec,
    EncodeOptions,
    FrameReport,
    StreamReport,
    TrainingConditions,
    create_codec,
    load_codec,
    save_codec,
)
from codec.builtin import builtin_models
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import BitreelError, StreamError, UsageError
from codec.exact.reference import on_numpy
from codec.frames import Frame, VideoFormat, frames_digest
from codec.innvc.coding_state import CodingState
from codec.innvc.decoder import receive_field
from codec.innvc.encoder import send_field

SMALL = {"width": 24, "trunk_blocks": 1, "field_features": 8}


def make_codec(seed: int = 0, **settings: object) -> Codec:
    """A small codec whose networks do something: fresh weights leave means and contexts at zero."""
    torch.manual_seed(seed)
    codec = create_codec("innvc", {**SMALL, **settings})
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if "heads" in name or "mean_maps" in name or "fine" in name or "coarse" in name:
                parameter.add_(torch.randn_like(parameter) * 0.02)
            if "base_scale" in name:
                parameter.add_(8)  # the drawn scenes have sharper edges than photographs
    return codec.eval()


def make_frames(count: int, width: int = 80, height: int = 48, seed: int = 0) -> list[Frame]:
    """A textured scene that drifts, with a little noise."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : height + 64, 0 : width + 64]
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

    def on_frame(report: FrameReport, frame: Frame) -> None:
        seen.append(frame)

    report = codec.encode(iter(frames), fmt, sink, options, on_frame)
    return sink.getvalue(), seen, report


def mse(a: list[Frame], b: list[Frame]) -> float:
    return float(np.mean([np.square(x.y.astype(float) - y.y).mean() for x, y in zip(a, b, strict=True)]))


@pytest.mark.parametrize("qp", [0, 30, 62, 63])
@pytest.mark.parametrize("size", [(80, 48), (67, 35), (16, 16), (9, 1)])
def test_decoder_gives_the_encoders_frames(qp: int, size: tuple[int, int]) -> None:
    codec, frames = make_codec(), make_frames(3, *size)
    data, seen, report = encode(codec, frames, EncodeOptions(qp))
    decoded = list(codec.decode(io.BytesIO(data)))
    assert frames_digest(decoded) == frames_digest(seen)
    assert report.bytes == len(data)
    assert [f.frame_type for f in report.frames] == ["I", "P", "P"]
    if qp == 63:
        assert frames_digest(decoded) == frames_digest(frames)


def test_quality_and_rate_rise_with_qp() -> None:
    codec, frames = make_codec(), make_frames(3)
    results = [encode(codec, frames, EncodeOptions(qp)) for qp in (0, 16, 32, 48, 63)]
    rates = [len(data) for data, _, _ in results]
    errors = [mse(frames, seen) for _, seen, _ in results]
    assert rates == sorted(rates)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_segments_intra_period_and_no_field() -> None:
    codec, frames = make_codec(), make_frames(19)
    for options in (EncodeOptions(20), EncodeOptions(20, intra_period=5), EncodeOptions(20, field=False)):
        data, seen, report = encode(codec, frames, options)
        assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)
        expected = [i % 5 == 0 if options.intra_period == 5 else i == 0 for i in range(19)]
        assert [f.frame_type == "I" for f in report.frames] == expected
        assert options.field or report.field_bytes == 0


@pytest.mark.parametrize("sent", [0, 1, 3])
def test_field_survives_coding(sent: int) -> None:
    """Every choice of levels comes back, and an absent level counts as zeros."""
    state = CodingState(make_codec(), VideoFormat(80, 48))
    generator = torch.Generator().manual_seed(4)
    proposed = [
        torch.randint(-31, 32, (1, *level.shape(state.h, state.w, 2)), generator=generator).float()
        for level in state.codec.field_decoder.levels
    ]
    coder = SymbolEncoder()
    send_field(state, coder, proposed, sent, 20)
    written = state.field
    receive_field(state, SymbolDecoder(coder.finish()), 20)
    assert all(torch.equal(a, b) for a, b in zip(state.field, written, strict=True))
    assert [bool(grid.any()) for grid in written] == [n < sent for n in range(3)]


def test_another_process_count_of_threads_decodes_the_same() -> None:
    codec, frames = make_codec(), make_frames(3, 160, 96)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        data, seen, _ = encode(codec, frames, EncodeOptions(30))
        torch.set_num_threads(1)
        assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)
    finally:
        torch.set_num_threads(before)


def test_estimate_is_what_is_paid() -> None:
    codec, frames = make_codec(), make_frames(2, 320, 240)
    _, _, report = encode(codec, frames, EncodeOptions(50))
    for frame in report.frames:
        assert frame.payload_bytes > 1000
        assert abs(frame.payload_bytes * 8 / frame.estimated_bits - 1) < 0.02
        assert frame.bytes - frame.payload_bytes <= 8


def test_damage_is_refused() -> None:
    codec, frames = make_codec(), make_frames(2)
    data, _, _ = encode(codec, frames, EncodeOptions(20))
    for changed in (
        data[:-1],
        data[: len(data) // 2],
        b"",
        data[:100] + bytes([data[100] ^ 1]) + data[101:],
        data + b"\0",
    ):
        with pytest.raises(StreamError):
            list(codec.decode(io.BytesIO(changed)))


def test_another_models_stream_is_refused() -> None:
    data, _, _ = encode(make_codec(0), make_frames(1), EncodeOptions(20))
    with pytest.raises(StreamError, match="made by model"):
        list(make_codec(1).decode(io.BytesIO(data)))


def test_wrong_use_is_refused() -> None:
    codec = make_codec()
    for frames, options in (
        ([], EncodeOptions(20)),
        (make_frames(1), EncodeOptions(64)),
        (make_frames(1), EncodeOptions(5, 0)),
    ):
        with pytest.raises(UsageError):
            codec.encode(iter(frames), VideoFormat(80, 48), io.BytesIO(), options)
    mixed = [*make_frames(1), *make_frames(1, 64, 48)]
    with pytest.raises(UsageError, match="frame 1 is 64x48"):
        codec.encode(iter(mixed), VideoFormat(80, 48), io.BytesIO(), EncodeOptions(20))


def test_saved_and_loaded(tmp_path: Path) -> None:
    codec, frames = make_codec(), make_frames(2)
    codec.display_name = "tried"
    save_codec(codec, tmp_path / "model")
    loaded = load_codec(tmp_path / "model")
    assert loaded.model_hash() == codec.model_hash()
    assert loaded.display_name == "tried"
    data, seen, _ = encode(codec, frames, EncodeOptions(20))
    assert frames_digest(loaded.decode(io.BytesIO(data))) == frames_digest(seen)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BitreelError, match="do not match"):
        load_codec(tmp_path / "model")


def test_unknown_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model at"):
        load_codec(tmp_path)
    with pytest.raises(UsageError, match="unknown codec"):
        create_codec("h264", {})
    with pytest.raises(UsageError, match="no setting"):
        create_codec("innvc", {"depth": 3})


def test_small_model_keeps_its_budget() -> None:
    complexity = create_codec("innvc", {}).complexity()
    assert complexity["parameters"] <= 3e6
    assert complexity["decoder_kmac_per_pixel_intra"] <= 60
    assert complexity["decoder_kmac_per_pixel_inter"] <= 60


def test_training_sees_what_coding_does() -> None:
    """Rate and distortion of the training pass's inter frames agree with a real stream of the same clip.

    Intra frames have a coder of their own, and what coding learns as it goes, training does not have: on a trained
    model, whose chances fit from the start, neither makes much of a difference to the frames after.
    """
    codec, frames = load_codec(builtin_models()["innvc-small"]), make_frames(3, 128, 96)
    luma = torch.stack([torch.from_numpy(f.y) for f in frames])[None, :, None]
    chroma = torch.stack([torch.stack([torch.from_numpy(f.u), torch.from_numpy(f.v)]) for f in frames])[None]
    for qp in (20, 45):
        with torch.no_grad():
            live = codec.config.live_fraction
            output = codec(luma, chroma, torch.tensor([qp]), TrainingConditions(mask_fraction=live))
        _, seen, report = encode(codec, frames, EncodeOptions(qp, field=False))
        bits = 8 * sum(frame.payload_bytes for frame in report.frames[1:])
        assert abs(float(output.bits[0, 1:].sum()) / bits - 1) < 0.12
        error = 0.0
        for a, b in zip(frames[1:], seen[1:], strict=True):
            error += 0.75 * float(np.square(a.y.astype(float) - b.y).sum())
            error += 0.5 * sum(float(np.square(p.astype(float) - q).sum()) for p, q in ((a.u, b.u), (a.v, b.v)))
        assert abs(float(output.sse[0, 1:].sum()) / error - 1) < 0.15


def test_every_parameter_learns() -> None:
    codec, frames = make_codec().train(), make_frames(3, 64, 64)
    luma = torch.stack([torch.from_numpy(f.y) for f in frames])[None, :, None].repeat(8, 1, 1, 1, 1)
    chroma = torch.stack([torch.stack([torch.from_numpy(f.u), torch.from_numpy(f.v)]) for f in frames])[None]
    qp = torch.arange(0, 64, 9)
    output = codec(luma, chroma.repeat(8, 1, 1, 1, 1), qp, TrainingConditions())
    (output.bits.sum() + output.field_bits.sum() + output.sse.sum()).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("qp", [20, 63])
def test_a_stream_decodes_on_plain_numpy_integers(qp: int) -> None:
    """Everything that decides a probability, computed by the reference implementation instead of torch."""
    codec, frames = make_codec(), make_frames(3, 64, 48)
    data, seen, _ = encode(codec, frames, EncodeOptions(qp))
    with on_numpy(codec):
        assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)


@pytest.mark.parametrize(
    "setting",
    [{"state_channels": 0}, {"checkerboard_groups": 0}, {"checkerboard_groups": 5}, {"distribution": "gaussian"}],
)
@pytest.mark.parametrize("qp", [30, 63])
def test_every_make_of_prior_codes(setting: dict[str, object], qp: int) -> None:
    codec, frames = make_codec(**setting), make_frames(3)
    data, seen, _ = encode(codec, frames, EncodeOptions(qp))
    assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)


def test_coding_in_inference_mode_leaves_training_alone(tmp_path: Path) -> None:
    frames = make_frames(2, 112, 48)  # a size of its own: what is kept for it is made here
    save_codec(make_codec(), tmp_path / "model")
    with torch.inference_mode():
        codec = load_codec(tmp_path / "model")
        data, seen, _ = encode(codec, frames, EncodeOptions(20))
        assert frames_digest(codec.decode(io.BytesIO(data))) == frames_digest(seen)
    luma = torch.stack([torch.from_numpy(f.y) for f in frames])[None, :, None]
    chroma = torch.stack([torch.stack([torch.from_numpy(f.u), torch.from_numpy(f.v)]) for f in frames])[None]
    output = make_codec().train()(luma, chroma, torch.tensor([20]), TrainingConditions())
    (output.bits.sum() + output.sse.sum()).backward()


@pytest.mark.parametrize("name", ["prior.enter.bias", "prior.base_scale.knots", "field_decoder.tables.logits"])
def test_weights_that_are_not_finite_code_nothing(name: str) -> None:
    codec = make_codec()
    with torch.no_grad():
        dict(codec.named_parameters())[name].view(-1)[0] = float("inf")
    with pytest.raises(BitreelError, match="not finite"):
        encode(codec, make_frames(1), EncodeOptions(20))


@pytest.mark.parametrize(
    "setting",
    [{"slice_frames": 0}, {"fine_channels": 0}, {"state_channels": -1}, {"decision_price": 0}, {"live_fraction": 2},
     {"distribution": "cauchy"}, {"width": 2.5}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        create_codec("innvc", setting)


def test_a_model_loads_whatever_the_default_type(tmp_path: Path) -> None:
    save_codec(make_codec(), tmp_path / "model")
    try:
        torch.set_default_dtype(torch.float64)
        assert load_codec(tmp_path / "model").model_hash() == make_codec().model_hash()
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_state_is_what_the_second_inter_frame_is_coded_with() -> None:
    """A state that is lost between two frames decodes to something else, or not at all."""
    codec, frames = make_codec(), make_frames(4)
    data, seen, _ = encode(codec, frames, EncodeOptions(30))
    renew = codec.prior.state.renew
    codec.prior.state.renew = lambda moved, decoded: torch.zeros_like(moved)
    try:
        found = frames_digest(codec.decode(io.BytesIO(data)))
    except StreamError:
        found = "refused"
    finally:
        codec.prior.state.renew = renew
    assert found != frames_digest(seen)
