"""The .brl container: what it holds comes back, and whatever is altered is noticed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from codec.container import (
    END,
    INTER,
    INTRA,
    PACKET_OVERHEAD,
    REFRESH,
    Packet,
    StreamHeader,
    header_bytes,
    packet_bytes,
    stored_name,
    stream_checksum,
    with_frame_count,
)
from codec.errors import BitreelError, StreamError
from codec.frames import VideoFormat
from codec.stream_index import MAX_RUNS, StreamIndex
from codec.stream_reader import StreamReader

HEADER = StreamHeader(
    "innvc", "a-name-of-some-length", bytes(range(16)), VideoFormat(353, 287, Fraction(30000, 1001), "bt601", True), 16
)
FRAMES = [(INTRA, 30, b"first frame"), (INTER, 31, b""), (REFRESH, 63, bytes(300)), (INTRA, 2, b"x"), (INTER, 9, b"y")]


class Pipe(io.RawIOBase):
    """What can't seek and gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 7))


def write(frames: list[tuple[int, int, bytes]] = FRAMES, header: StreamHeader = HEADER) -> bytes:
    data = header_bytes(header)
    checksum, index = stream_checksum(data), StreamIndex()
    for number, (kind, qp, payload) in enumerate(frames):
        if kind == INTRA:
            index.begin(number, len(data))
            index.checksums[-1] = 0xDEADBEEF + number
        block, checksum = packet_bytes(kind, qp, payload, checksum)
        data += block
    index.frames = len(frames)
    return data + packet_bytes(END, 0, index.to_bytes(), checksum)[0]


def read(data: bytes, open_source: Callable[[bytes], object] = io.BytesIO) -> list[Packet]:
    return list(StreamReader(open_source(data)).packets())  # type: ignore[arg-type]


@pytest.mark.parametrize("open_source", [io.BytesIO, Pipe])
def test_everything_comes_back(open_source: Callable[[bytes], io.BytesIO]) -> None:
    reader = StreamReader(open_source(write()))
    assert reader.header == HEADER
    assert reader.frame_count == (5 if open_source is io.BytesIO else None)
    packets = list(reader.packets())
    assert [(p.kind, p.qp, p.payload) for p in packets[:-1]] == FRAMES
    assert [p.frame_type for p in packets] == ["I", "P", "R", "I", "P", "end"]
    assert [p.run for p in packets[:-1]] == [0, 0, 0, 1, 1]
    assert packets[0].bytes == len(b"first frame") + PACKET_OVERHEAD
    assert reader.finished and reader.index is not None and reader.frame_count == 5
    assert list(reader.index.starts) == [0, 3]
    assert list(reader.index.checksums) == [0xDEADBEEF, 0xDEADBEEF + 3]
    assert [p.offset for p in packets[:4:3]] == list(reader.index.offsets)


@pytest.mark.parametrize(("wanted", "first"), [(0, 0), (2, 0), (3, 3), (4, 3)])
def test_seeking_begins_at_the_intra_frame_before(wanted: int, first: int) -> None:
    source = io.BytesIO(b"something before" + write())
    source.seek(len(b"something before"))
    assert [p.index for p in StreamReader(source).packets(wanted)] == list(range(first, 6))


def test_header_and_packets_cost_little() -> None:
    longest = replace(HEADER, codec="c" * 30, model_name="n" * 30)
    assert len(header_bytes(longest)) < 100
    assert PACKET_OVERHEAD <= 8
    one_intra = [(INTRA, 1, b"i"), *[(INTER, 1, b"p")] * 95]
    assert read(write(one_intra))[-1].bytes <= 20 + PACKET_OVERHEAD


def test_frame_count_in_the_header_changes_no_packet() -> None:
    data = write()
    head = len(header_bytes(HEADER))
    counted = with_frame_count(data[:head], 5) + data[head:]
    assert StreamReader(Pipe(counted)).frame_count == 5  # type: ignore[arg-type]
    assert read(counted) == read(data)
    for open_source in (io.BytesIO, Pipe):
        with pytest.raises(StreamError, match="header counts 4"):
            read(with_frame_count(data[:head], 4) + data[head:], open_source)


@pytest.mark.parametrize("open_source", [io.BytesIO, Pipe])
def test_every_cut_is_noticed(open_source: Callable[[bytes], object]) -> None:
    data = write()
    for length in range(len(data)):
        with pytest.raises(StreamError):
            read(data[:length], open_source)


@pytest.mark.parametrize("open_source", [io.BytesIO, Pipe])
def test_every_flipped_bit_is_noticed(open_source: Callable[[bytes], object]) -> None:
    data = write()
    generator = np.random.default_rng(0)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << int(generator.integers(8))
        with pytest.raises(StreamError):
            read(bytes(changed), open_source)


def test_packets_in_another_place_are_noticed() -> None:
    same = [(INTRA, 30, b"same") for _ in range(4)]
    data, other = write(same), write([(INTRA, 30, b"else"), *same[1:]])
    start = len(header_bytes(HEADER))
    size = 4 + PACKET_OVERHEAD
    first, second, third = (data[start + i * size : start + (i + 1) * size] for i in range(3))
    rest = data[start + 3 * size :]
    for changed, at in (
        (second + first + third, 0),
        (first + third, 1),
        (first + first + second + third, 1),
        (first + other[start + size : start + 2 * size] + third, 1),
    ):
        with pytest.raises(StreamError, match=f"checksum of frame {at}"):
            read(data[:start] + changed + rest)


def test_a_header_of_another_stream_is_noticed() -> None:
    data, other = write(), header_bytes(replace(HEADER, segment_frames=8))
    with pytest.raises(StreamError, match="checksum of frame 0"):
        read(other + data[len(other) :])


def test_bytes_after_the_end_are_noticed() -> None:
    with pytest.raises(StreamError, match="after its end"):
        read(write() + b"x")


def test_other_files_are_refused() -> None:
    for data in (b"", b"BRL", b"RIFF....AVI ", b"BRL2" + bytes(100)):
        with pytest.raises(StreamError, match="does not start with BRL1"):
            read(data)
    data = bytearray(write())
    data[5] = 1
    with pytest.raises(StreamError, match=r"version 1 is not known here .* encode the video anew"):
        read(bytes(data))


def test_impossible_values_are_refused_when_writing() -> None:
    for fmt in (VideoFormat(20000, 16), VideoFormat(16384, 16384), VideoFormat(16, 16, Fraction(5000))):
        with pytest.raises(BitreelError, match="outside"):
            header_bytes(replace(HEADER, format=fmt))
    with pytest.raises(BitreelError, match="segments of 17 frames"):
        header_bytes(replace(HEADER, segment_frames=17))
    with pytest.raises(BitreelError, match="16 MiB"):
        packet_bytes(INTRA, 0, bytes(1 << 24), 0)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (6, b"\0\0"), (6, b"\x01\x40"), (8, b"\0\0"), (6, b"\0\x40\0\x40"), (10, bytes(4)), (10, b"\xff\xff\xff\x7f"),
        (14, bytes(4)), (18, b"\x03"), (18, b"\x08"), (18, b"\x80"), (19, b"\0"), (19, b"\x11"),
    ],
    ids=[
        "no width", "too wide", "no height", "too many pixels", "no frame rate", "too many frames a second",
        "frame rate over zero", "unknown matrix", "spare bit", "last spare bit", "no segment", "long segment",
    ],
)  # fmt: skip
def test_impossible_values_are_refused_when_reading(at: int, value: bytes) -> None:
    """Before anything of that size is allocated, though the checksum is right."""
    data = bytearray(header_bytes(HEADER))
    data[at : at + len(value)] = value
    with pytest.raises(StreamError, match="impossible"):
        read(with_frame_count(bytes(data), 0))


@pytest.mark.parametrize("names", [b"", b"\x05innvc", b"\x05innvc\x09four", b"\x05innvc\x03four", b"\x01\xff\x01a"])
def test_names_fill_their_place(names: bytes) -> None:
    data = header_bytes(replace(HEADER, codec="", model_name=""))[:-10]
    data = data[:4] + bytes([data[4] - 2 + len(names)]) + data[5:] + names
    with pytest.raises(StreamError, match=r"names|impossible"):
        read(with_frame_count(data + bytes(8), 0))


def test_larger_pictures_than_allowed_are_refused() -> None:
    data = write()
    assert StreamReader(io.BytesIO(data), max_pixels=353 * 287).header == HEADER
    with pytest.raises(StreamError, match="353x287 are larger than the 101310 pixels"):
        StreamReader(io.BytesIO(data), max_pixels=353 * 287 - 1)


def test_long_names_keep_whole_characters() -> None:
    name = "x" + "ä" * 12
    reader = StreamReader(io.BytesIO(header_bytes(replace(HEADER, model_name=name)) + write()[-40:]))
    assert reader.header.model_name == stored_name(name) == "x" + "ä" * 11


def test_a_stream_without_frames_is_refused() -> None:
    with pytest.raises(StreamError, match="frame 0"):
        block = header_bytes(HEADER)
        index = StreamIndex()
        index.begin(0, len(block))
        read(block + packet_bytes(END, 0, index.to_bytes(), stream_checksum(block))[0])


def test_growing_streams_end_quietly_and_go_on_where_they_grew() -> None:
    data = write()
    head = len(header_bytes(HEADER))
    for length in range(head, len(data)):
        reader = StreamReader(io.BytesIO(data[:length]), follow=lambda: False)
        got = [p.payload for p in reader.packets()]
        assert got == [payload for _, _, payload in FRAMES][: len(got)] and not reader.finished
    source = io.BytesIO(data[: head + 3])
    grown = iter(range(head + 10, len(data) + 9, 10))

    def grow() -> bool:
        at = source.tell()
        source.write(data[at : next(grown)])
        source.seek(at)
        return True

    reader = StreamReader(source, follow=grow)
    assert [p.payload for p in reader.packets()][:-1] == [payload for _, _, payload in FRAMES] and reader.finished
    with pytest.raises(StreamError, match="checksum of frame 0"):
        list(StreamReader(io.BytesIO(data[: head + 12] + bytes(20)), follow=lambda: False).packets())


def number(value: int) -> bytes:
    return struct.pack("B", value) if value < 128 else bytes([value & 127 | 128]) + number(value >> 7)


def ending(*parts: bytes) -> bytes:
    return b"".join(parts) + (sum(map(len, parts)) + 4).to_bytes(4, "little")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        ending(number(3)),
        ending(number(3), number(0), bytes(3)),
        ending(number(3), number(0), bytes(4))[:-1] + b"\x01",
        ending(number(0), number(0), bytes(4)),
        ending(number(1 << 32), number(0), bytes(4)),
        ending(b"\xff" * 9 + b"\x01", number(0), bytes(4)),
        ending(number(3), number(3), bytes(4)),
        ending(number(1 << 31), number(1 << 30), bytes(4)),
        ending(number(3), number(0), bytes(5)),
        ending(number(3), number(1), bytes(4), number(0), number(20), bytes(4)),
        ending(number(3), number(1), bytes(4), number(3), number(30), bytes(4)),
        ending(number(3), number(1), bytes(4), number(1), number(7), bytes(4)),
        ending(number(3), number(1), bytes(4), number(1), number(80), bytes(4)),
        ending(number(3), number(1), bytes(4), number(1), number((1 << 63) - 1), bytes(4)),
    ],
)
def test_an_impossible_index_is_refused(payload: bytes) -> None:
    """Of three frames in 100 bytes, the end packet at 90."""
    StreamIndex.from_bytes(ending(number(3), number(1), bytes(4), number(1), number(70), bytes(4)), 10, 98)
    with pytest.raises(StreamError, match="index"):
        StreamIndex.from_bytes(payload, 10, 90)


@pytest.mark.parametrize("open_source", [io.BytesIO, Pipe])
@pytest.mark.parametrize("change", ["count", "start", "offset"])
def test_a_forged_index_is_noticed(change: str, open_source: Callable[[bytes], object]) -> None:
    """Possible in itself and under a right checksum, but not what the packets say."""
    packets = read(write())
    index = StreamIndex.from_bytes(packets[-1].payload, packets[0].offset, packets[-1].offset)
    if change == "count":
        index.frames += 1
    elif change == "start":
        index.starts[1] -= 1
    else:
        index.offsets[1] += 8
    data = write()[: packets[-1].offset]
    before = int.from_bytes(data[-4:], "little")
    with pytest.raises(StreamError, match=r"index|counts"):
        read(data + packet_bytes(END, 0, index.to_bytes(), before)[0], open_source)


def test_the_index_is_bounded() -> None:
    index = StreamIndex()
    for frame in range(MAX_RUNS + 10):
        index.begin(frame, 100 + 20_000 * frame)
    index.frames = MAX_RUNS + 10
    payload = index.to_bytes()
    assert len(payload) < 1 << 24 and len(index.starts) == MAX_RUNS
    again = StreamIndex.from_bytes(payload, 100, 1 << 50)
    assert (again.starts, again.offsets, again.checksums) == (index.starts, index.offsets, index.checksums)
    assert again.run_of(MAX_RUNS + 5) == MAX_RUNS - 1 and again.last_frame(MAX_RUNS - 1) == MAX_RUNS + 9


def test_checksums_are_those_the_document_gives() -> None:
    """Written out anew: a running CRC-32 over everything but frame count and CRCs."""
    data = write()
    at = 5 + data[4]
    running = zlib.crc32(data[:at])
    assert struct.unpack_from("<I", data, at + 4)[0] == zlib.crc32(data[: at + 4])
    at += 8
    while at < len(data):
        length = int.from_bytes(data[at + 1 : at + 4], "little")
        running = zlib.crc32(data[at : at + 4 + length], running)
        assert struct.unpack_from("<I", data, at + 4 + length)[0] == running
        at += 8 + length
