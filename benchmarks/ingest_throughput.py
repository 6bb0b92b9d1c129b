"""How much of the bare decoder's frame rate does ingest keep? Both on the same files, in the same run, interleaved.

Bare: PyAV decodes every file, each frame's planes to NumPy (`to_ndarray`), nothing else; as many processes as ingest
has workers, one decoding thread each, files dealt out longest first as ingest does. Ingest: the real thing, with Ray
already running (a cluster is up before a job comes) but its own workers started inside the measured time.

Example: python benchmarks/ingest_throughput.py ~/videos --crop 256x256 --json ingest.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 3


def decode_file(path: str) -> int:
    import av

    count = 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for frame in container.decode(stream):
            frame.to_ndarray()
            count += 1
    return count


def bare_rate(files: list[str], workers: int) -> float:
    """Frames a second of the bare decoder, its processes already started."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(decode_file, files[-1:] * workers, chunksize=1)  # imports done
        begin = time.monotonic()
        frames = sum(pool.imap_unordered(decode_file, files, chunksize=1))
        return frames / (time.monotonic() - begin)


def ingest_rate(files: list[str], workers: int, crop: tuple[int, int] | None, folder: str | None) -> float:
    """Frames read a second by ingest into a fresh store."""
    from pipeline.ingest import ingest_videos

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        report = ingest_videos(files, Path(temporary) / "store", workers=workers, crop=crop)
    if report.quarantined:
        sys.exit(f"can't measure: {report.quarantined}")
    return report.frames / report.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="videos or folders of them; none: rendered clips")
    parser.add_argument("--crop", help="WxH; whole frames without it")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scratch", help="folder for the stores that are written (default: the system's)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if not arguments.sources:
        from pipeline.rendered import render_demo_videos

        with tempfile.TemporaryDirectory() as folder:
            arguments.sources = [str(path) for path in render_demo_videos(Path(folder), 12, 96)]
            compare(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    import ray

    from pipeline.sources import find_sources

    files = sorted(find_sources(arguments.sources), key=lambda path: -Path(path).stat().st_size)
    crop = tuple(int(side) for side in arguments.crop.split("x")) if arguments.crop else None
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=arguments.workers)
    bare, ingest = [], []
    for repeat in range(REPEATS):
        bare.append(bare_rate(files, arguments.workers))
        ingest.append(ingest_rate(files, arguments.workers, crop, arguments.scratch))
        ratio = ingest[-1] / bare[-1]
        print(f"run {repeat + 1}: bare {bare[-1]:.0f} frames/s, ingest {ingest[-1]:.0f} frames/s, ratio {ratio:.2f}")
    ratios = [a / b for a, b in zip(ingest, bare, strict=True)]
    figures = {
        "files": len(files),
        "workers": arguments.workers,
        "crop": arguments.crop,
        "bare_frames_per_second": bare,
        "ingest_frames_per_second": ingest,
        "ratio": statistics.median(ratios),
    }
    print(f"{len(files)} files, {arguments.workers} workers, crop {arguments.crop or 'none'}: median ratio", end=" ")
    print(f"{figures['ratio']:.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
