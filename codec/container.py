"""The .brl container, version 6: a header, one packet a frame, an end packet. docs/brl.md has the same for readers.

Header:  "BRL1" | u8 length of the rest, frame count and CRC left out | the rest | u32 frame count, 0 where unknown
         | u32 CRC-32 of all before
  rest:  u8 version | u16 width | u16 height | u32 fps numerator | u32 fps denominator | u8 colour | u8 segment frames
         | 16 bytes model hash | u32 mark | u8 n, codec family | u8 n, model name (at most 24 bytes each)
  mark: CRC-32 of the first packet without its own CRC; it makes each stream's header another
  colour: bits 0..1 matrix (0 bt601, 1 bt709, 2 bt2020), bit 2 full range, the others zero
Packet:  u8 kind·64 + qp | u24 payload length | payload | u32 CRC
  kind 0 intra frame, 1 inter frame, 2 inter frame that refreshes what later frames are predicted from, 3 end
  CRC: CRC-32 of the header before its frame count and of every packet up to and with this one, their CRCs left out
All numbers are little-endian. The end's payload is in `stream_index`, reading in `stream_reader`.

So a packet's CRC goes on from the one before: a packet that was altered, moved, left out or taken from another stream
does not fit, and a reader that jumps to a packet finds in the four bytes before it where to go on from.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from codec.errors import BitreelError, StreamError
from codec.frames import VideoFormat

MAGIC = b"BRL1"
VERSION = 6
MATRICES = ("bt601", "bt709", "bt2020")
INTRA, INTER, REFRESH, END = 0, 1, 2, 3
FRAME_TYPES = {INTRA: "I", INTER: "P", REFRESH: "R", END: "end"}
PACKET_OVERHEAD = 8
MAX_SIDE = 16384
MAX_PIXELS = 8192 * 4352  # a decoder needs some 400 bytes a pixel, and must not be made to try more
MAX_FPS = 1000
MAX_NAME = 24
MAX_SEGMENT = 16
MAX_PAYLOAD = (1 << 24) - 1
MAX_FRAMES = (1 << 32) - 1
PACKET_OVERHEAD = 8  # bytes of a packet beside its payload
_FIXED = struct.Struct("<BHHIIBB16sI")


@dataclass(frozen=True)
class StreamHeader:
    """What a stream says of itself before its first frame. model_hash: first 16 bytes of the model's SHA-256.

    mark: see `stream_mark`. frame_count: 0 where the writer did not know it and could not come back.
    """

    codec: str
    model_name: str
    model_hash: bytes
    format: VideoFormat
    segment_frames: int
    mark: int = 0
    version: int = VERSION
    frame_count: int = 0


@dataclass(frozen=True)
class Packet:
    """One packet. index: of its frame (the end's: the number of frames). offset: bytes from the stream's start to it.

    run: how many intra frames came before the one it depends on (or is), as `stream_index` counts them.
    """

    index: int
    kind: int
    qp: int
    payload: bytes
    offset: int
    run: int

    @property
    def frame_type(self) -> str:
        """ "I", "P", "R" (inter with refresh) or "end"."""
        return FRAME_TYPES[self.kind]

    @property
    def bytes(self) -> int:
        """Of the packet whole."""
        return len(self.payload) + PACKET_OVERHEAD


def header_bytes(header: StreamHeader) -> bytes:
    """A header as it is written. Raises BitreelError where a field does not fit."""
    fmt = header.format
    if not possible_size(fmt.width, fmt.height):
        raise BitreelError(
            f"video size {fmt.width}x{fmt.height} is outside 1..{MAX_SIDE} a side, {MAX_PIXELS} pixels; scale it first"
        )
    fps = fmt.fps.limit_denominator(1_000_000)
    if not 0 < fps <= MAX_FPS:
        raise BitreelError(f"{float(fmt.fps):g} frames a second is outside 0..{MAX_FPS}")
    if not 1 <= header.segment_frames <= MAX_SEGMENT:
        raise BitreelError(f"segments of {header.segment_frames} frames are outside 1..{MAX_SEGMENT}")
    rest = _FIXED.pack(
        header.version,
        fmt.width,
        fmt.height,
        fps.numerator,
        fps.denominator,
        MATRICES.index(fmt.matrix) | (4 if fmt.full_range else 0),
        header.segment_frames,
        header.model_hash[:16],
        header.mark,
    )
    for name in (header.codec, header.model_name):
        stored = stored_name(name).encode()
        rest += bytes([len(stored)]) + stored
    return with_frame_count(MAGIC + bytes([len(rest)]) + rest + bytes(8), header.frame_count)


def with_frame_count(header: bytes, frames: int) -> bytes:
    """The same header with another frame count: what a writer that can seek puts in place at the end."""
    block = header[:-8] + struct.pack("<I", frames)
    return block + struct.pack("<I", zlib.crc32(block))


def read_header(read: Callable[[int], bytes], max_pixels: int = MAX_PIXELS) -> tuple[StreamHeader, bytes]:
    """A header and its bytes. `read` gives as many bytes as asked for, fewer only where there are no more.

    Raises StreamError where this is no .brl stream, it is damaged or of another version, or its pictures are larger
    than `max_pixels`.
    """
    start = read(5)
    if len(start) < 5 or start[:4] != MAGIC:
        raise StreamError("not a .brl stream (it does not start with BRL1)")
    length = start[4]
    rest = read(length + 8)
    if len(rest) < length + 8 or length < 1:
        raise StreamError("truncated .brl stream: it ends within its header")
    if rest[0] != VERSION:
        advice = "update bitreel" if rest[0] > VERSION else "encode the video anew"
        raise StreamError(f".brl version {rest[0]} is not known here (this is version {VERSION}); {advice}")
    frame_count, checksum = struct.unpack("<II", rest[-8:])
    if zlib.crc32(start + rest[:-4]) != checksum:
        raise StreamError("damaged .brl stream: the header's checksum does not hold")
    impossible = StreamError("damaged .brl stream: the header holds impossible values")
    if length < _FIXED.size + 2:
        raise impossible
    _, width, height, top, bottom, colour, segment, model_hash, mark = _FIXED.unpack_from(rest)
    codec, model_name = _names(rest[_FIXED.size : -8])
    if not (possible_size(width, height) and 0 < top <= MAX_FPS * bottom < 1 << 31):
        raise impossible
    if colour > 7 or colour & 3 > 2 or not 1 <= segment <= MAX_SEGMENT:
        raise impossible
    if width * height > max_pixels:
        raise StreamError(f"pictures of {width}x{height} are larger than the {max_pixels} pixels allowed here")
    fmt = VideoFormat(width, height, Fraction(top, bottom), MATRICES[colour & 3], bool(colour & 4))
    return StreamHeader(codec, model_name, model_hash, fmt, segment, mark, VERSION, frame_count), start + rest


def _names(data: bytes) -> tuple[str, str]:
    """Codec family and model name, which fill `data` exactly."""
    found: list[str] = []
    try:
        for _ in range(2):
            length = data[0]
            found.append(data[1 : 1 + length].decode())
            if length > MAX_NAME or len(data) < 1 + length:
                raise IndexError
            data = data[1 + length :]
        if data:
            raise IndexError
    except (IndexError, UnicodeDecodeError) as error:
        raise StreamError("damaged .brl stream: names in the header") from error
    return found[0], found[1]


def stored_name(name: str) -> str:
    """What a header keeps of a name: as many whole characters as fit."""
    return name.encode()[:MAX_NAME].decode(errors="ignore")


def possible_size(width: int, height: int) -> bool:
    """Whether a stream may hold pictures of this size."""
    return 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS


def stream_mark(first_packet: bytes) -> int:
    """What a header says of the stream's first packet, so that a packet of another stream does not fit behind it."""
    return zlib.crc32(first_packet[:-4])


def stream_checksum(header: bytes) -> int:
    """The CRC that the first packet's goes on from."""
    return zlib.crc32(header[:-8])


def packet_bytes(kind: int, qp: int, payload: bytes, checksum: int) -> tuple[bytes, int]:
    """A packet as it is written, and its CRC; `checksum` is that of the packet before.

    Raises BitreelError for a payload of 16 MiB or more.
    """
    if len(payload) > MAX_PAYLOAD:
        raise BitreelError(f"a frame takes {len(payload)} bytes; a .brl packet holds less than 16 MiB")
    block = bytes([kind << 6 | qp]) + len(payload).to_bytes(3, "little") + payload
    checksum = zlib.crc32(block, checksum)
    return block + struct.pack("<I", checksum), checksum
