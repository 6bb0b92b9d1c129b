"""The stream layer: generators both ways that hold few frames, seeking, growing streams, and checks of every run."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import codec.streams as streams
from codec.api import Codec, EncodedChunk, EncodeOptions, create_codec
from codec.container import INTRA, Packet, StreamHeader, with_frame_count
from codec.errors import BitreelError, StreamError, UsageError
from codec.frames import Frame, VideoFormat, frames_digest
from codec.stream_reader import StreamReader
from tests.codec.stored_codec import StoredCodec, StoredConfig, packet_places
from tests.codec.test_container import Pipe

FMT = VideoFormat(18, 11)
OPTIONS = EncodeOptions(20, intra_period=5)


def noise(count: int, fmt: VideoFormat = FMT) -> Iterator[Frame]:
    generator = np.random.default_rng(1)
    width, height = fmt.chroma_size
    for _ in range(count):
        yield Frame(
            *(generator.integers(0, 256, s, dtype=np.uint8) for s in [(fmt.height, fmt.width), *[(height, width)] * 2])
        )


def stream(count: int = 13, options: EncodeOptions = OPTIONS) -> bytes:
    sink = io.BytesIO()
    StoredCodec().encode(noise(count), FMT, sink, options)
    return sink.getvalue()


def same(frames: Iterable[Frame], others: Iterable[Frame]) -> bool:
    return frames_digest(frames) == frames_digest(others)


@pytest.mark.parametrize("open_source", [io.BytesIO, Pipe])
def test_frames_come_back(open_source: type[io.BytesIO]) -> None:
    assert same(StoredCodec().decode(open_source(stream())), noise(13))


def test_chunks_are_the_stream() -> None:
    chunks = list(StoredCodec().encode_stream(noise(13), FMT, OPTIONS))
    head, *packets, end = chunks
    assert head.report is None and end.report is None and head.reconstruction is None
    assert [c.report.index for c in packets if c.report] == list(range(13))
    assert "".join(c.report.frame_type for c in packets if c.report) == "IPPRPIRPPRIPR"
    assert same((c.reconstruction for c in packets if c.reconstruction), noise(13))
    joined = b"".join(c.data for c in chunks)
    assert same(StoredCodec().decode(Pipe(joined)), noise(13))  # type: ignore[arg-type]
    assert with_frame_count(head.data, 13) + joined[len(head.data) :] == stream()


def test_files_get_their_frame_count_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "clip.brl"
    with path.open("wb") as sink:
        sink.write(b"before")
        report = StoredCodec().encode(noise(7), FMT, sink, OPTIONS)
        sink.write(b"after")
    assert path.read_bytes() == b"before" + stream(7) + b"after"
    assert report.bytes == len(stream(7)) and len(report.frames) == 7
    assert (
        report.bytes
        == report.header_bytes
        + sum(f.bytes for f in report.frames)
        + packet_places(stream(7))[-1][1]
        - (packet_places(stream(7))[-1][0])
    )
    with path.open("ab") as sink:  # nothing can be written elsewhere than at the end
        StoredCodec().encode(noise(7), FMT, sink, OPTIONS)
    data = path.read_bytes().removeprefix(b"before" + stream(7) + b"after")
    assert StreamReader(io.BytesIO(data)).header.frame_count == 0
    assert same(StoredCodec().decode(io.BytesIO(data)), noise(7))


def test_encoding_holds_one_segment() -> None:
    given_out: list[weakref.ref[Frame]] = []

    def given() -> Iterator[Frame]:
        for frame in noise(40):
            given_out.append(weakref.ref(frame))
            yield frame

    codec = StoredCodec()
    most = 0
    for chunk in codec.encode_stream(given(), FMT, OPTIONS):
        if chunk.report is not None:
            assert codec.taken - chunk.report.index <= codec.config.segment_frames
        most = max(most, sum(ref() is not None for ref in given_out))
    assert codec.taken == 40 and most <= codec.config.segment_frames + 2


def test_decoding_takes_one_packet_at_a_time() -> None:
    data = stream()
    source = io.BytesIO(data)
    source.seekable = lambda: False  # type: ignore[method-assign]
    for (_, end), _frame in zip(packet_places(data), StoredCodec().decode(source), strict=False):
        assert source.tell() == end


@pytest.mark.parametrize("open_source", [io.BytesIO, Pipe])
@pytest.mark.parametrize(("wanted", "count"), [(0, None), (0, 3), (4, 2), (5, 1), (9, 2), (12, None), (11, 9)])
def test_from_frame(open_source: type[io.BytesIO], wanted: int, count: int | None) -> None:
    codec = StoredCodec()
    got = list(codec.decode(open_source(stream()), wanted, count))
    frames = list(noise(13))[wanted:]
    assert same(got, frames if count is None else frames[:count])
    last = 12 if count is None else min(12, wanted + count - 1)
    assert codec.decoded == list(range(wanted // 5 * 5, last + 1)), "nothing before the intra frame, nothing after"


def test_from_frame_holds_few_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they would be too many, they are decoded though it may turn out to be needless."""
    monkeypatch.setattr(streams, "_HELD_BYTES", 900)
    codec = StoredCodec()
    assert same(codec.decode(Pipe(stream()), 12), list(noise(13))[12:])  # type: ignore[arg-type]
    assert codec.decoded == [0, 1, 2, 5, 6, 7, 10, 11, 12]


@pytest.mark.parametrize("open_source", [io.BytesIO, Pipe])
def test_from_frame_past_the_end(open_source: type[io.BytesIO]) -> None:
    codec = StoredCodec()
    with pytest.raises(UsageError, match="frame 13 is past the stream's end: it has 13 frames"):
        list(codec.decode(open_source(stream()), 13))
    assert codec.decoded == []
    with pytest.raises(UsageError, match=r"frame 9 .* it has 3 frames so far"):
        list(codec.decode(open_source(stream()[: packet_places(stream())[3][0]]), 9, follow=lambda: False))


@pytest.mark.parametrize("length", [0, 1, 5])
def test_growing_streams_give_what_is_there(length: int) -> None:
    data = stream()
    cut = packet_places(data)[length][0] + 3
    reader = StreamReader(io.BytesIO(data[:cut]), follow=lambda: False)
    assert same(StoredCodec().decode(reader), noise(length))
    assert not reader.finished
    with pytest.raises(StreamError, match=f"ends within frame {length}"):
        list(StoredCodec().decode(io.BytesIO(data[:cut])))


class Faulty(StoredCodec):
    """Decodes one sample of frame 6 wrong."""

    def decode_frames(self, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
        for number, frame in enumerate(super().decode_frames(packets, header), start=6 - self.config.refresh_period):
            if number == 6:
                frame = replace(frame, v=frame.v ^ (np.arange(frame.v.size).reshape(frame.v.shape) == 7))
            yield frame


@pytest.mark.parametrize("open_source", [io.BytesIO, Pipe])
@pytest.mark.parametrize("skipped", [0, 5])
def test_every_run_is_checked(open_source: type[io.BytesIO], skipped: int) -> None:
    """As soon as the index is known: for a source that can seek, before the run's last frame is given."""
    codec = Faulty(StoredConfig(refresh_period=6 - skipped))  # where its count of frames begins
    data = io.BytesIO()
    codec.encode(noise(13), FMT, data, OPTIONS)
    got = []
    with pytest.raises(StreamError, match="decoded frames 5 to 9 are not those the encoder saw"):
        for frame in codec.decode(open_source(data.getvalue()), skipped):
            got.append(frame)
    assert len(got) + skipped == (9 if open_source is io.BytesIO else 13)


def test_nothing_is_begun_before_the_first_packet_is_sound() -> None:
    """A header that claims large pictures, its own checksum put right, costs nothing: packets do not fit it."""
    data = stream()
    head = packet_places(data)[0][0]
    forged = bytearray(data[:head])
    forged[6:10] = b"\0\x10\0\x10"
    codec = StoredCodec()
    codec.decode_frames = lambda *_: pytest.fail("begun")  # type: ignore[method-assign]
    with pytest.raises(StreamError, match="checksum of frame 0"):
        list(codec.decode(io.BytesIO(with_frame_count(bytes(forged), 0) + data[head:])))
    with pytest.raises(StreamError, match="larger than the 100 pixels"):
        list(codec.decode(io.BytesIO(data), max_pixels=100))


def test_what_lies_behind_damage_can_be_had() -> None:
    data = bytearray(stream())
    for broken, behind in ((2, 5), (5, 10)):
        start, end = packet_places(stream())[broken]
        data[(start + end) // 2] ^= 1
        with pytest.raises(StreamError, match=f"frame {broken} does not hold.*from frame {behind}$"):
            list(StoredCodec().decode(io.BytesIO(data), broken))
        assert same(StoredCodec().decode(io.BytesIO(data), behind), list(noise(13))[behind:])
    data[packet_places(stream())[12][0]] ^= 1
    with pytest.raises(StreamError, match=r"frame 12 does not hold; copy it anew$"):
        list(StoredCodec().decode(io.BytesIO(data), 12))


def test_a_reader_gives_its_packets_once() -> None:
    reader = StreamReader(io.BytesIO(stream()))
    assert same(StoredCodec().decode(reader), noise(13))
    with pytest.raises(ValueError, match="once"):
        list(StoredCodec().decode(reader))


def test_another_models_stream_is_refused() -> None:
    other = StoredCodec()
    torch.nn.init.ones_(other.weight)
    with pytest.raises(StreamError, match="made by model 'stored'"):
        list(other.decode(io.BytesIO(stream())))


@pytest.mark.parametrize(
    ("frames", "options", "said"),
    [
        ([], OPTIONS, "no frames"),
        (list(noise(1)), EncodeOptions(64), "QP 64"),
        (list(noise(1)), EncodeOptions(-1), "QP -1"),
        (list(noise(1)), EncodeOptions(5, 0), "intra period 0"),
        ([*noise(1), *noise(1, VideoFormat(16, 16))], OPTIONS, "frame 1 is 16x16, the video 18x11"),
    ],
)
def test_wrong_use_is_refused(frames: list[Frame], options: EncodeOptions, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        StoredCodec().encode(frames, FMT, io.BytesIO(), options)


def test_wrong_places_are_refused() -> None:
    for arguments in ((-1, None), (0, 0)):
        with pytest.raises(UsageError):
            list(StoredCodec().decode(io.BytesIO(stream()), *arguments))
    with pytest.raises(UsageError, match=r"segment_frames 17: must lie in 1\.\.16"):
        create_codec("innvc", {"segment_frames": 17})


def test_too_large_a_frame_says_which() -> None:
    class Large(StoredCodec):
        def encode_frames(self, *arguments: object) -> Iterator[streams.CodedFrame]:
            for coded in super().encode_frames(*arguments):  # type: ignore[arg-type]
                yield replace(coded, payload=bytes(1 << 24)) if coded.kind != INTRA else coded

    with pytest.raises(BitreelError, match="frame 1: a frame takes 16777216 bytes"):
        Large().encode(noise(3), FMT, io.BytesIO(), OPTIONS)


# -- with a network ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def innvc() -> Codec:
    torch.manual_seed(0)
    small = {"width": 16, "trunk_blocks": 1, "field_features": 8, "segment_frames": 4, "slice_frames": 2}
    return create_codec("innvc", small).eval()


def test_innvc_begins_at_any_intra_frame(innvc: Codec) -> None:
    """Nothing in a run depends on what came before it, whether that was decoded or not."""
    fmt = VideoFormat(34, 18)
    chunks = list(innvc.encode_stream(noise(11, fmt), fmt, EncodeOptions(30, intra_period=6)))
    shown = [c.reconstruction for c in chunks if c.reconstruction]
    data = b"".join(c.data for c in chunks)
    for first in (0, 3, 6, 9):
        assert same(innvc.decode(io.BytesIO(data), first), shown[first:])
        assert same(innvc.decode(Pipe(data), first), shown[first:])  # type: ignore[arg-type]


def test_innvc_holds_one_segment_and_leaves_gradients_alone(innvc: Codec) -> None:
    taken = 0

    def given() -> Iterator[Frame]:
        nonlocal taken
        for frame in noise(9):
            taken += 1
            yield frame

    chunks: list[EncodedChunk] = []
    for chunk in innvc.encode_stream(given(), FMT, EncodeOptions(30)):
        chunks.append(chunk)
        assert torch.is_grad_enabled()
        if chunk.report is not None:
            assert taken == min(9, chunk.report.index // 4 * 4 + 4)
    for _ in innvc.decode(io.BytesIO(b"".join(c.data for c in chunks))):
        assert torch.is_grad_enabled()
