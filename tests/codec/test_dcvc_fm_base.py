"""DCVC-FM base: real streams, and priors that hang on symbols alone; narrow models, and slowly the full size."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from codec.api import Codec, EncodeOptions, StreamReport, create_codec, load_codec, save_codec
from codec.container import INTER, INTRA, REFRESH, Packet, StreamHeader
from codec.dcvc_fm_base.exact_blocks import WideExactConv
from codec.dcvc_fm_base.latent_coding import Decoding, Encoding
from codec.dcvc_fm_base.model import DCVCFMBase
from codec.dcvc_fm_base.spatial_order import four_steps
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.errors import StreamError, UsageError
from codec.exact.reference import on_numpy
from codec.frames import Frame, VideoFormat, frames_digest
from codec.stream_reader import StreamReader

NARROW = {
    "intra_widths": (8, 8, 8), "intra_latent": 8, "intra_hyper": 8, "intra_refine": 4, "intra_prior": 24,
    "flow_scales": 2, "flow_width": 8, "motion": 8, "motion_prior": 24, "hyper": 8, "hyper_reach": 3,
    "feature": 8, "half": 8, "quarter": 8, "offset_groups": 4, "latent": 8, "prior": 24, "decoded": 8,
    "refine": (4, 4, 8), "refine_blocks": 1,
}  # fmt: skip
# How much larger than fresh weights make them: latents, hyper-latents.
LOUDER = {"encoder_rest.4.": 30, "motion.encoder_rest.2.": 30, "to_latent.": 30, "hyper_encoder.second.": 4}


def make_codec(seed: int = 0, **settings: object) -> Codec:
    """A narrow codec with latents well away from zero and priors that make something of them, as after training."""
    torch.manual_seed(seed)
    codec = create_codec("dcvc-fm-base", {**NARROW, **settings})
    make_louder(codec)
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if ".fusion." in name or ".spatial." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return codec.eval()


def make_louder(codec: Codec) -> None:
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            for part, factor in LOUDER.items():
                if part in name:
                    parameter.mul_(factor)


def make_frames(count: int, width: int = 70, height: int = 50, seed: int = 0) -> list[Frame]:
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
    sink: io.BytesIO = io.BytesIO()
    seen: list[Frame] = []
    fmt = VideoFormat(frames[0].width, frames[0].height, Fraction(25))
    report = codec.encode(iter(frames), fmt, sink, options, lambda _, frame: seen.append(frame))
    return sink.getvalue(), seen, report


def decode(codec: Codec, data: bytes) -> list[Frame]:
    return list(codec.decode(io.BytesIO(data)))


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[bytes, bytes]]]:
    """All that the entropy decoder is asked and answers while within: table numbers and symbols."""
    taken: list[tuple[bytes, bytes]] = []
    true_decode = SymbolDecoder.decode

    def decode_and_note(self: SymbolDecoder, numbers: np.ndarray, tables: object) -> np.ndarray:
        symbols = true_decode(self, numbers, tables)  # type: ignore[arg-type]
        taken.append((np.ascontiguousarray(numbers).tobytes(), symbols.tobytes()))
        return symbols

    with monkeypatch.context() as patch:
        patch.setattr(SymbolDecoder, "decode", decode_and_note)
        yield taken


@pytest.mark.parametrize(("qp", "size"), [(0, (70, 50)), (30, (64, 64)), (63, (33, 129)), (20, (9, 1))])
def test_another_instance_gives_the_encoders_frames(qp: int, size: tuple[int, int], tmp_path: Path) -> None:
    codec, frames = make_codec(), make_frames(4, *size)
    data, seen, report = encode(codec, frames, EncodeOptions(qp, intra_period=3))
    save_codec(codec, tmp_path)
    assert frames_digest(decode(load_codec(tmp_path), data)) == frames_digest(seen)
    assert [f.frame_type for f in report.frames] == ["I", "P", "P", "I"]
    assert {f.qp for f in report.frames} == {qp}
    assert len({f.y.tobytes() for f in seen}) == 4 or size == (9, 1)


def test_symbols_are_not_all_zero_and_cost_what_is_estimated() -> None:
    _, _, report = encode(make_codec(), make_frames(3, 192, 128), EncodeOptions(40))
    assert len(report.frames) == 3
    for frame in report.frames:
        assert frame.payload_bytes > 150
        assert frame.estimated_bits == pytest.approx(8 * frame.payload_bytes, rel=0.02)


def test_priors_are_whole_numbers_on_any_implementation() -> None:
    """All exact layers computed in NumPy integers: the very same symbols, and so the same frames."""
    codec = make_codec()
    data, seen, _ = encode(codec, make_frames(3), EncodeOptions(30))
    with on_numpy(codec):
        assert frames_digest(decode(codec, data)) == frames_digest(seen)


def disturb(codec: Codec) -> None:
    """Make all floats that a decoder computes come out otherwise, far more than another machine's do."""

    def noisy(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output + 0.05 * torch.randn_like(output)

    names = ("intra.picture", "inter.motion.flow", "inter.motion.decoder_join", "inter.contexts.fuse_full",
             "inter.contexts.from_frame", "inter.decoder.join_half", "inter.reconstruction.second")  # fmt: skip
    for name in names:
        codec.get_submodule(name).register_forward_hook(noisy)


def test_symbols_hang_on_no_float(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, frames = make_codec(refresh_period=2), make_frames(5)
    data, seen, _ = encode(codec, frames, EncodeOptions(40))
    with recorded(monkeypatch) as plain:
        decode(codec, data)
    assert sum(any(symbols) for _, symbols in plain) > len(plain) // 2  # they are not all zero
    other = make_codec(refresh_period=2)
    disturb(other)
    with recorded(monkeypatch) as disturbed:
        shown = decode(other, data)  # nor do the stream's checksums of frames refuse it
    assert disturbed == plain
    assert all(a.y.tobytes() != b.y.tobytes() for a, b in zip(shown, seen, strict=True))


def test_a_codec_of_exact_frames_is_still_held_to_its_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make_codec()
    data, _, _ = encode(codec, make_frames(2), EncodeOptions(40))
    monkeypatch.setattr(DCVCFMBase, "exact_frames", True)
    decode(codec, data)
    disturb(codec)
    with pytest.raises(StreamError, match="not those the encoder saw"):
        decode(codec, data)


def test_symbols_are_the_same_with_other_threads_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, before = make_codec(), torch.get_num_threads()
    data, _, _ = encode(codec, make_frames(3, 130, 70), EncodeOptions(40))
    with recorded(monkeypatch) as plain:
        decode(codec, data)
    try:
        torch.set_num_threads(3 if before != 3 else 2)
        with torch.backends.mkldnn.flags(enabled=False), recorded(monkeypatch) as other:
            decode(codec, data)
    finally:
        torch.set_num_threads(before)
    assert other == plain


def packets_of(data: bytes) -> tuple[StreamHeader, list[Packet]]:
    reader = StreamReader(io.BytesIO(data))
    return reader.header, [p for p in reader.packets(0) if p.kind in (INTRA, INTER)]


def test_hierarchy_and_refresh_are_in_the_packets() -> None:
    data, _, _ = encode(make_codec(refresh_period=4), make_frames(11, 16, 16), EncodeOptions(10))
    _, packets = packets_of(data)
    found = [(c.decode_uniform(3), c.decode_uniform(2)) for c in (SymbolDecoder(p.payload) for p in packets[1:])]
    assert [place for place, _ in found] == [1, 0, 2, 0, 2, 0, 2, 0, 1, 0]
    assert [refresh for _, refresh in found] == [0, 0, 0, 0, 1, 0, 0, 0, 1, 0]


def test_place_and_refresh_change_what_is_decoded() -> None:
    codec, frames = make_codec(), make_frames(3)
    kept = codec.state_dict()
    data, seen, _ = encode(codec, frames, EncodeOptions(40))
    adapted = "inter.contexts.adaptors.{}.bias"
    for changed, counts in (
        (adapted.format(0), [2]),
        (adapted.format(1), []),
        ("inter.contexts.from_frame.bias", [1, 2]),
    ):
        other = make_codec()
        other.load_state_dict(kept)
        with torch.no_grad():
            other.get_parameter(changed).add_(1.0)
        header, packets = packets_of(data)
        shown = list(other.decode_frames(packets, header))
        assert [i for i in range(3) if shown[i].to_bytes() != seen[i].to_bytes()] == counts


def wrong_packets(data: bytes) -> list[list[Packet]]:
    _, (intra, *inter) = packets_of(data)

    def altered(packet: Packet, kind: int | None = None, payload: bytes | None = None) -> Packet:
        return Packet(packet.index, packet.kind if kind is None else kind, packet.qp,
                      packet.payload if payload is None else payload, packet.offset, packet.run)  # fmt: skip

    refreshes = altered(inter[0], kind=REFRESH)
    return [
        inter,  # nothing to predict from
        [intra, refreshes],  # a kind of no use here
        [altered(intra, payload=intra.payload[:-20])],
        [intra, altered(inter[0], payload=inter[0].payload + b"abcdef")],
        [intra, altered(intra, kind=INTER)],
    ]


def test_wrong_packets_are_refused() -> None:
    codec = make_codec()
    data, _, _ = encode(codec, make_frames(2), EncodeOptions(40))
    header, _ = packets_of(data)
    for packets in wrong_packets(data):
        with pytest.raises(StreamError):
            list(codec.decode_frames(packets, header))


def test_garbage_is_refused_or_decoded_and_nothing_else() -> None:
    """Extreme symbols included: latents beyond all measure must not make frames that can't be shown."""
    codec, frames = make_codec(), make_frames(2)
    data, seen, _ = encode(codec, frames, EncodeOptions(40))
    header, packets = packets_of(data)
    generator = np.random.default_rng(3)
    refused = 0
    for _ in range(40):
        size = int(generator.integers(0, 600))
        garbage = [Packet(p.index, p.kind, p.qp, generator.bytes(size), p.offset, p.run) for p in packets]
        try:
            shown = list(codec.decode_frames([packets[0], garbage[1]], header))
            assert shown[1].y.shape == seen[1].y.shape
        except StreamError:
            refused += 1
    assert refused > 20


def test_extreme_latents_give_a_frame_that_can_be_shown() -> None:
    codec = make_codec()
    for _ in range(5):
        make_louder(codec)
    data, seen, _ = encode(codec, make_frames(3), EncodeOptions(63))
    assert frames_digest(decode(codec, data)) == frames_digest(seen)


def test_a_symbol_that_is_certainly_zero_is_sent_as_zero() -> None:
    codec, coder, far = make_codec(), SymbolEncoder(), torch.tensor([7.2, -3.4, float("nan"), 1e30, 0.4])
    assert isinstance(codec, DCVCFMBase)
    tables = codec.inter_scales.tables()
    numbers = codec.inter_scales.number(np.array([0, 30, 30, 30, 1]))
    sent = Encoding(coder).exchange(numbers, tables, lambda: far)
    assert sent.tolist() == [0, -3, 0, 1 << 15, 0]
    received = Decoding(SymbolDecoder(coder.finish())).exchange(numbers, tables, lambda: far)
    assert torch.equal(received, sent)


def test_four_steps_take_each_place_once() -> None:
    steps = four_steps(8, 4, 6, torch.device("cpu"))
    assert sorted(torch.cat(steps, dim=1)[5].tolist()) == list(range(24))
    for flat in steps:  # at each step, the four quarters stand at four different places of a cell
        assert sorted(flat[::2, 0].tolist()) == [0, 1, 6, 7]
        assert torch.equal(flat[0], flat[1])


@pytest.mark.parametrize(("inputs", "kernel", "parts"), [(1040, 1, 1), (1100, 1, 2), (130, 3, 2), (300, 3, 3)])
def test_long_sums_in_parts_are_exact(inputs: int, kernel: int, parts: int) -> None:
    layer = WideExactConv(inputs, 6, kernel)
    assert len(layer.parts) == parts and sum(p.numel() for p in layer.parameters()) == 6 * inputs * kernel**2 + 6
    x = torch.randint(-127, 128, (1, inputs, 5, 4)).float()
    with torch.no_grad():
        found = layer(x)
        with on_numpy(layer):
            assert torch.equal(layer(x), found)
    assert torch.equal(layer(x).detach(), found)  # as training computes it
    assert bool(found.any()) and float(found.abs().max()) <= 127


@pytest.mark.parametrize(
    "wrong",
    [
        {"latent": 6},
        {"refresh_period": -1},
        {"refine": (1, 2)},
        {"feature": 9},
        {"place_weights": (1, 1, 0)},
        {"hyper": 0},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        make_codec(**wrong)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_encodes_and_decodes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec, frames = create_codec("dcvc-fm-base", {}).eval(), make_frames(4, 128, 128)
    make_louder(codec)
    started = time.perf_counter()
    data, seen, report = encode(codec, frames, EncodeOptions(32))
    encoded = time.perf_counter()
    save_codec(codec, tmp_path)
    other = load_codec(tmp_path)
    loaded = time.perf_counter()
    assert frames_digest(decode(other, data)) == frames_digest(seen)
    sizes = [f.bytes for f in report.frames]
    print(f"\n{len(data)} bytes {sizes}, encode {encoded - started:.1f} s, decode {time.perf_counter() - loaded:.1f} s")
    assert min(sizes) > 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_symbols_are_the_same_on_very_different_configurations(tmp_path: Path) -> None:
    """Other instruction sets, threads, libraries and types, each in a process of its own; frames may differ."""
    save_codec(make_codec(refresh_period=3), tmp_path / "model")
    script = Path(__file__).parents[2] / "benchmarks" / "configurations.py"
    names = ("reference", "2 threads", "oneDNN off, 2 threads, channels last", "no AVX anywhere", "float64 by default",
             "within autocast")  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(script), "--model", str(tmp_path / "model"), "--size", "130x70", "--frames", "6",
         "--only", ";".join(names), "--jobs", "1"],
        env={k: v for k, v in os.environ.items() if k != "BITREEL_TEST_CLIPS"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same everywhere" in done.stdout and "failed" not in done.stdout
