"""A tracker that keeps a run's curve in a file, so that two runs can be compared bit by bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trainers.averages import TIMES
from trainers.loop import Pictures


@dataclass(frozen=True)
class CurveFile:
    """Each logged point is one line; JSON keeps every bit of a float."""

    path: Path
    run_id: str = "curve"

    def open(self) -> CurveFile:
        return self

    def log(self, step: int, metrics: dict[str, float]) -> None:
        with self.path.open("a") as handle:
            handle.write(json.dumps([step, metrics]) + "\n")

    def pictures(self, step: int, pictures: Pictures) -> None: ...

    def checkpoint(self, step: int, folder: Path) -> None: ...

    def close(self) -> None: ...

    def curve(self) -> dict[int, dict[str, float]]:
        """Figures by step, without times. A step that was logged twice must have had the same ones."""
        curve: dict[int, dict[str, float]] = {}
        for line in self.path.read_text().splitlines():
            step, metrics = json.loads(line)
            figures = {key: value for key, value in metrics.items() if key not in TIMES}
            assert curve.get(step, figures) == figures
            curve[step] = figures
        return curve
