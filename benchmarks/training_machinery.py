"""What does Ray Train cost a training, beside the plain loop; what do two workers bring; how long until it runs?

Steady state: the same recipe, seed and store in a fresh process each time, in turns: the plain loop, Ray Train with one
worker of one thread, Ray Train with two, and what the host itself gives two such processes: two plain loops at once,
each with half the batch, that know nothing of each other. A round's figure is the median of its logged windows, the
first one left out; the ratios are medians over rounds, of the clock and, for a host that has other work, of rank 0's
CPU time. The plain loops write no checkpoints, the others do.

Waiting: from the command to the first finished step and, a worker killed with -9 in mid-run, from its death to the next
finished step, with what went by between (Ray up, workers there, training begun).

Example: python -m benchmarks.training_machinery --store clips/ --rounds 3 --json machinery.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.host_nodes import command_of, processes_below

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def recipe_of(name: str, steps: int, batch: int) -> Any:
    from trainers.recipe import load_recipe

    phase = f'{{ name = "timed", steps = {steps}, learning_rate = [1e-4, 1e-4], crop = 128, clip_frames = 4 }}'
    changes = [f"batch_size={batch}", "log_every=4", "checkpoint_every=20", "pictures_every=1000"]
    return load_recipe(name, [*changes, f"phases=[{phase}]"])


class Curve:
    """A tracker that keeps (time, step, seconds a step, CPU seconds of this process) in a file."""

    run_id = ""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> Curve:
        return self

    def log(self, step: int, metrics: dict[str, float]) -> None:
        with self.path.open("a") as handle:
            handle.write(json.dumps([time.time(), step, metrics["seconds_per_step"], time.process_time()]) + "\n")

    def pictures(self, step: int, pictures: object) -> None: ...

    def checkpoint(self, step: int, folder: Path) -> None: ...

    def close(self) -> None: ...

    def points(self) -> list[tuple[float, int, float, float]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.is_file() else []


class PlainHooks:
    """The loop's hooks with nothing behind them but the curve."""

    def __init__(self, curve: Curve) -> None:
        self.on_log = curve.log

    def on_pictures(self, step: int, pictures: object) -> None: ...

    def on_checkpoint(self, snapshot: object) -> None: ...

    def request(self) -> Any:
        from trainers.step_requests import Request

        return Request.NOTHING


def run_once(arguments: argparse.Namespace) -> None:
    """One training in this process, for the parent to look at its curve."""
    import torch

    from trainers.loop import fresh_codec, train
    from trainers.phase_batches import PhaseBatches

    torch.set_num_threads(1)
    recipe = recipe_of(arguments.recipe, arguments.steps, arguments.batch)
    curve = Curve(arguments.out / "curve")
    if arguments.workers == 0:
        train(fresh_codec(recipe), recipe, PhaseBatches(arguments.store, recipe), PlainHooks(curve))
        return
    import ray

    ray.init(address="local", num_cpus=arguments.workers, include_dashboard=False, log_to_driver=False)
    (arguments.out / "ray").write_text(str(time.time()))
    if arguments.kill:
        threading.Thread(
            target=_kill_one, args=(curve, arguments.steps // 2, arguments.out / "killed"), daemon=True
        ).start()
    from trainers.ray_train import train_on_ray

    train_on_ray(recipe, arguments.store, "run", storage=arguments.out, workers=arguments.workers, tracking=curve)


def _kill_one(curve: Curve, step: int, note: Path) -> None:
    while not curve.points() or curve.points()[-1][1] < step:
        time.sleep(0.05)
    (victim,) = [pid for pid in processes_below(os.getpid()) if "RayTrainWorker" in command_of(pid)]
    note.write_text(str(time.time()))
    os.kill(victim, signal.SIGKILL)


def apart(arguments: argparse.Namespace) -> dict[str, float]:
    """Figures of two plain loops at once, each of half the batch: means of both."""
    half = argparse.Namespace(**vars(arguments) | {"batch": arguments.batch // 2})
    with ThreadPoolExecutor(2) as both:
        one, other = both.map(lambda _: measured(half, 0), range(2))
    return {name: (one[name] + other[name]) / 2 for name in one}


def measured(arguments: argparse.Namespace, workers: int, kill: bool = False) -> dict[str, float]:
    """Figures of one training in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="m-") as folder:
        out = Path(folder)
        command = [sys.executable, "-m", "benchmarks.training_machinery", "--store", str(arguments.store)]
        command += ["--recipe", arguments.recipe, "--steps", str(arguments.steps), "--batch", str(arguments.batch)]
        command += ["--one", "--workers", str(workers), "--out", str(out)] + (["--kill"] if kill else [])
        began = time.time()
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        points = Curve(out / "curve").points()
        windows = list(itertools.pairwise(points[1:]))
        figures = {
            "seconds_per_step": statistics.median(point[2] for point in points[1:]),
            "cpu_seconds_per_step": statistics.median((b[3] - a[3]) / (b[1] - a[1]) for a, b in windows),
        }
        first_time, first_step, first_seconds, _ = points[0]
        figures["to_first_step"] = first_time - first_seconds * (first_step - 1) - began
        if workers:
            from trainers.run_events import read_events

            started = [e["time"] for e in read_events(out / "run")[0] if e["event"] == "started"]
            figures["ray_up"] = float((out / "ray").read_text()) - began
            figures["workers_there"] = started[0] - began
        if kill:
            killed = float((out / "killed").read_text())
            next_time, _, next_seconds, _ = next(p for p in points if p[0] > started[-1])
            figures["death_to_workers"] = started[-1] - killed
            # A window is closed log_every steps after its first.
            figures["death_to_next_step"] = next_time - 3 * next_seconds - killed
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="clip store")
    parser.add_argument("--recipe", default="innvc-small", help="whose codec is trained")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--json", type=Path)
    for hidden in ("--one", "--kill"):
        parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_once(arguments)
        return
    rounds = []
    for number in range(arguments.rounds):
        kinds = {"plain": 0, "one": 1, "two": 2}
        rounds.append({name: measured(arguments, workers) for name, workers in kinds.items()})
        rounds[-1]["apart"] = apart(arguments)
        shown = ", ".join(f"{name} {1 / r['seconds_per_step']:.3f}" for name, r in rounds[-1].items())
        print(f"round {number + 1}: steps/s {shown}", flush=True)
    killed = measured(arguments, 1, kill=True)

    def ratio(above: str, below: str, figure: str = "seconds_per_step") -> float:
        return statistics.median(r[below][figure] / r[above][figure] for r in rounds)

    report: dict[str, Any] = {
        "ray_of_plain": ratio("one", "plain"),
        "two_of_one": ratio("two", "one"),
        "apart_of_plain": ratio("apart", "plain"),
        "ray_of_plain_cpu": ratio("one", "plain", "cpu_seconds_per_step"),
        "two_of_one_cpu": ratio("two", "one", "cpu_seconds_per_step"),
        "plain_to_first_step": statistics.median(r["plain"]["to_first_step"] for r in rounds),
        **{
            f"ray_{key}": statistics.median(r["one"][key] for r in rounds)
            for key in ("ray_up", "workers_there", "to_first_step")
        },
        **{key: killed[key] for key in ("death_to_workers", "death_to_next_step")},
        "rounds": rounds,
    }
    print(f"Ray Train, 1 worker, of the plain loop's steps a second:   {100 * report['ray_of_plain']:.1f} %")
    print(f"the same in CPU time of the worker:                        {100 * report['ray_of_plain_cpu']:.1f} %")
    print(f"2 workers of 1 thread, of 1 worker of 1 thread:            {report['two_of_one']:.2f} x")
    print(f"the same in CPU time of one of them:                       {report['two_of_one_cpu']:.2f} x")
    print(f"2 plain loops apart, half the batch each, of 1 loop:       {report['apart_of_plain']:.2f} x")
    print(f"command to first step, plain loop:                         {report['plain_to_first_step']:.1f} s")
    for label, key in (("Ray up", "ray_ray_up"), ("workers there", "ray_workers_there")):
        print(f"command to {label + ', Ray Train:':48}{report[key]:.1f} s")
    print(f"command to first step, Ray Train:                          {report['ray_to_first_step']:.1f} s")
    print(f"kill -9 of the worker to a new one there:                  {report['death_to_workers']:.1f} s")
    print(f"kill -9 of the worker to the next step:                    {report['death_to_next_step']:.1f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
