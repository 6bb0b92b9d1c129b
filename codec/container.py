"""The .brl container: a header, one packet a frame, an end packet. Readable front to back; every byte is under a CRC.

Header:  "BRL1" | u8 length of the rest before its CRC | the rest | u32 CRC-32 of all before
  rest:  u8 version | u32 width | u32 height | u32 fps numerator | u32 fps denominator | u8 colour | u8 segment frames
         | 16 bytes model hash | u8 n, codec family | u8 n, model name (at most 24 bytes)
  colour: bits 0..1 matrix (0 bt601, 1 bt709, 2 bt2020), bit 2 full range
Packet:  u8 kind·64 + qp | u24 payload length | payload | u32 CRC-32 of the packet's index (u32) and all before
  kind 0 intra frame, 1 inter frame, 3 end; the end's payload is u32 frame count, u32 CRC-32 of all decoded planes
All numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from codec.errors import BitreelError, StreamError
from codec.frames import VideoFormat

MAGIC = b"BRL1"
VERSION = 1
MATRICES = ("bt601", "bt709", "bt2020")
INTRA, INTER, END = 0, 1, 3
PACKET_OVERHEAD = 8
MAX_SIDE = 16384
MAX_PIXELS = 8192 * 4352  # a decoder needs some 400 bytes a pixel, and must not be made to try more
MAX_FPS = 1000
MAX_NAME = 24
_FIXED = struct.Struct("<BIIIIBB16s")


@dataclass(frozen=True)
class StreamHeader:
    """What a stream says of itself before its first frame. model_hash: first 16 bytes of the model's SHA-256."""

    codec: str
    model_name: str
    model_hash: bytes
    format: VideoFormat
    segment_frames: int
    version: int = VERSION


@dataclass(frozen=True)
class Packet:
    """One packet: kind is INTRA, INTER or END; bytes counts the packet whole."""

    index: int
    kind: int
    qp: int
    payload: bytes

    @property
    def frame_type(self) -> str:
        return {INTRA: "I", INTER: "P"}.get(self.kind, "end")

    @property
    def bytes(self) -> int:
        return len(self.payload) + PACKET_OVERHEAD


@dataclass(frozen=True)
class StreamEnd:
    """What the end packet says: how many frames there were, and CRC-32 over all their planes in order."""

    frames: int
    checksum: int


def write_header(sink: BinaryIO, header: StreamHeader) -> int:
    """Write the header; gives its length in bytes. Raises BitreelError where a field does not fit."""
    fmt = header.format
    if not _possible_size(fmt.width, fmt.height):
        raise BitreelError(
            f"video size {fmt.width}x{fmt.height} is outside 1..{MAX_SIDE} a side, {MAX_PIXELS} pixels; scale it first"
        )
    fps = fmt.fps.limit_denominator(1_000_000)
    if not 0 < fps <= MAX_FPS:
        raise BitreelError(f"{float(fmt.fps):g} frames a second is outside 0..{MAX_FPS}")
    name = stored_name(header.model_name).encode()
    rest = _FIXED.pack(
        header.version,
        fmt.width,
        fmt.height,
        fps.numerator,
        fps.denominator,
        MATRICES.index(fmt.matrix) | (4 if fmt.full_range else 0),
        header.segment_frames,
        header.model_hash[:16],
    )
    rest += bytes([len(header.codec)]) + header.codec.encode() + bytes([len(name)]) + name
    block = MAGIC + bytes([len(rest)]) + rest
    block += struct.pack("<I", zlib.crc32(block))
    sink.write(block)
    return len(block)


def read_header(source: BinaryIO) -> StreamHeader:
    """Read the header. Raises StreamError where this is no .brl stream, or it is damaged or of another version."""
    start = source.read(5)
    if len(start) < 5 or start[:4] != MAGIC:
        raise StreamError("not a .brl stream (it does not start with BRL1)")
    rest = source.read(start[4] + 4)
    if len(rest) < start[4] + 4 or start[4] < _FIXED.size + 2:
        raise StreamError("truncated .brl stream: it ends within its header")
    if zlib.crc32(start + rest[:-4]) != struct.unpack("<I", rest[-4:])[0]:
        raise StreamError("damaged .brl stream: the header's checksum does not hold")
    version, width, height, top, bottom, colour, segment, model_hash = _FIXED.unpack_from(rest)
    if version != VERSION:
        raise StreamError(f".brl version {version} is not known here (this is version {VERSION}); update bitreel")
    names = rest[_FIXED.size : -4]
    try:
        codec = names[1 : 1 + names[0]].decode()
        model_name = names[2 + names[0] : 2 + names[0] + names[1 + names[0]]].decode()
    except (IndexError, UnicodeDecodeError) as error:
        raise StreamError("damaged .brl stream: names in the header") from error
    if not (_possible_size(width, height) and 0 < top <= MAX_FPS * bottom < 1 << 31 and colour & 3 < 3 and segment):
        raise StreamError("damaged .brl stream: the header holds impossible values")
    fmt = VideoFormat(width, height, Fraction(top, bottom), MATRICES[colour & 3], bool(colour & 4))
    return StreamHeader(codec, model_name, model_hash, fmt, segment, version)


def stored_name(name: str) -> str:
    """What a header keeps of a model's name: as many whole characters as fit."""
    return name.encode()[:MAX_NAME].decode(errors="ignore")


def _possible_size(width: int, height: int) -> bool:
    return 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS


def write_packet(sink: BinaryIO, index: int, kind: int, qp: int, payload: bytes) -> int:
    """Write one packet; gives its length in bytes. Raises BitreelError for a payload of 16 MiB or more."""
    if len(payload) >= 1 << 24:
        raise BitreelError(f"frame {index} takes {len(payload)} bytes; a .brl packet holds less than 16 MiB")
    block = bytes([kind << 6 | qp]) + len(payload).to_bytes(3, "little") + payload
    sink.write(block + struct.pack("<I", zlib.crc32(block, zlib.crc32(struct.pack("<I", index)))))
    return len(block) + 4


def write_end(sink: BinaryIO, frames: int, checksum: int) -> int:
    """Write the end packet; gives its length in bytes."""
    return write_packet(sink, frames, END, 0, struct.pack("<II", frames, checksum))


def read_packets(source: BinaryIO) -> Iterator[Packet]:
    """The packets after the header, the end packet last.

    Raises StreamError where a packet is damaged, out of place, or the stream stops before its end packet.
    """
    index = 0
    while True:
        start = source.read(4)
        if len(start) < 4:
            raise StreamError(f"truncated .brl stream: it ends after {index} whole frames, without its end mark")
        length = int.from_bytes(start[1:], "little")
        rest = source.read(length + 4)
        if len(rest) < length + 4:
            raise StreamError(f"truncated .brl stream: it ends within frame {index}")
        payload = rest[:-4]
        checksum = zlib.crc32(payload, zlib.crc32(start, zlib.crc32(struct.pack("<I", index))))
        if checksum != struct.unpack("<I", rest[-4:])[0]:
            raise StreamError(f"damaged .brl stream: the checksum of frame {index} does not hold")
        kind = start[0] >> 6
        if kind not in (INTRA, INTER, END) or (index == 0 and kind != INTRA):
            raise StreamError(f"damaged .brl stream: frame {index} is of an unknown or impossible kind")
        if kind == END and source.read(1):
            raise StreamError("damaged .brl stream: there are bytes after its end mark")
        yield Packet(index, kind, start[0] & 63, payload)
        if kind == END:
            return
        index += 1


def read_end(packet: Packet) -> StreamEnd:
    """What the end packet says. Raises StreamError where its count does not fit the packets before it."""
    if len(packet.payload) != 8:
        raise StreamError("damaged .brl stream: the end mark has a wrong length")
    end = StreamEnd(*struct.unpack("<II", packet.payload))
    if end.frames != packet.index:
        raise StreamError(f"damaged .brl stream: {packet.index} frames where its end mark counts {end.frames}")
    return end
