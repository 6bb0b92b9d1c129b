"""Ways to damage a .brl stream, and the judgement of what decoding it came to.

Plain damage leaves checksums as they were: a decoder must notice every changed byte before it shows a frame that
depends on it. Forgery puts every checksum right again, so that what lies behind the checksums meets garbage: it must
neither crash nor hang nor swell, and what it decodes wrongly is noticed at the run's end at the latest.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from codec.api import Codec
from codec.container import END, INTRA, packet_bytes, stream_checksum, with_frame_count
from codec.errors import StreamError, UsageError
from codec.frames import Frame
from codec.stream_index import StreamIndex
from codec.stream_reader import StreamReader

Packets = list[tuple[int, bytes]]  # first byte (kind and QP) and payload of each packet, the end packet last


@dataclass(frozen=True)
class Sample:
    """A sound stream, its frames as bytes, and two strangers: of the same model and size, and of another model."""

    data: bytes
    frames: list[bytes]
    sibling: bytes
    stranger: bytes


@dataclass(frozen=True)
class Verdict:
    """outcome: see `judge`. bad: whether it is one that must never be. said: the error, if any."""

    outcome: str
    bad: bool
    said: str = ""


@dataclass
class Reading:
    """How a mutated stream is read. seekable: as a file, otherwise as a pipe. follow: as a file that may yet grow."""

    seekable: bool = True
    from_frame: int = 0
    follow: bool = False
    max_pixels: int = 1 << 16
    shown: list[bytes] = field(default_factory=list)


class Pipe(io.BytesIO):
    """Bytes that can't be sought."""

    def seekable(self) -> bool:
        return False


def parsed(data: bytes) -> tuple[bytes, Packets]:
    """Header and packets of a sound stream."""
    at = 5 + data[4] + 8
    header, packets = data[:at], []
    while at < len(data):
        length = int.from_bytes(data[at + 1 : at + 4], "little")
        packets.append((data[at], data[at + 4 : at + 4 + length]))
        at += 8 + length
    return header, packets


def joined(header: bytes, packets: Packets) -> bytes:
    """A stream of these packets under right checksums."""
    header = with_frame_count(header, int.from_bytes(header[-8:-4], "little"))
    checksum = stream_checksum(header)
    blocks = [header]
    for first, payload in packets:
        block, checksum = packet_bytes(first >> 6, first & 63, payload, checksum)
        blocks.append(block)
    return b"".join(blocks)


def resealed(header: bytes, packets: Packets) -> bytes:
    """As `joined`, and the index tells where the intra frames lie now; what it says of their planes stays."""
    *frames, (_, last) = packets
    old = StreamIndex.from_bytes(last, 0, 1 << 60)
    index, offset = StreamIndex(), len(header)
    for number, (first, payload) in enumerate(frames):
        if first >> 6 == INTRA:
            index.begin(number, offset)
            run = len(index.starts) - 1
            index.checksums[run] = old.checksums[min(run, len(old.checksums) - 1)]
        offset += 8 + len(payload)
    index.frames = len(frames)
    if not index.starts:
        index.begin(0, len(header))
    return joined(header, [*frames, (END << 6, index.to_bytes())])


# -- plain damage ----------------------------------------------------------------------------------------------------


def _flip_bit(sample: Sample, random: Random) -> bytes:
    data = bytearray(sample.data)
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _change_bytes(sample: Sample, random: Random) -> bytes:
    data = bytearray(sample.data)
    for _ in range(random.choice((1, 2, 5, 50))):
        data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data)


def _overwrite(sample: Sample, random: Random) -> bytes:
    start = random.randrange(len(sample.data))
    end = min(len(sample.data), start + random.randint(2, 200))
    new = random.choice((random.randbytes(end - start), bytes(end - start), b"\xff" * (end - start)))
    return sample.data[:start] + new + sample.data[end:]


def _cut(sample: Sample, random: Random) -> bytes:
    return sample.data[: random.randrange(len(sample.data))]


def _insert_or_remove(sample: Sample, random: Random) -> bytes:
    at, count = random.randrange(len(sample.data)), random.choice((1, 2, 4, 8, 40))
    if random.random() < 0.5:
        return sample.data[:at] + random.randbytes(count) + sample.data[at:]
    return sample.data[:at] + sample.data[at + count :]


def _rearrange(sample: Sample, random: Random) -> bytes:
    """Whole packets swapped, dropped or repeated, bytes as they were."""
    blocks = _blocks(sample.data)
    at, other = random.randrange(1, len(blocks)), random.randrange(1, len(blocks))
    kind = random.randrange(3)
    if kind == 0:
        blocks[at], blocks[other] = blocks[other], blocks[at]
    elif kind == 1:
        del blocks[at]
    else:
        blocks.insert(other, blocks[at])
    return b"".join(blocks)


def _splice(sample: Sample, random: Random) -> bytes:
    """A packet, or everything from a packet on, of another stream, as it stands there."""
    other = random.choice((sample.sibling, sample.stranger))
    blocks, others = _blocks(sample.data), _blocks(other)
    if random.random() < 0.5:
        at = random.randrange(min(len(blocks), len(others)))
        return b"".join([*blocks[:at], others[at], *blocks[at + 1 :]])
    # The sibling's header is the same: without a packet of our own it would simply be the sibling.
    at = random.randrange(2 if other is sample.sibling else 0, min(len(blocks), len(others)))
    return b"".join(blocks[:at] + others[at:])


def _random_bytes(sample: Sample, random: Random) -> bytes:
    start = random.choice((b"", b"BRL1", sample.data[:6], _blocks(sample.data)[0]))
    return start + random.randbytes(random.choice((0, 1, 10, 100, 1000)))


def _blocks(data: bytes) -> list[bytes]:
    header, packets = parsed(data)
    at, blocks = len(header), [header]
    for _, payload in packets:
        blocks.append(data[at : at + 8 + len(payload)])
        at += 8 + len(payload)
    return blocks


# -- forgery ---------------------------------------------------------------------------------------------------------


def _forge_payload(sample: Sample, random: Random) -> bytes:
    header, packets = parsed(sample.data)
    at = random.randrange(len(packets) - 1)
    payload = bytearray(packets[at][1])
    kind = random.randrange(6)
    if kind == 0 and payload:
        for _ in range(random.choice((1, 1, 3, 20))):
            payload[random.randrange(len(payload))] ^= 1 << random.randrange(8)
    elif kind == 1:
        payload = bytearray(random.randbytes(random.randrange(2 * len(payload) + 2)))
    elif kind == 2:
        payload = payload[: random.randrange(len(payload) + 1)]
    elif kind == 3:
        payload = bytearray(bytes([random.choice((0, 255))]) * random.choice((0, 1, 4, len(payload), 100_000)))
    elif kind == 4:
        payload = bytearray(packets[random.randrange(len(packets))][1])
    else:
        payload += random.randbytes(random.choice((1, 4, 1000)))
    packets[at] = packets[at][0], bytes(payload)
    return resealed(header, packets)


def _forge_kind(sample: Sample, random: Random) -> bytes:
    header, packets = parsed(sample.data)
    at = random.randrange(len(packets) - 1)
    packets[at] = random.randrange(256), packets[at][1]
    return random.choice((joined, resealed))(header, packets)


def _forge_order(sample: Sample, random: Random) -> bytes:
    """Packets of this or another stream in any order."""
    header, packets = parsed(sample.data)
    pool = [*packets[:-1], *parsed(random.choice((sample.sibling, sample.stranger)))[1][:-1]]
    chosen = [random.choice(pool) for _ in range(random.randint(1, 2 * len(packets)))]
    return resealed(header, [*chosen, packets[-1]])


def _forge_length(sample: Sample, random: Random) -> bytes:
    """A packet of another length than it was written with; the checksum is put where that says it is."""
    header, packets = parsed(sample.data)
    at = random.randrange(len(packets))
    before = joined(header, packets[:at])
    rest = sample.data[len(before) + 4 :]
    right = len(packets[at][1])
    length = random.choice((0, 1, max(0, right - 1), right + 1, right + 8, (1 << 24) - 1, random.randrange(1 << 24)))
    checksum = int.from_bytes(before[-4:], "little") if at else stream_checksum(header)
    block, _ = packet_bytes(packets[at][0] >> 6, packets[at][0] & 63, rest[:length], checksum)
    head = block[:1] + length.to_bytes(3, "little")
    return before + head + block[4:] + rest[length + 4 :]


def _forge_count(sample: Sample, random: Random) -> bytes:
    """Frame count of the header, or numbers of the index."""
    header, packets = parsed(sample.data)
    if random.random() < 0.3:
        return (
            with_frame_count(header, random.choice((0, 1, 1 << 31, random.randrange(1 << 32))))
            + sample.data[len(header) :]
        )
    end = bytearray(packets[-1][1])
    kind = random.randrange(3)
    if kind == 0:
        end[random.randrange(len(end))] = random.choice((0, 127, 128, 255, random.randrange(256)))
    elif kind == 1:
        end = bytearray(b"\xff" * random.randint(1, 9) + b"\x7f") + end[1:]
    else:
        end = bytearray(random.randbytes(random.randrange(60)))
    if random.random() < 0.8:
        end[-4:] = len(end).to_bytes(4, "little") if len(end) >= 4 else end[-4:]
    return joined(header, [*packets[:-1], (END << 6, bytes(end))])


def _forge_header(sample: Sample, random: Random) -> bytes:
    """Any byte of the header but the size of the pictures."""
    header, packets = parsed(sample.data)
    forged = bytearray(header)
    places = [at for at in range(len(header) - 4) if not 6 <= at < 10]
    forged[random.choice(places)] = random.randrange(256)
    if forged[4] != header[4]:  # another length: checksums where that says they are
        return bytes(forged) + joined(header, packets)[len(header) :]
    return joined(bytes(forged), packets)


def _forge_size(sample: Sample, random: Random) -> bytes:
    """Pictures of another size: as far as a reader can tell, simply another stream."""
    header, packets = parsed(sample.data)
    forged = bytearray(header)
    sides = [random.choice((0, 1, 16, 33, 64, 127, 1000, 16384, random.randrange(1 << 16))) for _ in range(2)]
    forged[6:10] = b"".join(side.to_bytes(2, "little") for side in sides)
    return joined(bytes(forged), packets)


Mutation = Callable[[Sample, Random], bytes]
DAMAGE: dict[str, Mutation] = {
    "bit flipped": _flip_bit,
    "bytes changed": _change_bytes,
    "stretch overwritten": _overwrite,
    "cut off": _cut,
    "bytes inserted or removed": _insert_or_remove,
    "packets swapped, dropped, repeated": _rearrange,
    "spliced with another stream": _splice,
    "random bytes": _random_bytes,
}
FORGERY: dict[str, Mutation] = {
    "payload forged": _forge_payload,
    "kind and QP forged": _forge_kind,
    "packets reordered and mixed, forged": _forge_order,
    "length forged": _forge_length,
    "counts and index forged": _forge_count,
    "header forged": _forge_header,
}
LARGER: dict[str, Mutation] = {"size of pictures forged": _forge_size}


def judge(codec: Codec, sample: Sample, data: bytes, reading: Reading, forged: bool) -> Verdict:
    """Decode a mutated stream.

    refused: a StreamError, and every frame before it right. refused late: a forgery decoded wrongly, and noticed at
    the run's end. harmless: the right frames, which a forgery may leave, and damage where it was not read. given up:
    the bytes ended and following them was given up, as asked for; frames are right, but for a forger's.
    Bad: UNNOTICED, WRONG FRAME (before damage was noticed), CRASH.
    """
    source = io.BytesIO(data) if reading.seekable else Pipe(data)
    error: BaseException | None = None
    finished = False
    try:
        reader = StreamReader(source, (lambda: False) if reading.follow else None, reading.max_pixels)
        for frame in codec.decode(reader, reading.from_frame):
            reading.shown.append(frame.to_bytes())
        finished = reader.finished
    except (StreamError, UsageError) as refused:
        error = refused
    except TimeoutError:
        raise
    except BaseException as crash:  # a panic of a compiled library is no Exception
        if isinstance(crash, KeyboardInterrupt | SystemExit):
            raise
        return Verdict("CRASH", True, f"{type(crash).__name__}: {crash}")
    expected = sample.frames[reading.from_frame :]
    right = reading.shown == expected[: len(reading.shown)]
    said = "" if error is None else str(error)
    if error is not None:
        if right:
            return Verdict("refused", False, said)
        return Verdict("refused late", False, said) if forged else Verdict("WRONG FRAME", True, said)
    if right and len(reading.shown) == len(expected):
        unread = forged or reading.from_frame > 0 or (reading.follow and not finished)
        return Verdict("harmless", False) if unread else Verdict("UNNOTICED", True)
    if (right or forged) and reading.follow and not finished:
        return Verdict("given up", False)
    return Verdict("UNNOTICED", True)


def frames_bytes(frames: list[Frame]) -> list[bytes]:
    """Each frame's planes as bytes."""
    return [frame.to_bytes() for frame in frames]
