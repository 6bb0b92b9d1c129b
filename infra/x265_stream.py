"""What x265 says about itself inside its stream, and the stream without that text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_START_CODE = re.compile(rb"\x00?\x00\x00\x01")
_SEI_PREFIX = 39
_USER_DATA_UNREGISTERED = 5


@dataclass(frozen=True)
class X265Info:
    """version such as "x265 (build 216) - 4.2+1-e444744", and options as x265 took them: {"qp": "27", "no-wpp": ""}."""

    version: str
    options: dict[str, str]


def split_info(packet: bytes) -> tuple[bytes, X265Info | None]:
    """Take the text in which x265 names its version and options out of an Annex B packet.

    Gives the packet without it (about 2 kB less: advertising, not video, and a large share of a short clip's file)
    and what it said, None where the packet has no such text.
    """
    kept: list[bytes] = []
    info: X265Info | None = None
    starts = [(m.start(), m.end()) for m in _START_CODE.finditer(packet)]
    for (begin, unit), (end, _) in zip(starts, [*starts[1:], (len(packet), 0)], strict=True):
        text = _user_text(packet[unit:end])
        if text is not None and "x265" in text:
            info = _parse(text)
        else:
            kept.append(packet[begin:end])
    return b"".join(kept), info


def _user_text(unit: bytes) -> str | None:
    """The text of a user-data message (after its 16-byte UUID), None where the unit is something else."""
    if len(unit) < 20 or (unit[0] >> 1) & 0x3F != _SEI_PREFIX or unit[2] != _USER_DATA_UNREGISTERED:
        return None
    body = unit.replace(b"\x00\x00\x03", b"\x00\x00")[3:]
    size = 0
    while body[0] == 255:
        size, body = size + 255, body[1:]
    size, body = size + body[0], body[1:]
    return body[16:size].decode("ascii", "replace").rstrip("\x00")


def _parse(text: str) -> X265Info:
    version = text.split(":", 1)[0].strip()
    _, _, listed = text.partition("options:")
    options = {}
    for token in listed.split():
        key, _, value = token.partition("=")
        options[key] = value
    return X265Info(version, options)
