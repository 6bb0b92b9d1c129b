"""Frames to .brl streams and back, for every codec: the container is written and checked here, and only here.

Both ways are generators that hold a bounded number of frames, whatever the video's length: encoding one segment (at
most 16 frames, which is also its delay), decoding one frame and no delay.
"""

from __future__ import annotations

import io
import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

from codec.container import (
    END,
    FRAME_TYPES,
    INTRA,
    Packet,
    StreamHeader,
    header_bytes,
    packet_bytes,
    stream_checksum,
    stream_mark,
    with_frame_count,
)
from codec.errors import BitreelError, StreamError, UsageError
from codec.frames import Frame, VideoFormat
from codec.stream_index import StreamIndex, add_frame
from codec.stream_reader import StreamReader

if TYPE_CHECKING:
    from codec.api import Codec

_HELD_BYTES = 1 << 24  # of packets, while it is not known whether they will be needed
QP_COUNT = 64  # QP 0 is the worst quality and the fewest bits, 63 the best


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode. qp 0..63; intra_period -1 means one intra frame; `field` False leaves the field out.

    For codecs with `steers_quality` only: QPs between whole ones; frame_qps, a QP for each frame in the place of `qp`,
    the last of them for all that follow; bits_per_frame, what frames shall take on average, beginning from `qp`.
    """

    qp: float
    intra_period: int = -1
    field: bool = True
    frame_qps: tuple[float, ...] = ()
    bits_per_frame: float | None = None

    def qp_of(self, frame: int) -> float:
        """The QP of a frame, counted from 0, where it does not follow from bits."""
        return self.frame_qps[min(frame, len(self.frame_qps) - 1)] if self.frame_qps else self.qp


@dataclass(frozen=True)
class CodedFrame:
    """What a codec makes of one frame. kind: INTRA, INTER or REFRESH of the container; qp 0..63.

    estimated_bits: what the model's own ideal distributions say of the payload; field_bytes: about those of its
    conditioning field or other per-segment side information. reconstruction: what a decoder will show.
    """

    kind: int
    qp: int
    payload: bytes
    estimated_bits: float
    reconstruction: Frame
    field_bytes: int = 0


@dataclass(frozen=True)
class FrameReport:
    """One coded frame: its place, type ("I", "P", or "R" for an inter frame with refresh), QP, bytes in the file
    (packet header included), payload bytes, the bits that the model's own ideal distributions estimate for that
    payload, and about how many bytes of it are the field's."""

    index: int
    frame_type: str
    qp: int
    bytes: int
    payload_bytes: int
    estimated_bits: float
    field_bytes: int = 0


@dataclass(frozen=True)
class EncodedChunk:
    """The next bytes of a stream: a frame's packet, or the header or the end packet, which have no report and frame.

    Written one after another the chunks are the stream. reconstruction: the frame that a decoder will show.
    """

    data: bytes
    report: FrameReport | None = None
    reconstruction: Frame | None = None


@dataclass
class StreamReport:
    """A finished stream: bytes of the file, of its header, about those of the field within the packets; its frames."""

    bytes: int = 0
    header_bytes: int = 0
    field_bytes: int = 0
    frames: list[FrameReport] = field(default_factory=list)


def encode_stream(
    codec: Codec, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions
) -> Iterator[EncodedChunk]:
    """See `Codec.encode_stream`."""
    _check_quality(codec, options)
    if options.intra_period == 0 or options.intra_period < -1:
        raise UsageError(f"intra period {options.intra_period}: give -1 (one intra frame) or a number of frames")
    source = iter(frames)
    first = next(source, None)
    if first is None:
        raise UsageError("the video has no frames to encode")
    _check_finite(codec)
    name, model_hash = codec.display_name, codec.model_hash()[:16]
    header = StreamHeader(codec.family, name, model_hash, fmt, codec.segment_frames)
    header_bytes(header)  # refuses what does not fit before anything is coded
    index, offset, checksum = StreamIndex(), 0, 0
    for coded in codec.encode_frames(_of_one_size(chain([first], source), fmt), fmt, options):
        number = index.frames
        if number == 0:
            block = header_bytes(replace(header, mark=stream_mark(_packet(coded, number, 0)[0])))
            offset, checksum = len(block), stream_checksum(block)
            yield EncodedChunk(block)
        if coded.kind == INTRA:
            index.begin(number, offset)
        block, checksum = _packet(coded, number, checksum)
        index.checksums[-1] = add_frame(index.checksums[-1], coded.reconstruction)
        index.frames, offset = number + 1, offset + len(block)
        kind, size = FRAME_TYPES[coded.kind], len(coded.payload)
        report = FrameReport(number, kind, coded.qp, len(block), size, coded.estimated_bits, coded.field_bytes)
        yield EncodedChunk(block, report, coded.reconstruction)
    yield EncodedChunk(packet_bytes(END, 0, index.to_bytes(), checksum)[0])


def _check_quality(codec: Codec, options: EncodeOptions) -> None:
    for qp in (options.qp, *options.frame_qps):
        if not 0 <= qp <= QP_COUNT - 1:
            raise UsageError(f"QP {qp:g} is outside 0..{QP_COUNT - 1}")
    if options.bits_per_frame is not None and not 0 < options.bits_per_frame < math.inf:
        raise UsageError(f"{options.bits_per_frame:g} bits a frame: must be above 0")
    if options.frame_qps and options.bits_per_frame is not None:
        raise UsageError("give either a QP for each frame or bits a frame, not both")
    if not codec.steers_quality:
        if options.qp != int(options.qp):
            raise UsageError(f"QP {options.qp:g}: codec '{codec.family}' takes whole QPs only")
        if options.frame_qps or options.bits_per_frame is not None:
            raise UsageError(
                f"codec '{codec.family}' codes all frames at one QP: it takes no bitrate and no QPs by frame; "
                "models of 'dcvc-fm' do"
            )


def _packet(coded: CodedFrame, number: int, checksum: int) -> tuple[bytes, int]:
    try:
        return packet_bytes(coded.kind, coded.qp, coded.payload, checksum)
    except BitreelError as error:
        raise BitreelError(f"frame {number}: {error}") from error


def write_chunks(
    chunks: Iterable[EncodedChunk], sink: BinaryIO, count_in_header: bool = True
) -> Iterator[EncodedChunk]:
    """Write chunks as they come, and hand each on.

    At the end, a sink that can seek gets the frame count into its header. Without `count_in_header` it does not: what
    was opened for appending by somebody else looks like any other file.
    """
    appending = "a" in str(getattr(sink, "mode", ""))
    start = sink.tell() if count_in_header and sink.seekable() and not appending else None
    header, frames = b"", 0
    for chunk in chunks:
        sink.write(chunk.data)
        header, frames = header or chunk.data, frames + (chunk.report is not None)
        yield chunk
    if start is not None:
        sink.seek(start)
        sink.write(with_frame_count(header, frames))
        sink.seek(0, io.SEEK_END)


def write_stream(
    chunks: Iterable[EncodedChunk], sink: BinaryIO, on_frame: Callable[[FrameReport, Frame], None] | None = None
) -> StreamReport:
    """See `Codec.encode`."""
    report = StreamReport()
    for chunk in write_chunks(chunks, sink):
        report.header_bytes = report.header_bytes or len(chunk.data)
        report.bytes += len(chunk.data)
        if chunk.report is None or chunk.reconstruction is None:
            continue
        report.frames.append(chunk.report)
        report.field_bytes += chunk.report.field_bytes
        if on_frame is not None:
            on_frame(chunk.report, chunk.reconstruction)
    return report


def decode_stream(
    codec: Codec, reader: StreamReader, from_frame: int = 0, frames: int | None = None
) -> Iterator[Frame]:
    """See `Codec.decode`."""
    _check_model(codec, reader.header)
    if from_frame < 0 or (frames is not None and frames < 1):
        raise UsageError(f"from frame {from_frame}, {frames} frames: give 0 and more, 1 and more")
    _check_reached(from_frame, reader.frame_count, "")
    last = from_frame + frames - 1 if frames is not None else None
    packets = _needed(reader.packets(from_frame), from_frame, last)
    first = next(packets, None)  # its checksum holds before anything of the size that the header claims is allocated
    runs = _Runs(reader)
    taken: deque[Packet] = deque()

    def tapped(first: Packet) -> Iterator[Packet]:
        for packet in chain([first], packets):
            taken.append(packet)
            yield packet

    if first is not None:
        for frame in codec.decode_frames(tapped(first), reader.header):
            packet = taken.popleft()
            if codec.exact_frames:
                runs.add(packet, frame)
            if packet.index >= from_frame:
                yield frame
    if reader.finished and codec.exact_frames:
        runs.check_all()
    _check_reached(from_frame, reader.frames_met, "" if reader.finished else " so far")


def _check_finite(codec: Codec) -> None:
    for name, parameter in codec.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise BitreelError(f"the model's weights are not finite ({name}): the training that made them diverged")


def _check_model(codec: Codec, header: StreamHeader) -> None:
    if header.codec != codec.family or header.model_hash != codec.model_hash()[:16]:
        raise StreamError(
            f"this stream was made by model '{header.model_name}' ({header.codec}, {header.model_hash.hex()[:12]}), "
            f"not by '{codec.display_name}' ({codec.model_hash().hex()[:12]}); give that model with --model"
        )
    if header.segment_frames != codec.segment_frames:
        raise StreamError("damaged .brl stream: its segment length is not the model's")


def _check_reached(from_frame: int, frames: int | None, so_far: str) -> None:
    if from_frame and frames is not None and from_frame >= frames:
        raise UsageError(f"frame {from_frame} is past the stream's end: it has {frames} frames{so_far}")


def _needed(packets: Iterator[Packet], from_frame: int, last: int | None) -> Iterator[Packet]:
    """Of packets, those that frames `from_frame` to `last` depend on.

    Packets before `from_frame` are held until a later run makes them needless; should they become too many, they are
    decoded instead.
    """
    held: list[Packet] = []
    size, run = 0, -1
    for packet in packets:
        if packet.kind == END:
            break
        if packet.run != run and packet.index <= from_frame:
            held, size, run = [], 0, packet.run
        held.append(packet)
        size += packet.bytes
        if packet.index >= from_frame or size > _HELD_BYTES:
            yield from held
            held, size = [], 0
        if packet.index == last:
            return


class _Runs:
    """CRC-32 of each run's frames as they are decoded, held against the index as soon as that is known."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._runs, self._sums = array("I"), array("I")  # of whole runs that can't be checked yet
        self._run, self._sum, self._next = -1, 0, 0

    def add(self, packet: Packet, frame: Frame) -> None:
        """A decoded frame. Raises StreamError where it completes a run that is not as the encoder saw it."""
        if packet.run != self._run:
            self._keep(packet.index)
            self._run, self._sum = packet.run, 0
        self._sum = add_frame(self._sum, frame)
        self._next = packet.index + 1
        index = self._reader.index
        if index is not None and index.last_frame(packet.run) == packet.index:
            self._check(index, packet.run, self._sum)
            self._run = -1

    def check_all(self) -> None:
        """The stream has ended and its index is known: check what is left."""
        index = self._reader.index
        assert index is not None
        self._keep(index.frames)
        for run, checksum in zip(self._runs, self._sums, strict=True):
            self._check(index, run, checksum)

    def _keep(self, following: int) -> None:
        """The run so far is over; it is whole where the frame that follows in the stream is the next to come."""
        if self._run >= 0 and following == self._next:
            self._runs.append(self._run)
            self._sums.append(self._sum)

    @staticmethod
    def _check(index: StreamIndex, run: int, checksum: int) -> None:
        if checksum != index.checksums[run]:
            first, last = index.starts[run], index.last_frame(run)
            raise StreamError(
                f"the decoded frames {first} to {last} are not those the encoder saw: their checksum differs"
            )


def _of_one_size(frames: Iterable[Frame], fmt: VideoFormat) -> Iterator[Frame]:
    for index, frame in enumerate(frames):
        if (frame.width, frame.height) != (fmt.width, fmt.height):
            raise UsageError(f"frame {index} is {frame.width}x{frame.height}, the video {fmt.width}x{fmt.height}")
        yield frame
