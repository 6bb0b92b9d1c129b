"""How fast does a codec encode and decode, what share of that is entropy coding, and how much memory does it take?

Every figure comes from a fresh process, on the same frames, beside x265 (medium, through PyAV) with as many threads and
about the same quality; both qualities are printed. Seconds count from the first frame asked for to the last one had;
loading the model and a first tiny video (so that kernels are compiled) come before. Entropy coding is all time inside
SymbolEncoder and SymbolDecoder, estimates included. Memory is the process's peak; "start" is what it had taken before
the first frame. With --memory the length varies instead of the QP, and only memory is of interest.

Examples: python benchmarks/codec_speed.py ~/videos/crowd.y4m --model runs/best --json speed.json
          python benchmarks/codec_speed.py --memory
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from codec.frames import Frame, VideoFormat

FPS = Fraction(25)
QPS = {12: 42, 32: 27, 52: 14}  # ours -> x265's of about the same quality
TINY = (64, 48)


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does. coder: "ours" or "x265"; action: "encode" (footage to stream) or "decode" (to output)."""

    coder: str
    action: str
    size: tuple[int, int]
    frames: int
    qp: int
    threads: int
    model: str
    footage: str
    stream: str
    output: str | None


class Stopwatch:
    """Seconds spent inside the methods and properties of some classes; calls within calls count once."""

    def __init__(self, *classes: type) -> None:
        self.seconds = 0.0
        self._inside = False
        for cls in classes:
            for name, member in list(vars(cls).items()):
                if isinstance(member, property):
                    setattr(cls, name, property(self._timed(member.fget)))  # type: ignore[arg-type]
                elif callable(member) and (name == "__init__" or not name.startswith("_")):
                    setattr(cls, name, self._timed(member))

    def watch(self, module: Any, name: str) -> None:
        """Time a module's function too."""
        setattr(module, name, self._timed(getattr(module, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return function(*arguments, **named)
            self._inside, begin = True, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - begin
                self._inside = False

        return call


def work(job: Job) -> dict[str, float]:
    """Do the job in this process: frames a second, share of entropy coding, peak and starting memory in MiB."""
    return work_ours(job) if job.coder == "ours" else work_x265(job)


def work_ours(job: Job) -> dict[str, float]:
    import torch

    from codec.api import EncodeOptions, load_codec
    from codec.entropy_coding import SymbolDecoder, SymbolEncoder

    torch.set_num_threads(job.threads)
    codec = load_codec(job.model)
    first = io.BytesIO()
    grey = (Frame.from_bytes(bytes([t]) * (TINY[0] * TINY[1] * 3 // 2), *TINY) for t in (90, 120, 150))
    codec.encode(grey, VideoFormat(*TINY, FPS), first, EncodeOptions(job.qp))
    first.seek(0)
    list(codec.decode(first))

    watch = Stopwatch(SymbolEncoder, SymbolDecoder)
    if codec.family == "innvc":  # these walks model, or even choose, and code in one
        watch.watch(importlib.import_module("codec.innvc.encoder"), "encode_intra")
        watch.watch(importlib.import_module("codec.inter.symbol_mixing").SymbolMixing, "encode")
        watch.watch(importlib.import_module("codec.innvc.lossless"), "encode_samples")
        watch.watch(importlib.import_module("codec.inter.frame_motion"), "encode_motion")
        watch.watch(importlib.import_module("codec.inter.frame_motion"), "decode_motion")
    start = peak_mib()
    if job.action == "encode":
        begin = time.perf_counter()
        with Path(job.stream).open("wb") as sink:
            codec.encode(read(job), VideoFormat(*job.size, FPS), sink, EncodeOptions(job.qp))
        seconds = time.perf_counter() - begin
    else:
        with Path(job.stream).open("rb") as source:
            seconds = drain(codec.decode(source), job)
    return figures(job, seconds, start, watch.seconds)


def work_x265(job: Job) -> dict[str, float]:
    import av

    width, height = job.size
    start = peak_mib()
    if job.action == "encode":
        pools = "none" if job.threads == 1 else str(job.threads)
        params = f"qp={job.qp}:pools={pools}:frame-threads={job.threads}:log-level=none"
        begin = time.perf_counter()
        with av.open(job.stream, "w", format="hevc") as container:
            options = {"preset": "medium", "x265-params": params}
            stream = container.add_stream("libx265", rate=FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index, frame in enumerate(read(job)):
                picture = av.VideoFrame(width, height, "yuv420p")
                for ours, theirs in zip(frame.planes, native(picture).planes, strict=True):
                    theirs[:] = ours
                picture.pts = index
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return figures(job, time.perf_counter() - begin, start, None)
    with av.open(job.stream, format="hevc") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = ("AUTO" if job.threads > 1 else "NONE"), job.threads
        pictures = container.decode(stream)
        return figures(job, drain((native(p) for p in pictures), job), start, None)


def native(picture: Any) -> Frame:
    """A picture of PyAV's as a Frame that shares its memory."""
    import numpy as np

    def plane(p: Any) -> Any:
        return np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width]

    return Frame(*(plane(p) for p in picture.planes))


def read(job: Job) -> Iterator[Frame]:
    from footage import read_footage

    return read_footage(Path(job.footage), job.size, job.frames)


def drain(frames: Iterator[Frame], job: Job) -> float:
    """Seconds until all frames are had; writing them to the job's output does not count."""
    seconds, count = 0.0, 0
    with open(job.output or os.devnull, "wb") as sink:  # noqa: PTH123 (a device, or a file)
        while True:
            begin = time.perf_counter()
            frame = next(frames, None)
            seconds += time.perf_counter() - begin
            if frame is None:
                break
            count += 1
            if job.output:
                sink.write(frame.to_bytes())
    if count != job.frames:
        sys.exit(f"{job.coder} decodes {count} frames of {job.frames}")
    return seconds


def figures(job: Job, seconds: float, start: float, entropy: float | None) -> dict[str, float]:
    result = {"fps": job.frames / seconds, "peak_mib": peak_mib(), "start_mib": start}
    if entropy is not None:
        result["entropy_share"] = entropy / seconds
    return result


def peak_mib() -> float:
    """The most memory this process has held at once. getrusage would count what its parent held before the exec."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(row.split()[1]) for row in status.read_text().splitlines() if row.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def run_fresh(job: Job) -> dict[str, float]:
    """The job in a process of its own."""
    command = [sys.executable, __file__, "--job", json.dumps(dataclasses.asdict(job))]
    done = subprocess.run(command, env=environment(job), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{job.coder} {job.action} failed: {done.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def environment(job: Job) -> dict[str, str]:
    here = Path(__file__).resolve().parent
    paths = [str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": str(job.threads), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def both_ways(job: Job, quality: bool) -> dict[str, Any]:
    """Encode, then decode: figures of both, bits per pixel, and PSNR-YUV where asked for."""
    encode = run_fresh(dataclasses.replace(job, action="encode", output=None))
    decode = run_fresh(dataclasses.replace(job, action="decode", output=job.output if quality else None))
    row: dict[str, Any] = {"coder": job.coder, "size": job.size, "frames": job.frames, "qp": job.qp}
    row |= {"bpp": Path(job.stream).stat().st_size * 8 / job.frames / job.size[0] / job.size[1]}
    if quality:
        row["psnr_yuv"] = mean_psnr(job)
    return row | {"encode": encode, "decode": decode}


def mean_psnr(job: Job) -> float:
    from footage import read_footage

    from codec.metrics import psnr, psnr_yuv

    assert job.output
    pairs = zip(read(job), read_footage(Path(job.output), job.size, job.frames), strict=True)
    values = [psnr_yuv(*(psnr(a, b) for a, b in zip(x.planes, y.planes, strict=True))) for x, y in pairs]
    return sum(values) / len(values)


def measure(arguments: argparse.Namespace, folder: Path, model: str) -> dict[str, Any]:
    """All rows; each of ours is followed by x265's on the same frames."""
    from footage import write_footage

    from codec.api import load_codec

    result: dict[str, Any] = {"threads": arguments.threads, "model": arguments.model or "fresh weights"}
    result |= {"complexity": load_codec(model).complexity(), "footage": {}, "rows": []}
    complexity = result["complexity"]
    print(f"{result['model']}, {arguments.threads} thread(s); decoder", end=" ")
    print(f"{complexity['decoder_kmac_per_pixel_intra']:.1f} kMAC a pixel in intra frames,", end=" ")
    print(f"{complexity['decoder_kmac_per_pixel_inter']:.1f} in inter frames")
    for size in arguments.sizes:
        most = max(arguments.lengths) if arguments.memory else arguments.frames[size]
        footage = folder / "source.yuv"
        shown = write_footage(arguments.sources, size, most, footage)
        result["footage"]["x".join(map(str, size))] = shown
        print(f"\n{size[0]}x{size[1]}, {shown}\n{HEAD}")
        runs = [(n, 32) for n in arguments.lengths] if arguments.memory else [(most, qp) for qp in QPS]
        for frames, qp in runs:
            for coder in ("ours", "x265"):
                job = Job(
                    coder, "", size, frames, qp if coder == "ours" else QPS[qp], arguments.threads, model,
                    str(footage), str(folder / f"stream.{coder}"), str(folder / "decoded.yuv"),
                )  # fmt: skip
                row = both_ways(job, quality=not arguments.memory)
                result["rows"].append(row)
                print(line(row), flush=True)
            print(comparison(*result["rows"][-2:]), flush=True)
    return result


HEAD = (
    "coder  QP  frames    bpp   PSNR-YUV |  encode fps  entropy   start    peak MiB |"
    "  decode fps  entropy   start    peak MiB"
)


def line(row: dict[str, Any]) -> str:
    psnr = f"{row['psnr_yuv']:8.2f}" if "psnr_yuv" in row else "       -"
    text = f"{row['coder']:5}  {row['qp']:2}  {row['frames']:6}  {row['bpp']:6.3f}  {psnr} "
    for way in ("encode", "decode"):
        f = row[way]
        share = f"{f['entropy_share']:7.1%}" if "entropy_share" in f else "      -"
        text += f"| {f['fps']:11.2f}  {share}  {f['start_mib']:6.0f}  {f['peak_mib']:10.0f} "
    return text


def comparison(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    text = " " * 37
    for way in ("encode", "decode"):
        speed = ours[way]["fps"] / theirs[way]["fps"]
        text += f"| ours / x265: speed {speed:.3f}, memory {ours[way]['peak_mib'] / theirs[way]['peak_mib']:.2f}  "
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="videos or folders; none: BITREEL_TEST_CLIPS, or rendered")
    parser.add_argument("--model", help="checkpoint folder; none: fresh weights, good for speed only")
    parser.add_argument("--family", default="innvc", help="codec of the fresh weights")
    parser.add_argument("--sizes", help="default 416x240,1920x1080; with --memory 1920x1080")
    parser.add_argument("--frames", type=int, help="frames of each size (default 33, or 9 from 1280x720 up)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="memory of videos of several lengths")
    parser.add_argument("--lengths", default="17,33,65", help="frames of the videos with --memory")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        given = json.loads(arguments.job)
        print(json.dumps(work(Job(**{**given, "size": tuple(given["size"])}))))
        return
    sizes = arguments.sizes or ("1920x1080" if arguments.memory else "416x240,1920x1080")
    arguments.sizes = [tuple(int(side) for side in size.split("x")) for size in sizes.split(",")]
    arguments.lengths = [int(length) for length in arguments.lengths.split(",")]
    arguments.frames = {s: arguments.frames or (33 if s[0] * s[1] < 1280 * 720 else 9) for s in arguments.sizes}

    import torch

    from codec.api import create_codec, save_codec

    with tempfile.TemporaryDirectory() as temporary:
        model = arguments.model
        if not model:
            torch.manual_seed(0)
            model = str(Path(temporary) / "model")
            save_codec(create_codec(arguments.family, {}), Path(model))
        result = measure(arguments, Path(temporary), model)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
