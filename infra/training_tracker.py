"""How a training shows itself in MLflow: curves, pictures, checkpoints."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from codec.api import CONFIG_FILE, WEIGHTS_FILE
from codec.atomic_files import write_json_atomically
from codec.colour import frame_to_rgb
from codec.frames import Frame, VideoFormat
from infra.outbox import Outbox
from infra.system_metrics import SystemSampler
from trainers.loop import Pictures
from trainers.validation import ValidationResult

TRAINING, SYSTEM, VALIDATION, SWEEP = "training", "system", "validation", "sweep"  # whose curve a point belongs to
CLOSE_SECONDS = 10.0
_GAP = 4  # white pixels between frames


class TrainingTracker:
    """Curves, pictures, checkpoints and validations of a training on their way to MLflow; nothing here waits for it.

    A worker that took over after another died logs some steps a second time: those that are on record already are left
    out, whether MLflow has them yet or not.
    """

    def __init__(self, outbox: Outbox, sample_system: bool = False) -> None:
        self.outbox = outbox
        self._newest = dict.fromkeys((TRAINING, SYSTEM), -1)
        self._validated: set[int] = set()
        self._placed: dict[str, float] = {}
        for entry in outbox.history():
            if entry["kind"] == "metrics":
                self._newest[entry["of"]] = max(self._newest.get(entry["of"], -1), entry["step"])
                if entry["of"] == SWEEP:
                    self._placed = entry["values"]
                if entry["of"] == VALIDATION:
                    self._validated.add(entry["step"])
        self._sampler = SystemSampler(self._system, outbox.folder) if sample_system else None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """One point of each curve."""
        if step > self._newest[TRAINING]:
            self._newest[TRAINING] = step
            self.outbox.append({"kind": "metrics", "of": TRAINING, "step": step, "values": metrics})

    def pictures(self, step: int, pictures: Pictures) -> None:
        """Source above, reconstruction below, frames side by side, as one PNG."""
        from PIL import Image

        name = f"step-{step:06d}-qp{pictures.qp:02d}.png"
        strip = Image.fromarray(side_by_side(pictures))
        self.outbox.add_file(name, "reconstructions", lambda path: strip.save(path, compress_level=1))

    def checkpoint(self, step: int, folder: Path) -> None:
        """Weights and config, without the optimizer's state."""
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            self.outbox.add_file(name, f"checkpoints/step-{step:06d}", partial(shutil.copyfile, folder / name))

    def validation(self, result: ValidationResult) -> None:
        """The rate-distortion points of a checkpoint at the checkpoint's step, however far training has gone on."""
        if result.step in self._validated:
            return
        self._validated.add(result.step)
        self.outbox.add_file(
            f"step-{result.step:06d}.json", "validation", lambda path: write_json_atomically(path, result.to_json())
        )
        values = result.figures()
        self.outbox.append({"kind": "metrics", "of": VALIDATION, "step": result.step, "values": values})

    def place(self, figures: dict[str, float]) -> None:
        """What a sweep says of this training; once, where it says the same again."""
        if figures != self._placed:
            self._placed = figures
            self.outbox.append({"kind": "metrics", "of": SWEEP, "step": 0, "values": figures})

    def tags(self, values: dict[str, str]) -> None:
        """Set tags of the run."""
        self.outbox.append({"kind": "tags", "values": values})

    def stopping(self) -> None:
        """The training was told to end: MLflow hears of it now, since whoever told may kill it before it is done."""
        self.outbox.append({"kind": "status", "status": "KILLED"})

    def close(self) -> None:
        """Send what still waits, as far as MLflow answers soon; the rest is sent by the next process of the run."""
        if self._sampler is not None:
            self._sampler.stop()
        if not self.outbox.close(CLOSE_SECONDS):
            logging.getLogger(__name__).warning("MLflow did not take everything yet; the rest waits on disk")

    def _system(self, figures: dict[str, float]) -> None:
        self._newest[SYSTEM] += 1
        self.outbox.append({"kind": "metrics", "of": SYSTEM, "step": self._newest[SYSTEM], "values": figures})


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
