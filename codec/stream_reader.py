"""Reading a .brl container front to back, from a file or a pipe, also while it is still being written."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from codec.container import (
    END,
    INTRA,
    MAX_FRAMES,
    MAX_PAYLOAD,
    MAX_PIXELS,
    PACKET_OVERHEAD,
    Packet,
    read_header,
    stream_checksum,
)
from codec.errors import StreamError
from codec.stream_index import MAX_RUNS, StreamIndex

_CHUNK = 1 << 16  # so that a forged length allocates no more than there are bytes


class StreamReader:
    """A stream whose header has been read; `packets` gives the rest, once.

    header: what the stream says of itself. index: from the end packet, None while that is not known: a source that can
    seek is asked for it at once, any other gives it last. finished: whether the end packet was met.

    follow: called where the source has no more bytes though the stream is unfinished, as of a growing file; True means
    to look again, False to give up. Giving up, the packets simply end; without `follow` they end in a StreamError.
    max_pixels: refuse larger pictures. Raises StreamError where the header is damaged or of another version.
    """

    def __init__(
        self, source: BinaryIO, follow: Callable[[], bool] | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._source, self._follow = source, follow
        self._seekable = _can_seek(source)
        self._origin = source.tell() if self._seekable else 0
        self.header, block = read_header(self._take, max_pixels)
        self.header_bytes = len(block)
        self.finished = self._begun = False
        self._offset, self._checksum = len(block), stream_checksum(block)
        self._frame, self._run = 0, -1
        self._seen = StreamIndex()
        self.index = self._find_index() if self._seekable else None
        self._check_header_count()

    @property
    def frame_count(self) -> int | None:
        """Frames of the stream, as far as it is known already."""
        return self.index.frames if self.index else self.header.frame_count or None

    @property
    def frames_met(self) -> int:
        """The number of the frame that a next packet would have."""
        return self._frame - self.finished

    def packets(self, from_frame: int = 0) -> Iterator[Packet]:
        """Every packet, the end packet last; from the intra frame at or before `from_frame` where the index is known.

        Raises StreamError where a packet is damaged, out of place, or the stream stops before its end packet.
        """
        if self._begun:
            raise ValueError("a reader gives its packets once; open the stream anew")
        self._begun = True
        if self.index is not None and from_frame > 0:
            self._jump(self.index, self.index.run_of(from_frame))
        while not self.finished:
            packet = self._next()
            if packet is None:
                return
            yield packet

    def _next(self) -> Packet | None:
        """The packet that comes now; None where there is no more of it and nobody minds."""
        start = self._take(4)
        length = int.from_bytes(start[1:], "little")
        rest = self._take(length + 4) if len(start) == 4 else b""
        if len(start) < 4 or len(rest) < length + 4:
            if self._follow is not None:
                return None
            where = f"within frame {self._frame}" if start else f"after {self._frame} whole frames"
            raise StreamError(
                f"truncated .brl stream: it ends {where}, without its end mark; copy it anew, or take what is "
                "there (--follow 0; follow= in Python)"
            )
        payload = rest[:-4]
        checksum = zlib.crc32(payload, zlib.crc32(start, self._checksum))
        if checksum != struct.unpack("<I", rest[-4:])[0]:
            advice = f"; copy it anew{self._way_past()}"
            what = "its end packet" if start[0] >> 6 == END else f"frame {self._frame}"
            raise StreamError(f"damaged .brl stream: the checksum of {what} does not hold{advice}")
        kind, qp = start[0] >> 6, start[0] & 63
        packet = self._packet(kind, qp, payload)
        self._checksum = checksum
        self._offset += packet.bytes
        self._frame += 1
        return packet

    def _way_past(self) -> str:
        """Where decoding can begin behind the frame that comes now."""
        following = (
            [s for s in self.index.starts[self._run + 1 : self._run + 3] if s > self._frame] if self.index else []
        )
        return f", or begin behind the damage, from frame {following[0]}" if following else ""

    def _packet(self, kind: int, qp: int, payload: bytes) -> Packet:
        if (not self._seen.starts and kind != INTRA) or self._frame >= MAX_FRAMES:
            raise StreamError(f"damaged .brl stream: frame {self._frame} is of an impossible kind")
        if kind == INTRA and self._run + 1 < MAX_RUNS:
            self._run += 1
            self._seen.begin(self._frame, self._offset)
            self._check_place()
        packet = Packet(self._frame, kind, qp, payload, self._offset, self._run)
        if kind == END:
            self._finish(packet)
        elif self.index is not None and self._frame >= self.index.frames:
            raise StreamError(f"damaged .brl stream: more frames than the {self.index.frames} its end mark counts")
        return packet

    def _finish(self, packet: Packet) -> None:
        """Hold the end packet against what was read. The index's checksums are the decoder's to verify."""
        index = StreamIndex.from_bytes(packet.payload, self.header_bytes, packet.offset)
        if index.frames != packet.index or packet.qp:
            raise StreamError(f"damaged .brl stream: {packet.index} frames where its end mark counts {index.frames}")
        known = len(self._seen.starts)
        if len(index.starts) != self._run + 1 or (
            (index.starts[-known:], index.offsets[-known:]) != (self._seen.starts, self._seen.offsets)
        ):
            raise StreamError("damaged .brl stream: its index is not that of its intra frames")
        self.index, self.finished = index, True
        self._check_header_count()
        if self._source.read(1):
            raise StreamError("damaged .brl stream: there are bytes after its end mark")

    def _check_place(self) -> None:
        if self.index is None:
            return
        place = (self._frame, self._offset)
        if self._run >= len(self.index.starts) or place != (
            self.index.starts[self._run],
            self.index.offsets[self._run],
        ):
            raise StreamError(f"damaged .brl stream: its index does not know of intra frame {self._frame}")

    def _check_header_count(self) -> None:
        if self.index is not None and self.header.frame_count not in (0, self.index.frames):
            raise StreamError(
                f"damaged .brl stream: {self.index.frames} frames where its header counts {self.header.frame_count}"
            )

    def _jump(self, index: StreamIndex, run: int) -> None:
        """Go on at a run's first packet."""
        if run == 0:
            return
        self._source.seek(self._origin + index.offsets[run] - 4)
        before = self._take(4)
        self._checksum = int.from_bytes(before, "little")
        self._offset, self._frame, self._run = index.offsets[run], index.starts[run], run - 1

    def _find_index(self) -> StreamIndex | None:
        """Read the end packet from the source's end; None where no sound one is there (yet)."""
        back = self._source.tell()
        try:
            size = self._source.seek(0, io.SEEK_END) - self._origin
            if size < self.header_bytes + 3 * PACKET_OVERHEAD:
                return None
            self._source.seek(self._origin + size - 8)
            length = int.from_bytes(self._source.read(4), "little")
            place = size - length - PACKET_OVERHEAD
            if length > MAX_PAYLOAD or place < self.header_bytes + PACKET_OVERHEAD:
                return None
            self._source.seek(self._origin + place - 4)
            before = int.from_bytes(self._source.read(4), "little")
            block = self._source.read(length + 4)
            checksum = self._source.read(4)
            if block[:4] != bytes([END << 6]) + length.to_bytes(3, "little"):
                return None
            if zlib.crc32(block, before) != int.from_bytes(checksum, "little"):
                return None
            return StreamIndex.from_bytes(block[4:], self.header_bytes, place)
        except StreamError:
            return None  # reading front to back will say which frame is wrong
        finally:
            self._source.seek(back)

    def _take(self, count: int) -> bytes:
        """So many bytes, fewer only where the source has no more and following it was given up."""
        parts: list[bytes] = []
        while count:
            part = self._source.read(min(count, _CHUNK))
            if part:
                parts.append(part)
                count -= len(part)
            elif self._follow is None or not self._follow():
                break
        return b"".join(parts)


def _can_seek(source: BinaryIO) -> bool:
    try:
        return source.seekable()
    except AttributeError:
        return False
