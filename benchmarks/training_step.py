"""Where does a training step's time go, and what do a recipe's settings change about it?

One thread, made-up moving clips, the recipe's longest phase. First table: shares of a step by stage, measured around
the calls that the codec's training pass makes. Second: seconds a step, by the clock and, for a host that has other
work, in CPU time, and the most memory a step adds, each setting beside none of them, in turns. --operations tells
instead which operators of PyTorch a step is made of.

Example: python -m benchmarks.training_step --recipe innvc-small --steps 6 --json step.json
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# Stage → names in the codec's training_pass module; a name with a dot is a method of a class there.
STAGES = {
    "motion search": ("search_motion",),
    "prediction": ("predict",),
    "motion bits": ("estimate_motion_bits",),
    "networks, forward": ("_FramePass.run", "_FramePass.look"),
    "field, forward": ("_propose_field",),
    "intra frames": ("_intra_frames",),
    "rebuilding, references": ("renew", "float_inverse"),
}
SETTINGS = {
    "as it is": [],
    "recompute": ["recompute=true"],
    "micro_batch = 2": ["micro_batch=2"],
    "precision = bf16": ["precision='bf16'"],
    "compile": ["compile=true"],
    "compile and bf16": ["compile=true", "precision='bf16'"],
    "per-frame loss": ["phases.0.loss='per-frame'"],
}


class Stages:
    """Seconds by stage; what runs inside another stage counts there alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within = False

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*inputs: Any, **named: Any) -> Any:
            if self._within:
                return call(*inputs, **named)
            self._within, began = True, time.perf_counter()
            try:
                return call(*inputs, **named)
            finally:
                self.seconds[stage] += time.perf_counter() - began
                self._within = False

        return run

    def watch(self, module: Any) -> None:
        for stage, names in STAGES.items():
            for name in names:
                owner, _, last = name.rpartition(".")
                place = getattr(module, owner, None) if owner else module
                if place is not None and hasattr(place, last):
                    setattr(place, last, self.timed(stage, getattr(place, last)))


class Clips:
    """Smooth noise that moves by one pixel a frame: the search has something to find."""

    def __init__(self, recipe: Any) -> None:
        phase = recipe.phases[0]
        generator = torch.Generator().manual_seed(1)
        side = phase.crop // 8 + 8
        coarse = torch.randint(0, 256, (recipe.batch_size, 1, 3, side, side), generator=generator, dtype=torch.uint8)
        full = coarse.repeat_interleave(8, -1).repeat_interleave(8, -2)
        frames = [full[..., t : t + phase.crop, 2 * t : 2 * t + phase.crop] for t in range(phase.clip_frames)]
        clip = torch.cat(frames, dim=1)
        self.luma, self.chroma = clip[:, :, :1].contiguous(), clip[:, :, 1:, ::2, ::2].contiguous()

    def batch(self, step: int) -> Clips:
        return self


class Hooks:
    """Times of the steps, by the clock and of this process; nothing is kept."""

    def __init__(self, after_step: Callable[[], None] = lambda: None) -> None:
        self.after_step = after_step
        self.times, self.cpu = [time.perf_counter()], [time.process_time()]

    def on_log(self, step: int, metrics: object) -> None: ...

    def on_pictures(self, step: int, pictures: object) -> None: ...

    def on_checkpoint(self, snapshot: object) -> None: ...

    def request(self) -> Any:
        from trainers.step_requests import Request

        self.times.append(time.perf_counter())
        self.cpu.append(time.process_time())
        self.after_step()
        return Request.NOTHING


def recipe_of(arguments: argparse.Namespace, changes: list[str]) -> Any:
    from trainers.recipe import load_recipe

    longest = max(load_recipe(arguments.recipe).phases, key=lambda phase: phase.clip_frames)
    kept = ("mask_fraction", "qp", "clip_frames", "crop", "learning_rate", "field_dropout", "grad_clip", "loss")
    values = ", ".join(f"{key} = {json.dumps(getattr(longest, key))}" for key in kept)
    phase = f'{{ name = "timed", steps = {arguments.steps + 2}, {values} }}'
    return load_recipe(arguments.recipe, [f"phases=[{phase}]", "pictures_every=1000000", *changes])


def measure(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
    """One training of a few steps in this process."""
    torch.set_num_threads(1)
    from trainers.loop import fresh_codec, train

    recipe = recipe_of(arguments, changes)
    codec = fresh_codec(recipe)
    stages, hooks = Stages(), Hooks()
    if not changes:
        stages.watch(importlib.import_module(type(codec).__module__.replace(".model", ".training_pass")))
        _time(stages, torch.Tensor, "backward", "backward")
        _time(stages, importlib.import_module("trainers.adamw").AdamW, "step", "optimizer")
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(codec, recipe, Clips(recipe), hooks)
    # Requests come once a step, after its backward pass; the first two steps compile and warm up.
    steps, cpu = ([b - a for a, b in itertools.pairwise(times[2:])] for times in (hooks.times, hooks.cpu))
    total = hooks.times[-1] - hooks.times[0]
    return {
        "seconds": statistics.median(steps),
        "cpu": statistics.median(cpu),
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "shares": {stage: seconds / total for stage, seconds in stages.seconds.items()},
    }


def _time(stages: Stages, owner: Any, name: str, stage: str) -> None:
    setattr(owner, name, stages.timed(stage, getattr(owner, name)))


def operations(arguments: argparse.Namespace) -> None:
    """Prints the operators that take most of a step's CPU time, by torch.profiler; the first two steps are left out."""
    from torch.profiler import ProfilerActivity, profile, schedule

    from trainers.loop import fresh_codec, train

    torch.set_num_threads(1)
    recipe = recipe_of(arguments, [])
    turns = schedule(wait=1, warmup=1, active=arguments.steps)
    with profile(activities=[ProfilerActivity.CPU], schedule=turns, acc_events=True) as profiler:
        train(fresh_codec(recipe), recipe, Clips(recipe), Hooks(profiler.step))
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows if not row.key.startswith("ProfilerStep"))
    rows = [row for row in rows if not row.key.startswith("ProfilerStep")]
    print(f"{'operator':44}{'of a step':>10}{'ms a step':>11}{'calls':>8}")
    for row in rows[: arguments.operations]:
        own, calls = row.self_cpu_time_total, row.count / arguments.steps
        print(f"{row.key[:43]:44}{100 * own / whole:>8.1f} %{own / 1000 / arguments.steps:>11.1f}{calls:>8.0f}")


def in_a_process(arguments: argparse.Namespace, setting: str) -> dict[str, Any] | str:
    command = [sys.executable, "-m", "benchmarks.training_step", "--recipe", arguments.recipe]
    command += ["--steps", str(arguments.steps), "--one", setting]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="innvc-small")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--operations", type=int, metavar="N", help="print the N operators that take most instead")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments, SETTINGS[arguments.one])))
        return
    if arguments.operations:
        operations(arguments)
        return
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    refused = {}
    for _ in range(arguments.rounds):
        for setting in SETTINGS:
            result = in_a_process(arguments, setting)
            print(f"{setting}: {result if isinstance(result, str) else round(result['seconds'], 3)}", flush=True)
            if isinstance(result, str):
                refused[setting] = result
            else:
                found[setting].append(result)
    shares = found["as it is"][-1]["shares"]
    for stage, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{stage:28}{100 * share:6.1f} %")
    print(f"{'all else':28}{100 * (1 - sum(shares.values())):6.1f} %\n")
    print(f"{'setting':24}{'s a step':>10}{'of none':>10}{'CPU s':>10}{'of none':>10}{'MiB':>8}")
    plain = found["as it is"]
    table = {}
    for setting, results in found.items():
        row = {key: statistics.median(r[key] for r in results) for key in ("seconds", "cpu", "mib")}
        for key in ("seconds", "cpu"):
            row[f"{key}_of_none"] = statistics.median(r[key] / p[key] for r, p in zip(results, plain, strict=False))
        table[setting] = row
        figures = [f"{row[key]:>10.2f}" for key in ("seconds", "seconds_of_none", "cpu", "cpu_of_none")]
        print(f"{setting:24}", *figures, f"{row['mib']:>8.0f}", sep="")
    for setting, why in refused.items():
        print(f"{setting:24}refused: {why}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"shares": shares, "settings": table, "refused": refused}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
