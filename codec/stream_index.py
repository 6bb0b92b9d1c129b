"""What the end packet of a .brl stream says: the frame count, and where the intra frames are.

An intra frame begins a run, which goes up to the next one: nothing in a run depends on anything before it. Of each run
the index holds its first frame's number, that packet's place, and a CRC-32 over all decoded planes (Y, U, V of each
frame in turn, original size), so that a decoder that got every symbol right can know that it did.

Payload: v frame count | v further runs | u32 CRC of the first run
         | for each further run: v frame number less the one before | v place less the one before | u32 CRC
         | u32 length of this payload
v is an unsigned number in groups of 7 bits, lowest first, bit 7 set in all bytes but the last; at most 9 bytes. The
first run begins with frame 0 right after the header. The length stands last so that a reader that can seek finds the
packet from the stream's end. Intra frames beyond 2^19 belong to the last run, which bounds the index.
"""

from __future__ import annotations

import struct
import zlib
from array import array

from codec.container import MAX_FRAMES, PACKET_OVERHEAD
from codec.errors import StreamError
from codec.frames import Frame

MAX_RUNS = 1 << 19
_LONGEST_NUMBER = 9  # bytes, 63 bits


class StreamIndex:
    """Frame count and runs; grows while a stream is written or read, 20 bytes a run.

    starts: number of each run's first frame; offsets: bytes from the stream's start to that frame's packet;
    checksums: of each run's planes.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.starts, self.offsets, self.checksums = array("Q"), array("Q"), array("I")

    def begin(self, frame: int, offset: int) -> None:
        """An intra frame begins a run, unless there are too many already."""
        if len(self.starts) < MAX_RUNS:
            self.starts.append(frame)
            self.offsets.append(offset)
            self.checksums.append(0)

    def run_of(self, frame: int) -> int:
        """The run that a frame belongs to."""
        low, high = 0, len(self.starts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.starts[middle] <= frame else (low, middle)
        return low

    def last_frame(self, run: int) -> int:
        """The number of a run's last frame."""
        return (self.starts[run + 1] if run + 1 < len(self.starts) else self.frames) - 1

    def to_bytes(self) -> bytes:
        """The end packet's payload."""
        parts = [_number(self.frames), _number(len(self.starts) - 1), struct.pack("<I", self.checksums[0])]
        for run in range(1, len(self.starts)):
            parts.append(_number(self.starts[run] - self.starts[run - 1]))
            parts.append(_number(self.offsets[run] - self.offsets[run - 1]))
            parts.append(struct.pack("<I", self.checksums[run]))
        payload = b"".join(parts)
        return payload + struct.pack("<I", len(payload) + 4)

    @staticmethod
    def from_bytes(payload: bytes, first: int, end: int) -> StreamIndex:
        """Read an end packet's payload. first, end: places of the first packet and of the end packet.

        Raises StreamError where the numbers can't be those of such a stream; what it allocates, the payload paid for.
        """
        broken = StreamError("damaged .brl stream: the index in its end mark is impossible")
        if len(payload) < 10 or int.from_bytes(payload[-4:], "little") != len(payload):
            raise broken
        body, index = payload[:-4], StreamIndex()
        try:
            index.frames, at = _take_number(body, 0)
            further, at = _take_number(body, at)
            if not 1 <= index.frames <= MAX_FRAMES or further >= min(index.frames, MAX_RUNS) or further * 6 > len(body):
                raise broken
            frame, offset = 0, first
            for run in range(further + 1):
                if run:
                    frames, at = _take_number(body, at)
                    distance, at = _take_number(body, at)
                    if not frames or distance < frames * PACKET_OVERHEAD:
                        raise broken
                    frame, offset = frame + frames, offset + distance
                if frame >= index.frames or offset + (index.frames - frame) * PACKET_OVERHEAD > end:
                    raise broken
                index.begin(frame, offset)
                index.checksums[run] = struct.unpack_from("<I", body, at)[0]
                at += 4
        except (struct.error, IndexError) as error:
            raise broken from error
        if at != len(body):
            raise broken
        return index


def add_frame(checksum: int, frame: Frame) -> int:
    """A run's CRC with one more frame."""
    for plane in frame.planes:
        checksum = zlib.crc32(plane.data if plane.flags.c_contiguous else plane.tobytes(), checksum)
    return checksum


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _take_number(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place after it. Raises IndexError where it does not end."""
    value = 0
    for place in range(_LONGEST_NUMBER):
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise IndexError("a number of too many bytes")
