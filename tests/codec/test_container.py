"""The .brl container: what it holds comes back, and whatever is altered is noticed."""

import io
import zlib
from fractions import Fraction

import numpy as np
import pytest

from codec.container import (
    END,
    INTER,
    INTRA,
    PACKET_OVERHEAD,
    StreamHeader,
    read_end,
    read_header,
    read_packets,
    stored_name,
    write_end,
    write_header,
    write_packet,
)
from codec.errors import BitreelError, StreamError
from codec.frames import VideoFormat

HEADER = StreamHeader(
    "innvc", "a-name-of-some-length", bytes(range(16)), VideoFormat(353, 287, Fraction(30000, 1001), "bt601", True), 16
)


def _stream() -> bytes:
    sink = io.BytesIO()
    write_header(sink, HEADER)
    write_packet(sink, 0, INTRA, 30, b"first frame")
    write_packet(sink, 1, INTER, 31, b"")
    write_packet(sink, 2, INTER, 63, bytes(300))
    write_end(sink, 3, 0xDEADBEEF)
    return sink.getvalue()


def _read(data: bytes) -> list[tuple[int, int, bytes]]:
    source = io.BytesIO(data)
    read_header(source)
    packets = list(read_packets(source))
    read_end(packets[-1])
    return [(p.kind, p.qp, p.payload) for p in packets]


def test_everything_comes_back() -> None:
    source = io.BytesIO(_stream())
    assert read_header(source) == HEADER
    packets = list(read_packets(source))
    assert [(p.kind, p.qp) for p in packets] == [(INTRA, 30), (INTER, 31), (INTER, 63), (END, 0)]
    assert [p.payload for p in packets[:3]] == [b"first frame", b"", bytes(300)]
    assert read_end(packets[-1]).checksum == 0xDEADBEEF
    assert packets[0].bytes == len(b"first frame") + PACKET_OVERHEAD


def test_header_is_small() -> None:
    assert write_header(io.BytesIO(), HEADER) < 100
    assert PACKET_OVERHEAD <= 8


def test_every_cut_is_noticed() -> None:
    data = _stream()
    for length in range(len(data)):
        with pytest.raises(StreamError):
            _read(data[:length])


def test_every_flipped_bit_is_noticed() -> None:
    data = _stream()
    generator = np.random.default_rng(0)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << int(generator.integers(8))
        with pytest.raises(StreamError):
            _read(bytes(changed))


def test_swapped_packets_are_noticed() -> None:
    sink = io.BytesIO()
    start = write_header(sink, HEADER)
    sizes = [write_packet(sink, i, INTRA, 30, bytes([i]) * 5) for i in range(2)]
    write_end(sink, 2, 0)
    data = sink.getvalue()
    first, second = data[start : start + sizes[0]], data[start + sizes[0] : start + sum(sizes)]
    with pytest.raises(StreamError, match="checksum of frame 0"):
        _read(data[:start] + second + first + data[start + sum(sizes) :])


def test_bytes_after_the_end_are_noticed() -> None:
    with pytest.raises(StreamError, match="after its end"):
        _read(_stream() + b"x")


def test_other_files_are_refused() -> None:
    for data in (b"", b"BRL", b"RIFF....AVI ", b"BRL2" + bytes(100)):
        with pytest.raises(StreamError, match="does not start with BRL1"):
            read_header(io.BytesIO(data))


def test_impossible_values_are_refused_when_writing() -> None:
    for fmt in (VideoFormat(20000, 16), VideoFormat(16384, 16384), VideoFormat(16, 16, Fraction(5000))):
        with pytest.raises(BitreelError, match="outside"):
            write_header(io.BytesIO(), StreamHeader("innvc", "m", bytes(16), fmt, 16))
    with pytest.raises(BitreelError, match="16 MiB"):
        write_packet(io.BytesIO(), 0, INTRA, 0, bytes(1 << 24))


@pytest.mark.parametrize(
    ("at", "value"),
    [(6, 0), (6, 16385), (14, 0), (14, 4_000_000_000), (18, 0)],
    ids=["no width", "too wide", "no frame rate", "too many frames a second", "frame rate over zero"],
)
def test_impossible_values_are_refused_when_reading(at: int, value: int) -> None:
    """Before anything of that size is allocated, though the checksum is right."""
    sink = io.BytesIO()
    length = write_header(sink, HEADER)
    data = bytearray(sink.getvalue())
    data[at : at + 4] = value.to_bytes(4, "little")
    data[length - 4 :] = zlib.crc32(data[: length - 4]).to_bytes(4, "little")
    with pytest.raises(StreamError, match="impossible"):
        read_header(io.BytesIO(bytes(data)))


def test_long_names_keep_whole_characters() -> None:
    name = "x" + "ä" * 12
    sink = io.BytesIO()
    write_header(sink, StreamHeader("innvc", name, bytes(16), HEADER.format, 16))
    sink.seek(0)
    assert read_header(sink).model_name == stored_name(name) == "x" + "ä" * 11


def test_a_stream_without_frames_is_refused() -> None:
    sink = io.BytesIO()
    write_header(sink, HEADER)
    write_end(sink, 0, 0)
    with pytest.raises(StreamError, match="frame 0"):
        _read(sink.getvalue())
