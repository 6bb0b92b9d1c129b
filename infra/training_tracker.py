"""How a training shows itself in MLflow: curves, pictures, checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from codec.api import CONFIG_FILE, WEIGHTS_FILE
from codec.colour import frame_to_rgb
from codec.frames import Frame, VideoFormat
from infra.tracking import TrackedRun, ask, connect
from trainers.loop import Pictures

_GAP = 4  # white pixels between frames


class TrainingTracker:
    """Curves, pictures and checkpoints of a training in MLflow.

    A worker that took over after another died logs some steps a second time; they have the very same values, so steps
    up to the last one in MLflow are left out. While MLflow is away, curve points wait and the training goes on.
    """

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self.client = connect(run.uri)
        # The one figure that every point has.
        history = ask(run.uri, lambda: self.client.get_metric_history(run.run_id, "learning_rate"))
        self._logged = max((point.step for point in history), default=-1)
        self._waiting: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """One point of each curve."""
        if step <= self._logged:
            return
        self._logged = step
        self._waiting.append((step, metrics))
        self._try(self._flush)

    def pictures(self, step: int, pictures: Pictures) -> None:
        """Source above, reconstruction below, frames side by side, as one PNG."""

        def send() -> None:
            name = f"reconstructions/step-{step:06d}-qp{pictures.qp:02d}.png"
            self.client.log_image(self.run.run_id, side_by_side(pictures), name)

        self._try(send)

    def checkpoint(self, step: int, folder: Path) -> None:
        """Weights and config, without the optimizer's state."""

        def send() -> None:
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                self.client.log_artifact(self.run.run_id, str(folder / name), f"checkpoints/step-{step:06d}")

        self._try(send)

    def close(self) -> None:
        """Send what still waits."""
        self._try(self._flush)

    def _flush(self) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(key, value, now, step) for step, metrics in self._waiting for key, value in metrics.items()]
        for first in range(0, len(points), 1000):
            self.client.log_batch(self.run.run_id, metrics=points[first : first + 1000], synchronous=True)
        self._waiting.clear()

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:  # whatever is wrong with MLflow, hours of training must not end by it
            logging.getLogger(__name__).warning("MLflow did not take it, training goes on: %s", error)


def side_by_side(pictures: Pictures) -> NDArray[np.uint8]:
    """Source frames in a row, their reconstructions below: (2·H + gap, T·W + gaps, 3) uint8 RGB, read as BT.709."""
    rows = [
        _row(luma, chroma)
        for luma, chroma in ((pictures.source_luma, pictures.source_chroma), (pictures.luma, pictures.chroma))
    ]
    gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([rows[0], gap, rows[1]])


def _row(luma: Tensor, chroma: Tensor) -> NDArray[np.uint8]:
    height, width = luma.shape[-2:]
    parts: list[NDArray[np.uint8]] = []
    for y, uv in zip(luma.numpy(), chroma.numpy(), strict=True):
        parts += [frame_to_rgb(Frame(y[0], uv[0], uv[1]), VideoFormat(width, height))]
        parts += [np.full((height, _GAP, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)
