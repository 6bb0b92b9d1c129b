"""Bytes that FFV1 and x265 take for a sequence without loss, each decoded again and compared; for `innvc_figures`.

Only the coded video counts: packets (x265's without the text in which it describes itself) and FFV1's own header, no
container. Each peer is set to be as small as it can be.
"""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from codec.atomic_files import write_json_atomically
from codec.errors import BitreelError, UsageError
from codec.frames import Frame
from infra.evaluation_source import EvaluationSource
from infra.x265_stream import split_info

# One slice where the picture may have one (FFmpeg allows it to 352x288), else the fewest it takes; contexts are never
# reset, and there are no checksums.
_FFV1 = {"level": "3", "coder": "1", "context": "1", "g": "100000", "slicecrc": "0"}
_FFV1_SLICES = (1, 4, 6, 9, 12)
_X265 = "lossless=1:keyint=-1:scenecut=0:wpp=0:pools=none:frame-threads=1:log-level=error"
PEERS: dict[str, dict[str, Any]] = {
    "FFV1": {"encoder": "ffv1", "options": _FFV1},
    "x265 zerolatency": {
        "encoder": "libx265", "options": {"preset": "veryslow", "tune": "zerolatency", "x265-params": _X265},
    },
    "x265": {"encoder": "libx265", "options": {"preset": "veryslow", "x265-params": _X265}},
}  # fmt: skip


def peer_bytes(source: EvaluationSource, peer: str, cache: Path) -> dict[str, Any]:
    """{"bytes", "options", "libraries"} of `source` coded by `peer`, found in folder `cache` where it was made before.

    Raises UsageError for odd-sized pictures, which x265 does not take; BitreelError where coding fails or what comes
    back is not what went in.
    """
    if source.width % 2 or source.height % 2:
        raise UsageError(f"{source.name} is {source.width}x{source.height}; x265 wants even sides")
    settings = PEERS[peer]
    libraries = {name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())}
    identity = {"frames": source.digest, "fps": source.fps, **settings, "libraries": libraries}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    kept = cache / f"{key}.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    frames = list(source.frames())
    for slices in _FFV1_SLICES if peer == "FFV1" else (None,):
        options = settings["options"] | ({} if slices is None else {"slices": str(slices)})
        packets = _encode(settings["encoder"], options, frames, Fraction(source.fps))
        if packets is not None:
            break
    else:
        raise BitreelError(f"{peer} can't encode {source.name}: {source.width}x{source.height}")
    header, coded = packets
    if _decode(settings["encoder"], header, coded, frames[0]) != [frame.to_bytes() for frame in frames]:
        raise BitreelError(f"{peer} on {source.name}: what it decodes to is not what was encoded")
    size = len(header) + sum(len(split_info(p)[0]) if settings["encoder"] == "libx265" else len(p) for p in coded)
    result = {"bytes": size, "options": options, "libraries": libraries}
    cache.mkdir(parents=True, exist_ok=True)
    write_json_atomically(kept, result)
    return result


def _encode(name: str, options: dict[str, str], frames: list[Frame], fps: Fraction) -> tuple[bytes, list[bytes]] | None:
    """The codec's header and the packets; None where it does not take these options."""
    encoder: Any = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
    encoder.framerate, encoder.time_base, encoder.thread_count = fps, 1 / fps, 1
    encoder.options = options
    packets: list[bytes] = []
    try:
        encoder.open()
    except (NotImplementedError, av.FFmpegError):
        return None
    for index, frame in enumerate([*frames, None]):
        packets += [bytes(packet) for packet in encoder.encode(None if frame is None else _picture(frame, index, fps))]
    return (bytes(encoder.extradata or b"") if name == "ffv1" else b""), packets


def _picture(frame: Frame, index: int, fps: Fraction) -> av.VideoFrame:
    planes = np.frombuffer(frame.to_bytes(), np.uint8).reshape(frame.height * 3 // 2, frame.width)
    picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    picture.pts, picture.time_base = index, 1 / fps
    return picture


def _decode(encoder: str, header: bytes, packets: list[bytes], like: Frame) -> list[bytes]:
    """Each frame's planes, one behind the other."""
    decoder: Any = av.CodecContext.create("hevc" if encoder == "libx265" else encoder, "r")
    decoder.thread_count = 1
    if header:
        decoder.extradata = header
        decoder.width, decoder.height = like.width, like.height
    pictures = [picture for packet in packets for picture in decoder.decode(av.Packet(packet))]
    pictures += decoder.decode(None)
    return [picture.to_ndarray(format="yuv420p").tobytes() for picture in pictures]
