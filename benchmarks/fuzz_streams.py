"""What does a decoder do with damaged and forged .brl streams? A tally over many seeded mutations.

Must never be: a crash, more than 5 s, an allocation over twice that of a clean decode, a changed byte that goes
unnoticed, a wrong frame that is shown before the damage is noticed (docs/brl.md says when a forger's is).
The codec is a small one with random weights and tiny pictures: what is tried is the decoder's code, not its model.
Each mutation follows from --seed and its number, so that one that fails can be had again: --only NUMBER.

Allocation is the rise of the process's resident memory, read from Linux; malloc is told to hand back at once what is
freed. Beside twice the clean decode's, that measure is allowed 1 MiB for its own unrest. A forged picture size under
right checksums is another matter, and counted apart: that is a stream of larger pictures, and `max_pixels` bounds it.

Example: python -m benchmarks.fuzz_streams --count 20000 --json fuzz.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

LIMIT_S = 5.0
STUCK_S = 20.0  # a decoder that does not even come back to Python
UNREST = 1 << 20
LARGER_PIXELS = 4  # what a reader allows who does not know the size of the pictures
PIXELS = (48, 32)
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


@dataclass(frozen=True)
class Trial:
    """One mutation and what came of it. allocated: bytes above what was held before."""

    number: int
    kind: str
    forged: bool
    larger: bool
    outcome: str
    bad: bool
    said: str
    seconds: float
    allocated: int
    reading: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="one mutation, in this process, without a limit of time")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    if given.only is not None:
        bench = Bench(given.seed)
        print(json.dumps(asdict(bench.run(given.only)), indent=1))
        return 0
    os.environ.update(_MEMORY | {"OMP_NUM_THREADS": "1"})
    started = time.monotonic()
    clean, trials = _run_all(given.count, given.seed, given.workers)
    return _report(trials, clean, time.monotonic() - started, given)


# -- one worker ------------------------------------------------------------------------------------------------------


class Bench:
    """A codec and its sound streams; runs single mutations."""

    def __init__(self, seed: int) -> None:
        import torch

        from benchmarks.stream_mutations import Sample, frames_bytes
        from codec.api import EncodeOptions

        torch.set_num_threads(1)
        self.seed = seed
        self.codec, other = (small_codec(number) for number in (0, 1))
        self.samples: list[Sample] = []
        for qp, period in ((32, 3), (10, -1), (63, 2)):
            options = EncodeOptions(qp, period)
            data, sibling, stranger = (
                _encode(codec, number, options) for codec, number in ((self.codec, 0), (self.codec, 1), (other, 0))
            )
            frames = frames_bytes(list(self.codec.decode(BytesIO(data))))
            self.samples.append(Sample(data, frames, sibling, stranger))

    def clean(self) -> int:
        """Bytes that the most demanding of the sound streams takes."""
        most = 0
        for _ in range(5):
            for sample in self.samples:
                before = _reset_peak()
                for _ in self.codec.decode(BytesIO(sample.data)):
                    pass
                most = max(most, _peak() - before)
        return most

    def run(self, number: int) -> Trial:
        """Mutation `number`, made, decoded and judged. Raises TimeoutError where an alarm rings."""
        from benchmarks.stream_mutations import DAMAGE, FORGERY, LARGER, Reading, judge

        random = Random(f"{self.seed}/{number}")
        kinds = {**DAMAGE, **FORGERY, **LARGER}
        kind = list(kinds)[number % len(kinds)]
        sample = random.choice(self.samples)
        data = sample.data
        while data == sample.data:
            data = kinds[kind](sample, random)
        forged = kind not in DAMAGE
        reading = Reading(
            seekable=random.random() < 0.5,
            from_frame=random.choice((0, 0, 0, random.randrange(len(sample.frames)))),
            follow=random.random() < 0.1,
            max_pixels=LARGER_PIXELS * PIXELS[0] * PIXELS[1] if kind in LARGER else 1 << 25,
        )
        how = f"{'file' if reading.seekable else 'pipe'}, from {reading.from_frame}{', followed' * reading.follow}"
        before, started = _reset_peak(), time.perf_counter()
        try:
            verdict = judge(self.codec, sample, data, reading, forged)
            outcome, bad, said = verdict.outcome, verdict.bad, verdict.said
        except TimeoutError:
            outcome, bad, said = "HANG", True, f"over {LIMIT_S:g} s"
        seconds = time.perf_counter() - started
        return Trial(number, kind, forged, kind in LARGER, outcome, bad, said, seconds, max(0, _peak() - before), how)


def small_codec(seed: int) -> Any:
    """The smallest codec of the family, whose networks do something."""
    import torch

    from codec.api import create_codec
    from codec.innvc.config import InnVCConfig

    small = {
        "width": 16, "trunk_blocks": 1, "field_features": 8, "state_channels": 8, "segment_frames": 4,
        "slice_frames": 2,
    }  # fmt: skip
    known = {f.name for f in fields(InnVCConfig)}
    torch.manual_seed(seed)
    codec = create_codec("innvc", {key: value for key, value in small.items() if key in known})
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if name.endswith("weight"):
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return codec.eval()


def _encode(codec: Any, content: int, options: Any) -> bytes:
    import numpy as np

    from codec.frames import Frame, VideoFormat

    width, height = PIXELS
    random = np.random.default_rng(content)
    rows, columns = np.mgrid[0 : height + 16, 0 : width + 16]
    scene = 128 + 60 * np.sin(rows / 5 + content) * np.cos(columns / 7) + random.normal(0, 3, rows.shape)
    frames = []
    for t in range(5):
        y = scene[t : t + height, 2 * t : 2 * t + width]
        planes = (np.clip(p, 0, 255).astype(np.uint8) for p in (y, y[::2, ::2] * 0.5 + 60, 255 - y[::2, ::2]))
        frames.append(Frame(*planes))
    sink = BytesIO()
    codec.encode(frames, VideoFormat(width, height), sink, options)
    return sink.getvalue()


def _reset_peak() -> int:
    """Set the peak of resident memory to what is held now, and give that."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _work(seed: int, numbers: range, sink: Connection) -> None:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError

    bench = Bench(seed)
    bench.clean()
    for number in numbers[:40]:  # whatever is made at its first use
        bench.run(number)
    sink.send(bench.clean())
    signal.signal(signal.SIGALRM, ring)
    for number in numbers:
        sink.send(number)
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        trial = bench.run(number)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.send(trial)
    sink.send(None)


# -- all of them -----------------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    numbers: range
    process: Any
    source: Connection
    current: int = -1
    heard: float = 0.0


def _run_all(count: int, seed: int, workers: int) -> tuple[int, list[Trial]]:
    """Clean allocation and all trials. A worker that dies or is stuck is replaced, and its mutation has failed."""
    context = multiprocessing.get_context("spawn")

    def start(numbers: range) -> _Worker:
        source, sink = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(seed, numbers, sink), daemon=True)
        process.start()
        sink.close()
        return _Worker(numbers, process, source, heard=time.monotonic() + 300)

    running = [start(range(first, count, workers)) for first in range(workers)]
    clean, trials = 0, []
    while running:
        ready = wait([w.source for w in running], timeout=1.0)
        for worker in list(running):
            lost = ""
            if worker.source in ready:
                try:
                    message = worker.source.recv()
                except EOFError:
                    lost = "CRASH"
                else:
                    worker.heard = time.monotonic()
                    if message is None:
                        running.remove(worker)
                    elif isinstance(message, Trial):
                        trials.append(message)
                        _progress(len(trials), count)
                    elif worker.current < 0 and not clean:
                        clean = int(message)
                    if isinstance(message, int):
                        worker.current = message
            elif time.monotonic() - worker.heard > STUCK_S:
                lost = "HANG"
            if lost:
                worker.process.kill()
                running.remove(worker)
                if worker.current < 0:
                    raise SystemExit("a worker died before its first mutation")
                trials.append(Trial(worker.current, "?", False, False, lost, True, "the process is lost", 0, 0, ""))
                rest = worker.numbers[worker.numbers.index(worker.current) + 1 :]
                if rest:
                    running.append(start(rest))
    return clean, trials


def _progress(done: int, count: int) -> None:
    if done % 500 == 0:
        print(f"{done} of {count}", file=sys.stderr, flush=True)


def _report(trials: list[Trial], clean: int, seconds: float, given: argparse.Namespace) -> int:
    limit = 2 * clean + UNREST
    outcomes = sorted({t.outcome for t in trials})
    tally = {
        kind: Counter(t.outcome for t in trials if t.kind == kind) for kind in dict.fromkeys(t.kind for t in trials)
    }
    table = [("mutation", "tried", *outcomes, "worst ms", "most KiB")]
    for kind, counts in tally.items():
        own = [t for t in trials if t.kind == kind]
        worst = f"{1000 * max(t.seconds for t in own):.0f}", f"{max(t.allocated for t in own) / 1024:.0f}"
        table.append((kind, str(len(own)), *(str(counts[o] or "") for o in outcomes), *worst))
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )
    swollen = [t for t in trials if t.allocated > limit and not t.larger]
    most = max(t.allocated for t in trials if not t.larger)
    larger = max((t.allocated for t in trials if t.larger), default=0)
    failures = [t for t in trials if t.bad or t.seconds > LIMIT_S or t in swollen]
    summary = {
        "mutations": len(trials), "seed": given.seed, "seconds": seconds,
        "clean_decode_bytes": clean, "allocation_limit_bytes": limit,
        "most_allocated_bytes": most, "over_allocation_limit": len(swollen),
        "most_allocated_with_forged_size_bytes": larger,
        "worst_seconds": max(t.seconds for t in trials), "over_5_seconds": sum(t.seconds > LIMIT_S for t in trials),
        "crashes": sum(t.outcome == "CRASH" for t in trials), "hangs": sum(t.outcome == "HANG" for t in trials),
        "unnoticed": sum(t.outcome == "UNNOTICED" for t in trials),
        "wrong_frames_shown": sum(t.outcome == "WRONG FRAME" for t in trials),
        "tally": {kind: dict(counts) for kind, counts in tally.items()},
        "failures": [asdict(t) for t in failures],
    }  # fmt: skip
    print(
        f"{len(trials)} mutations in {seconds:.0f} s: {summary['crashes']} crashes, {summary['hangs']} hangs, "
        f"{summary['unnoticed']} unnoticed, {summary['wrong_frames_shown']} wrong frames shown, worst "
        f"{summary['worst_seconds']:.2f} s; most allocated {summary['most_allocated_bytes'] / 1024:.0f} KiB beside "
        f"{clean / 1024:.0f} KiB of a clean decode, {len(swollen)} over twice that and 1 MiB; "
        f"with a forged picture size of up to {LARGER_PIXELS}x the pixels {larger / 1024:.0f} KiB"
    )
    for trial in failures[:20]:
        print(f"FAILED {trial.number} ({trial.kind}; {trial.reading}): {trial.outcome} {trial.said[:200]}, "
              f"{trial.seconds:.2f} s, {trial.allocated / 1024:.0f} KiB")  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
