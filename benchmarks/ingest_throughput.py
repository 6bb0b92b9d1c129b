"""How much of the bare decoder's frame rate a core does ingest keep, and what do other ways to make clips keep?

The same files at 240p and 1080p (H.264 made from real videos by scaling, or your own with --videos), one process and
one decoding thread each, in turns. The ratio is of frames per CPU second, kernel and child processes included, so that
other work on the machine does not count; frames per second by the clock are told beside it. See
`ingest_contestants.py` for what each does.

Example: python -m benchmarks.ingest_throughput --json ingest.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.ingest_contestants import CONTESTANTS
from benchmarks.ingest_footage import scaled_videos

SIZES = {"240p": (426, 240), "1080p": (1920, 1080)}


def run_once(name: str, videos: list[str], scratch: Path | None) -> dict[str, float] | None:
    """One measured run in a fresh process; None where the contestant is not installed."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        work = Path(folder) / "work"
        work.mkdir()
        command = [sys.executable, "-m", "benchmarks.ingest_contestants", name, str(work), *videos]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: left out ({(done.stderr.strip().splitlines() or ['failed'])[-1]})")
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(size: str, videos: list[str], names: list[str], repeats: int, scratch: Path | None) -> dict[str, Any]:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            result = run_once(name, videos, scratch) if name in runs else None
            if result is None:
                runs.pop(name, None)
            else:
                runs[name].append(result)
    figures: dict[str, Any] = {}
    print(f"\n{size}: {len(videos)} files, {runs['bare'][0]['frames']:.0f} frames, {repeats} runs in turns, medians")
    print(f"{'':<16}{'frames/CPU-s':>14}{'of bare':>9}{'(runs)':>16}{'frames/s':>10}{'MB written':>12}")
    for name, results in runs.items():
        rates = [result["frames"] / result["cpu"] for result in results]
        ratios = [own / bare for own, bare in zip(rates, figures.get("bare", {}).get("rates", rates), strict=True)]
        clock = statistics.median(result["frames"] / result["wall"] for result in results)
        figures[name] = {"rates": rates, "ratio": statistics.median(ratios), "ratios": ratios, "by_the_clock": clock}
        figures[name]["bytes"] = results[0]["bytes"]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(f"{name:<16}{statistics.median(rates):>14.0f}{figures[name]['ratio']:>9.2f}{spread:>16}{clock:>10.0f}"
              f"{results[0]['bytes'] / 1e6:>12.1f}", flush=True)  # fmt: skip
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", nargs="*", default=[], help="take these instead, as they are")
    parser.add_argument("--footage", type=Path, help="folder for the scaled videos, kept for the next time")
    parser.add_argument("--scratch", type=Path, help="folder for what is written, on the disk that your stores lie on")
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="which ways, with commas; bare is always there")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    names = ["bare", *(name for name in arguments.only.split(",") if name != "bare")]
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        footage = arguments.footage or Path(folder)
        inputs = {"given": arguments.videos} if arguments.videos else {}
        for size in arguments.sizes.split(",") if not inputs else []:
            count, frames = (6, 300) if size == "240p" else (3, 120)
            inputs[size] = [str(path) for path in scaled_videos([], SIZES[size], count, frames, footage)]
        figures = {
            size: compare(size, videos, names, arguments.repeats, arguments.scratch) for size, videos in inputs.items()
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
