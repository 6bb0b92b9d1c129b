"""Does a video file hold all the bytes that its own container promises? Read from the structure, not by decoding.

A copy that broke off halfway often still opens and decodes for a while; the sizes written in its head tell.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from codec.errors import VideoError

_MATROSKA_MAGIC = b"\x1a\x45\xdf\xa3"
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
_MP4_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}


def check_container(path: Path) -> None:
    """Raise VideoError where a file is shorter than its container says (mp4/mov, mkv/webm, avi, y4m).

    Formats without such a promise (raw streams, MPEG-TS) pass.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(12)
        if head[4:8] in _MP4_FIRST_BOXES:
            promised, whole = _mp4_bytes(handle, size)
        elif head[:4] == _MATROSKA_MAGIC:
            promised, whole = _matroska_bytes(handle), True
        elif head[:9] == b"YUV4MPEG2":
            promised, whole = _y4m_bytes(handle, size), True
        elif head[:4] == b"RIFF":
            promised, whole = int.from_bytes(head[4:8], "little") + 8, True
        else:
            return
    if promised > size:
        raise VideoError(f"{path}: truncated: {size} bytes of at least {promised}; copy it anew")
    if not whole:
        raise VideoError(f"{path}: truncated: its index (the moov box) is missing; copy it anew")


def _mp4_bytes(handle: BinaryIO, size: int) -> tuple[int, bool]:
    """Where the last top-level box says it ends, and whether an index was seen."""
    position, indexed = 0, False
    while position + 8 <= size:
        handle.seek(position)
        head = handle.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # "to the end of the file"
            length = size - position
        if length < 8 or not all(32 <= c < 127 or c == 0xA9 for c in kind):
            return position, indexed  # padding after the last box; some writers leave it
        indexed |= kind in (b"moov", b"moof")
        position += length
    return position, indexed


def _matroska_bytes(handle: BinaryIO) -> int:
    """Where the segment says it ends; 0 where it leaves that open (live streams)."""
    handle.seek(4)
    length, _ = _vint(handle)
    handle.seek(length, os.SEEK_CUR)
    if handle.read(4) != _MATROSKA_SEGMENT:
        return 0
    length, unknown = _vint(handle)
    return 0 if unknown else handle.tell() + length


def _y4m_bytes(handle: BinaryIO, size: int) -> int:
    """Where the last frame that has begun would end; 0 for sample layouts not known here."""
    handle.seek(0)
    head = handle.readline(4096)
    tags = {token[:1]: token[1:].decode("ascii", "replace") for token in reversed(head.split()[1:])}
    layout, _, depth = tags.get(b"C", "420jpeg").partition("p")
    try:
        width, height = int(tags[b"W"]), int(tags[b"H"])
        across, down = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "411": (4, 1)}[layout[:3]]
    except (KeyError, ValueError):
        return 0
    chroma = -(-width // across) * -(-height // down)
    frame = (width * height + 2 * chroma) * (2 if depth.isdecimal() and int(depth) > 8 else 1)
    position = len(head)
    while position < size:
        handle.seek(position)
        line = handle.readline(4096)
        if not line.startswith(b"FRAME"[: len(line)]):
            return 0  # damaged rather than cut; decoding will tell
        position += len(line) + frame
    return position


def _vint(handle: BinaryIO) -> tuple[int, bool]:
    """An EBML variable-length size, and whether it is the reserved "unknown" value."""
    first = handle.read(1)
    if not first or first[0] == 0:
        return 0, True
    width = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> width)]) + handle.read(width - 1), "big")
    return value, value == (1 << (7 * width)) - 1
