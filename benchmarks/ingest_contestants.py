"""The ways to make clips of videos that `ingest_throughput.py` compares, each run in a process of its own.

`python -m benchmarks.ingest_contestants NAME FOLDER VIDEO...` does the work once to warm up (on the first video), then
measured, and prints frames, CPU seconds (with child processes), wall seconds and bytes written as JSON.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import resource
import shutil
import subprocess
import sys
import tarfile
import time
import types
from collections.abc import Callable
from pathlib import Path

CLIP_FRAMES = 16
RATE = 25  # of the benchmark's videos, frames a second


def bare(videos: list[str], folder: Path) -> int:
    """PyAV, each frame's planes to NumPy, one thread, nothing else."""
    import av

    count = 0
    for path in videos:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            for frame in container.decode(stream):
                frame.to_ndarray()
                count += 1
    return count


def ingest(videos: list[str], folder: Path) -> int:
    """What an ingest worker does with a video, whole frames: hash, decode, cuts, measures, shard, manifest fragment."""
    return _ingest(videos, folder, None)


def ingest_crop(videos: list[str], folder: Path) -> int:
    """The same with the pictures' middle 256x256."""
    return _ingest(videos, folder, (256, 256))


def _ingest(videos: list[str], folder: Path, crop: tuple[int, int] | None) -> int:
    from pipeline.ingest_calls import IngestSettings
    from pipeline.ingest_worker import IngestWorker
    from pipeline.manifest import create_or_check_store

    store = folder / "store"
    create_or_check_store(store, {"pixels": "yuv420", "clip_frames": CLIP_FRAMES, "crop": crop, "downscale": 1})
    worker = IngestWorker(IngestSettings(str(store), CLIP_FRAMES, crop, "yuv420", 1, None, 0.1, 0.1))
    frames = 0
    for path in videos:
        found = worker.identify(path)
        outcome = worker.ingest(path, found.checksum, found.stamp)
        if outcome.error or outcome.store_error:
            sys.exit(f"can't measure: {outcome}")
        frames += outcome.frames
    return frames


def ffmpeg_tar(videos: list[str], folder: Path) -> int:
    """A plain script: FFmpeg decodes to a pipe, every 16 frames become a member of a tar; no cuts, no measures."""
    import av
    import imageio_ffmpeg

    count = 0
    with tarfile.open(folder / "clips.tar", "w") as tar:
        for index, path in enumerate(videos):
            with av.open(path) as container:
                stream = container.streams.video[0]
                size = stream.width * stream.height * 3 // 2 * CLIP_FRAMES
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-i", path]
            command += ["-threads", "1", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as decoder:
                assert decoder.stdout is not None
                pipe = io.BufferedReader(decoder.stdout, 1 << 20)  # type: ignore[arg-type]
                for clip in range(1 << 30):
                    data = pipe.read(size)
                    if not data:
                        break
                    member = tarfile.TarInfo(f"{index:05d}-{clip:05d}.yuv")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                    count += len(data) * CLIP_FRAMES // size
    return count


def video2dataset(videos: list[str], folder: Path) -> int:
    """video2dataset's own subsamplers: cuts by PySceneDetect, then clips of 16 frames re-encoded by FFmpeg ("exact"),
    as mp4 in a tar. Who trains on them decodes once more. Its package must be importable, and `ffmpeg` on the PATH."""
    _find_video2dataset()
    cuts = importlib.import_module("video2dataset.subsamplers.cut_detection_subsampler").CutDetectionSubsampler()
    clipping = importlib.import_module("video2dataset.subsamplers.clipping_subsampler").ClippingSubsampler(
        5, {"video": "mp4"}, max_length=CLIP_FRAMES / RATE, precision="exact"
    )
    count = 0
    with tarfile.open(folder / "clips.tar", "w") as tar:
        for index, path in enumerate(videos):
            streams = {"video": [Path(path).read_bytes()]}
            streams, found, error = cuts(streams)
            if error:
                sys.exit(f"can't measure: {error}")
            spans = [[first / RATE, last / RATE] for first, last in found["cuts_original_fps"]]
            count += found["cuts_original_fps"][-1][1]
            clips, metadata, error = clipping(streams, {"key": f"{index:05d}", "clips": spans})
            if error:
                sys.exit(f"can't measure: {error}")
            for data, facts in zip(clips["video"], metadata, strict=True):
                for ending, content in (("mp4", data), ("json", json.dumps(facts).encode())):
                    member = tarfile.TarInfo(f"{facts['key']}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return count


def _find_video2dataset() -> None:
    """Make its modules importable without its packages' __init__, which want every model they know."""
    if "video2dataset" in sys.modules:
        return
    package = importlib.util.find_spec("video2dataset")
    if package is None or package.origin is None:
        sys.exit("video2dataset is not importable")
    for name, place in (("video2dataset", "."), ("video2dataset.subsamplers", "subsamplers")):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(Path(package.origin).parent / place)]


CONTESTANTS: dict[str, Callable[[list[str], Path], int]] = {
    "bare": bare,
    "ingest": ingest,
    "ingest_crop": ingest_crop,
    "ffmpeg_tar": ffmpeg_tar,
    "video2dataset": video2dataset,
}


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    name, folder, videos = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    for run, chosen in (("warm", videos[:1]), ("measured", videos)):
        target = folder / run
        target.mkdir()
        cpu, begin = _cpu_seconds(), time.monotonic()
        frames = CONTESTANTS[name](chosen, target)
        cpu, wall = _cpu_seconds() - cpu, time.monotonic() - begin
    written = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    print(json.dumps({"frames": frames, "cpu": cpu, "wall": wall, "bytes": written}))


if __name__ == "__main__":
    main()
