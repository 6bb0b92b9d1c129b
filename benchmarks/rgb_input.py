"""RGB video coded through Bitreel's own conversion, beside converting it outside with FFmpeg's usual one.

    python -m benchmarks.rgb_input --model REF --clips FOLDER [--frames 9] [--qps 12,22,32,42] [--json PATH]

Sources are RGB with a colour for each pixel: large videos shrunk to a short side of 288 at most, each pixel the mean of
a square; the smaller ones are left out. For each way of going to 4:2:0 and back the streams' bytes and the PSNR of the
RGB that comes back make a curve; figures are bits saved at equal PSNR-RGB against `ffmpeg -pix_fmt yuv420p` and back.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from bjontegaard import bd_rate
from numpy.typing import NDArray

from codec.api import Codec, EncodeOptions, load_codec
from codec.colour import frame_to_rgb, rgb_to_frame
from codec.errors import VideoError
from codec.frames import Frame, VideoFormat
from codec.metrics import psnr_rgb
from pipeline.decoders import open_video

RGB = NDArray[np.uint8]
_SHORT_SIDE = 288
_FPS = Fraction(25)


def shrunk(path: Path, frames: int) -> list[RGB]:
    """The first frames, shrunk by at least two; none where the video is too small for that."""
    found: list[RGB] = []
    try:
        with open_video(path) as source:
            factor = -(-min(source.format.width, source.format.height) // _SHORT_SIDE)
            if factor < 2:
                return []
            for picture in source.rgb():
                height, width = (side // factor // 2 * 2 for side in picture.shape[:2])
                squares = picture[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
                found.append(np.rint(squares.mean((1, 3), dtype=np.float32)).astype(np.uint8))
                if len(found) == frames:
                    break
    except VideoError:
        return []
    return found if len(found) == frames else []


def outside(rgb: RGB) -> Frame:
    """As `ffmpeg -pix_fmt yuv420p`: swscale's defaults."""
    height, width = rgb.shape[:2]
    whole = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p").to_ndarray()
    y, u, v = np.split(whole.reshape(-1), [height * width, height * width * 5 // 4])
    return Frame(y.reshape(height, width).copy(), *(p.reshape(height // 2, width // 2).copy() for p in (u, v)))


def outside_back(frame: Frame) -> RGB:
    stacked = np.concatenate([frame.y.reshape(-1), frame.u.reshape(-1), frame.v.reshape(-1)])
    picture = av.VideoFrame.from_ndarray(stacked.reshape(-1, frame.width), format="yuv420p")
    return np.asarray(picture.reformat(format="rgb24").to_ndarray(), np.uint8)


def curve(
    codec: Codec, pictures: list[RGB], there: Callable[[RGB], Frame], back: Callable[[Frame], RGB], fmt: VideoFormat,
    qps: list[int],
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Bytes and PSNR-RGB at each QP."""
    sizes, quality = [], []
    for qp in qps:
        seen: list[Frame] = []
        sink = io.BytesIO()
        codec.encode(map(there, pictures), fmt, sink, EncodeOptions(qp), lambda _, frame, seen=seen: seen.append(frame))  # type: ignore[misc]
        sizes.append(float(len(sink.getvalue())))
        quality.append(float(np.mean([psnr_rgb(a, back(b)) for a, b in zip(pictures, seen, strict=True)])))
    return sizes, quality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--qps", default="12,22,32,42")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    codec, qps = load_codec(given.model), [int(qp) for qp in given.qps.split(",")]
    rows = []
    for path in sorted(given.clips.iterdir()):
        pictures = shrunk(path, given.frames)
        if not pictures:
            continue
        height, width = pictures[0].shape[:2]
        plain = curve(codec, pictures, outside, outside_back, VideoFormat(width, height, _FPS), qps)
        row: dict[str, object] = {"clip": path.name, "size": f"{width}x{height}"}
        for matrix in ("bt601", "bt709"):
            for full in (True, False):
                fmt = VideoFormat(width, height, _FPS, matrix, full)

                def there(rgb: RGB, fmt: VideoFormat = fmt) -> Frame:
                    return rgb_to_frame(rgb, fmt.matrix, fmt.full_range)

                def back(frame: Frame, fmt: VideoFormat = fmt) -> RGB:
                    return frame_to_rgb(frame, fmt)

                made = curve(codec, pictures, there, back, fmt, qps)
                saved = bd_rate(*plain, *made, method="pchip", min_overlap=0.25)
                row[f"{matrix} {'full' if full else 'limited'}"] = round(float(saved), 2)
        rows.append(row)
        print(" · ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
