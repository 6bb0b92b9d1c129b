"""Does a training survive its machines? Three Ray nodes on this host, killed, drained and added while it runs.

A run of 1 to 3 workers (one a node) loses a worker to kill -9, a whole node to kill -9, gets a node back, has a worker
told to go (SIGTERM) and a node drained; then the driver itself is told to stop, and the run goes on by its name. Its
curve is compared with that of a run of one worker that nothing happened to: every logged step there, the same schedule,
the first figures equal up to rounding and their means over the run alike. Exit status 1 where that does not hold.

Example: python -m benchmarks.training_drill --store clips/ --out drill/ --json drill.json
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A cluster started by `ray start` asks for a token, which Ray reads when it is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

from benchmarks.host_nodes import HEAD, HostNodes
from codec.errors import BitreelError
from trainers.loop import Pictures
from trainers.ray_train import train_on_ray
from trainers.recipe import Recipe, load_recipe
from trainers.run_events import note_event, read_events

FIRST_TOLERANCE = 1e-5  # relative, of the first logged figures: rounding alone
MEAN_TOLERANCE = 1e-2  # relative, of means over the whole curve: rounding grows as whole-number networks pass it on


@dataclass(frozen=True)
class CurveFile:
    """Each logged point as one line of JSON."""

    path: Path
    run_id: str = ""

    def open(self) -> CurveFile:
        return self

    def log(self, step: int, metrics: dict[str, float]) -> None:
        with self.path.open("a") as handle:
            handle.write(json.dumps({"step": step, "time": time.time()} | metrics) + "\n")

    def pictures(self, step: int, pictures: Pictures) -> None: ...

    def checkpoint(self, step: int, folder: Path) -> None: ...

    def close(self) -> None: ...

    def points(self) -> list[dict[str, float]]:
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]


OTHERS = ("127.0.0.2", "127.0.0.3")


class Chaos(threading.Thread):
    """Does one thing after another to a run, each once the run has advanced since the last."""

    def __init__(self, folder: Path, curve: CurveFile, acts: list[tuple[str, Callable[[], None]]], patience: int):
        super().__init__(daemon=True)
        self.folder, self.curve, self.acts, self.patience = folder, curve, acts, patience
        self.log: list[dict[str, Any]] = []

    def run(self) -> None:
        for text, act in self.acts:
            self._wait_for_steps(2)
            before = self._step()
            note_event(self.folder, "drill", text)
            self.log.append({"time": time.time(), "what": text, "step": before})
            act()
            began = self._starts()
            until = time.time() + self.patience
            while self._starts() == began and time.time() < until and "driver" not in text:
                time.sleep(0.2)

    def _step(self) -> int:
        return int(self.curve.points()[-1]["step"]) if self.curve.points() else 0

    def _starts(self) -> int:
        return sum(event["event"] == "started" for event in read_events(self.folder)[0])

    def _wait_for_steps(self, count: int) -> None:
        """Until that many further points were logged."""
        seen = len(self.curve.points())
        while len(self.curve.points()) < seen + count:
            time.sleep(0.2)


def recipe_of(steps: int, batch: int) -> Recipe:
    changes = [f"batch_size={batch}", "log_every=5", "checkpoint_every=10", "pictures_every=1000", "ema_decay=0.9"]
    phase = f'{{ name = "drill", steps = {steps}, learning_rate = [1e-3, 1e-3], crop = 64, clip_frames = 3 }}'
    return load_recipe("innvc-demo", [*changes, f"phases=[{phase}]"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="clip store")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two runs; must not hold any")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=5, help="clips a step; 5 on 3 workers are shares of 2, 2 and 1")
    parser.add_argument("--patience", type=int, default=120, help="seconds to wait for a restart after each blow")
    parser.add_argument("--port", type=int, default=6440, help="of the drill's own Ray")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(arguments.steps, arguments.batch)

    import ray

    nodes = HostNodes(arguments.port, Path(f"/tmp/drill-{os.getpid()}"))
    broken, calm = CurveFile(out / "broken.curve"), CurveFile(out / "calm.curve")

    def signal_worker(number: int) -> None:
        os.kill(nodes.named("RayTrainWorker")[-1], number)

    acts: list[tuple[str, Callable[[], None]]] = [
        ("kill -9 of a worker", lambda: signal_worker(signal.SIGKILL)),
        ("kill -9 of a node", lambda: nodes.kill(OTHERS[1])),
        ("a node is added", lambda: nodes.join(OTHERS[1], 1)),
        ("SIGTERM to a worker", lambda: signal_worker(signal.SIGTERM)),
        ("a node is drained, 60 s", lambda: nodes.drain(OTHERS[0], 60)),
        ("SIGTERM to the driver", lambda: os.kill(os.getpid(), signal.SIGTERM)),
    ]
    chaos = Chaos(out / "broken", broken, acts, arguments.patience)
    (out / "broken").mkdir()

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)

    try:
        nodes.start(HEAD, 1)
        time.sleep(15)  # an address that nobody listens at yet is given up at once
        ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
        for address in OTHERS:
            nodes.join(address, 1)
        say("3 nodes are up")
        chaos.start()
        told = {"storage": out, "on_event": say}
        try:
            train_on_ray(recipe, arguments.store, "broken", workers=(1, 3), tracking=broken, **told)
            say("the run ended before the drill did: give it more --steps")
        except BitreelError as error:
            say(str(error))
        train_on_ray(recipe, arguments.store, "broken", workers=(1, 3), tracking=broken, **told)
        train_on_ray(recipe, arguments.store, "calm", workers=1, tracking=calm, **told)
    finally:
        ray.shutdown()
        nodes.stop()
    report = compare(out, broken, calm, chaos, recipe)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if report["sound"] else 1)


def compare(out: Path, broken: CurveFile, calm: CurveFile, chaos: Chaos, recipe: Recipe) -> dict[str, Any]:
    """Prints what happened and how far apart the curves are; gives the same as plain data."""
    points = broken.points()
    starts = [event for event in read_events(out / "broken")[0] if event["event"] == "started"]
    print(f"\n{'what':28}{'at step':>9}{'workers then':>14}{'from step':>11}{'s to next point':>17}")
    for act in chaos.log:
        after = next((s for s in starts if s["time"] > act["time"]), None)
        point = next((p for p in points if after and p["time"] > after["time"]), None)
        act |= {"workers": after and after["workers"], "from": after and after["step"]}
        act["seconds"] = point and round(point["time"] - act["time"], 1)
        print(f"{act['what']:28}{act['step']:>9}{act['workers']!s:>14}{act['from']!s:>11}{act['seconds']!s:>17}")
    curve = {int(p["step"]): p for p in points}
    wanted = {int(p["step"]): p for p in calm.points()}
    missing = sorted(set(wanted) - set(curve))
    apart: dict[str, dict[str, float]] = {}
    for key in ("loss", "bpp", "learning_rate", "mask_fraction"):
        pairs = [(curve[step][key], wanted[step][key]) for step in sorted(wanted) if step in curve]
        each = [abs(here - there) / abs(there) for here, there in pairs]
        mean = abs(sum(here for here, _ in pairs) / sum(there for _, there in pairs) - 1)
        apart[key] = {"first": each[0], "largest": max(each), "of the mean": mean}
    # A batch's figures are of batch_size clips whatever the world; QPs and clips follow from the step alone.
    sound = not missing and len(chaos.log) == 6
    for key, found in apart.items():
        same = key in ("learning_rate", "mask_fraction")
        sound = sound and found["largest"] <= (0 if same else 1)
        sound = sound and found["first"] <= FIRST_TOLERANCE and found["of the mean"] <= MEAN_TOLERANCE
    print(f"points missing: {len(missing)} of {len(wanted)}")
    for key, found in apart.items():
        print(f"{key} beside the calm run's: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    print("sound" if sound else "NOT SOUND")
    return {"sound": sound, "acts": chaos.log, "apart": apart, "missing": missing, "steps": recipe.total_steps}


if __name__ == "__main__":
    main()
