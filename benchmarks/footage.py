"""What the codec benchmarks code: frames of a wanted size as a raw .yuv file, from real videos or rendered ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np

from codec.frames import Frame
from pipeline.decoders import open_video
from pipeline.rendered import render_demo_videos
from pipeline.sources import find_sources

AREA = 0x20  # SWS_AREA


def write_footage(sources: list[str], size: tuple[int, int], frames: int, path: Path) -> str:
    """Write `frames` frames of size (width, height) to `path` as I420, and say what they show.

    sources: videos or folders; none means the folder BITREEL_TEST_CLIPS, or rendered videos where that is not set. The
    first with pictures as large as asked is taken, or the largest; its middle is cut to the shape and scaled down by
    area. Short videos are played forth and back.
    """
    sources = sources or [folder for folder in [os.environ.get("BITREEL_TEST_CLIPS", "")] if folder]
    with tempfile.TemporaryDirectory() as folder:
        if sources:
            video = _largest([str(found) for found in find_sources(sources)], size)
        else:
            (video,) = map(str, render_demo_videos(Path(folder), 1, min(frames, 17), size))
        with open_video(video) as source, path.open("wb") as sink:
            count = 0
            for frame in _forth_and_back(video, frames):
                sink.write(_shaped(frame, size).to_bytes())
                count += 1
            shape = f"{source.format.width}x{source.format.height}"
    assert count == frames
    return f"{Path(video).name} ({shape}{'' if sources else ', rendered: not real footage'})"


def read_footage(path: Path, size: tuple[int, int], frames: int) -> Iterator[Frame]:
    """The frames of such a file, one held at a time."""
    width, height = size
    length = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    with path.open("rb") as source:
        for _ in range(frames):
            yield Frame.from_bytes(source.read(length), width, height)


def _largest(videos: list[str], size: tuple[int, int]) -> str:
    areas = {}
    for video in videos:
        with open_video(video) as source:
            if source.format.width >= size[0] and source.format.height >= size[1]:
                return video
            areas[video] = source.format.width * source.format.height
    return max(areas, key=lambda video: areas[video])


def _forth_and_back(video: str, frames: int) -> Iterator[Frame]:
    with open_video(video) as source:
        held = []
        for frame in islice(source, frames):
            held.append(frame)
            yield frame
        if len(held) == 1:
            held *= 2
        for index in range(len(held), frames):
            place = index % (2 * len(held) - 2)
            yield held[min(place, 2 * len(held) - 2 - place)]


def _shaped(frame: Frame, size: tuple[int, int]) -> Frame:
    width, height = size
    if (frame.width, frame.height) == size:
        return frame
    # The largest middle part of the wanted shape, on even places so that chroma stays in step.
    scale = min(frame.width / width, frame.height / height)
    cut_width, cut_height = (int(side * scale) // 2 * 2 for side in size)
    x, y = ((frame.width - cut_width) // 4 * 2, (frame.height - cut_height) // 4 * 2)
    luma = frame.y[y : y + cut_height, x : x + cut_width]
    u, v = (p[y // 2 : (y + cut_height) // 2, x // 2 : (x + cut_width) // 2] for p in (frame.u, frame.v))
    cut = Frame(luma, u, v)
    flat = np.frombuffer(cut.to_bytes(), np.uint8).reshape(cut_height * 3 // 2, cut_width)
    picture = av.VideoFrame.from_ndarray(flat, format="yuv420p").reformat(width, height, interpolation=AREA)
    return Frame.from_bytes(picture.to_ndarray(format="yuv420p").tobytes(), width, height)
