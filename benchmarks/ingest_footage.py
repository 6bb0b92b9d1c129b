"""What the ingest benchmarks read: H.264 files of a wanted size, made from real videos by scaling, or rendered ones."""

from __future__ import annotations

import os
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av

from pipeline.rendered import render_demo_videos
from pipeline.sources import find_sources

_STRIDE = 8  # frames between the starts of two that are made from one video


def scaled_videos(sources: list[str], size: tuple[int, int], count: int, frames: int, folder: Path) -> list[Path]:
    """`count` files of `frames` frames, size (width, height), x264 medium at CRF 23, in `folder`.

    sources: videos or folders; none means the folder BITREEL_TEST_CLIPS, or rendered videos where that is not set. The
    largest pictures are taken first and played in a circle where they are too short. No two are alike: where a video
    has no start left that was not taken, a smaller part of its pictures is shown. Files that are there are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [folder / f"{size[0]}x{size[1]}-{frames}-{index:03d}.mp4" for index in range(count)]
    if all(path.exists() for path in wanted):
        return wanted
    sources = sources or [found for found in [os.environ.get("BITREEL_TEST_CLIPS", "")] if found]
    videos = find_sources(sources) if sources else render_demo_videos(folder / "rendered", 4, 48)
    videos = sorted((str(video) for video in videos), key=_area, reverse=True)
    for index, path in enumerate(wanted):
        if not path.exists():
            video, turn = videos[index % len(videos)], index // len(videos)
            starts = -(-_frame_count(video) // _STRIDE)
            _scale(video, _STRIDE * (turn % starts), turn // starts, size, frames, path)
    return wanted


def _area(video: str) -> int:
    with av.open(video) as container:
        stream = container.streams.video[0]
        return int(stream.width * stream.height)


def _frame_count(video: str) -> int:
    with av.open(video) as container:
        return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))


def _scale(video: str, first: int, closer: int, size: tuple[int, int], frames: int, path: Path) -> None:
    """Write `frames` frames of `video` from frame `first` on, going round at the end, less an edge of 4 · `closer`."""
    unfinished = path.with_suffix(".part.mp4")
    with av.open(str(unfinished), "w") as sink:
        stream = sink.add_stream("libx264", rate=Fraction(25), options={"crf": "23", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = (*size, "yuv420p")
        stream.codec_context.thread_count = 1
        done = 0
        while done < frames:
            with av.open(video) as source:
                for picture in islice(source.decode(source.streams.video[0]), first, first + frames - done):
                    scaled = _shown(picture, closer).reformat(*size, "yuv420p", interpolation="BICUBIC", threads=1)
                    scaled.pts, scaled.time_base, scaled.pict_type = done, Fraction(1, 25), 0
                    sink.mux(stream.encode(scaled))
                    done += 1
            first = 0
        sink.mux(stream.encode(None))
    unfinished.replace(path)


def _shown(picture: av.VideoFrame, closer: int) -> av.VideoFrame:
    if not closer:
        return picture
    edge = 4 * closer
    return av.VideoFrame.from_ndarray(picture.to_ndarray(format="rgb24")[edge:-edge, edge:-edge].copy(), format="rgb24")
