"""What DCVC-FM base's motion estimation learns from frames moved by a known flow, seen on footage it has not met.

    python -m benchmarks.motion_pretraining STORE --clips FOLDER [--steps N] [--set KEY=VALUE ...] [--json PATH]

Trains that phase of the recipe alone, on the store's training clips, for a few steps; then takes consecutive frames of
each video (the middle 256x192, six pairs) and tells the PSNR-Y of a frame made from the one before it: as it is, along
the flow of the network before training, and along that of the trained one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.dcvc_fm_base.model import DCVCFMBase
from codec.dcvc_fm_base.pictures import to_network
from codec.dcvc_fm_base.warping import warp
from codec.frames import Frame
from pipeline.decoders import open_video
from trainers.loop import fresh_codec, train
from trainers.phase_batches import PhaseBatches
from trainers.recipe import Recipe, load_recipe
from trainers.step_requests import Request

_WIDTH, _HEIGHT = 256, 192
_PAIRS, _APART = 6, 5  # pairs of a video, and frames from one pair to the next


class Curve:
    """Hooks that remember the end-point error, and show it."""

    def __init__(self) -> None:
        self.errors: dict[int, float] = {}

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        self.errors[step] = metrics["loss"]
        print(f"step {step}: {metrics['loss']:.2f} pixels, {metrics['psnr_yuv']:.2f} dB", flush=True)

    def on_pictures(self, step: int, pictures: object) -> None: ...

    def on_checkpoint(self, snapshot: object) -> None: ...

    def request(self) -> Request:
        return Request.NOTHING


def motion_recipe(steps: int, changes: list[str]) -> Recipe:
    """The recipe's motion phase alone, `steps` long. Learning rate and warm-up are for a short run."""
    whole = load_recipe("dcvc-fm-base")
    phase = next(p for p in whole.phases if p.loss == "motion")
    phase = replace(phase, steps=steps, warmup_steps=min(20, steps), learning_rate=(1e-3, 2e-5), crop=64)
    short = load_recipe("dcvc-fm-base", ["batch_size=4", "log_every=100", "checkpoint_every=100", *changes])
    return replace(short, phases=(phase,), pictures_every=short.log_every * 10**6, weight_decay=0.0)


def pairs_of(video: Path) -> list[tuple[Frame, Frame]]:
    """(before, frame), the middle of the picture; none where the video is too small or too short."""
    found: list[tuple[Frame, Frame]] = []
    with open_video(video) as source:
        if source.format.width < _WIDTH or source.format.height < _HEIGHT:
            return []
        left, top = ((a - b) // 4 * 2 for a, b in ((source.format.width, _WIDTH), (source.format.height, _HEIGHT)))
        before: Frame | None = None
        for number, frame in enumerate(source):
            cut = Frame(
                frame.y[top : top + _HEIGHT, left : left + _WIDTH],
                *(p[top // 2 :, left // 2 :][: _HEIGHT // 2, : _WIDTH // 2] for p in (frame.u, frame.v)),
            )
            if before is not None and number % _APART == 1:
                found.append((before, cut))
            before = cut
            if len(found) == _PAIRS:
                break
    return found


@torch.no_grad()
def psnr_y(codec: DCVCFMBase, pairs: list[tuple[Frame, Frame]], moved: bool) -> float:
    """Mean over the pairs, dB, of the frame before beside the frame; moved: along the flow that the network finds."""
    found = []
    for before, now in pairs:
        earlier, frame = (to_network(f, torch.device("cpu")) for f in (before, now))
        made = warp(earlier, codec.inter.estimation(frame, earlier)) if moved else earlier
        found.append(_psnr(made[:, :1], frame[:, :1]))
    return float(np.mean(found))


def _psnr(made: Tensor, wanted: Tensor) -> float:
    return float(-10 * torch.log10((made - wanted).square().mean().clamp_min(1e-10)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = motion_recipe(arguments.steps, arguments.changes)
    codec, untrained = fresh_codec(recipe), fresh_codec(recipe)
    assert isinstance(codec, DCVCFMBase) and isinstance(untrained, DCVCFMBase)
    batches, curve = PhaseBatches(arguments.store, recipe), Curve()
    try:
        train(codec, recipe, batches, curve)
    finally:
        batches.close()
    rows = {}
    print(f"\n{'PSNR-Y, dB':28}{'unmoved':>10}{'untrained':>11}{'trained':>9}")
    for video in sorted(p for p in arguments.clips.iterdir() if p.is_file()):
        if pairs := pairs_of(video):
            row = [psnr_y(codec, pairs, moved=False), *(psnr_y(c, pairs, moved=True) for c in (untrained, codec))]
            rows[video.name] = row
            print(f"{video.name[:27]:28}{row[0]:>10.2f}{row[1]:>11.2f}{row[2]:>9.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"end_point_error": curve.errors, "psnr_y": rows}, indent=1))


if __name__ == "__main__":
    main()
