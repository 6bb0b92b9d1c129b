"""What exactness costs: the same network trained twice, in whole numbers and in plain floats, coding the same videos.

    python benchmarks/exact_priors.py STORE [--recipe innvc-demo] [--set scale_steps=1.0] [--out DIR] [--json PATH]

Both trainings see the same batches, QPs and seed; only the rounding differs (`codec.exact.operations.floating`). Real
streams of the store's held-out videos are written and decoded with each, once with the recurrent state and once without
it (hyper-latents, spatial and channel contexts alone). A trained model is kept in --out and taken up again.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import bjontegaard
import torch

from codec.api import Codec, EncodeOptions, create_codec, load_codec, save_codec
from codec.exact.operations import floating
from codec.frames import Frame, frames_digest
from codec.metrics import psnr, psnr_yuv
from infra.demo import held_out_videos
from pipeline.decoders import open_video
from trainers.checkpoint import Snapshot
from trainers.loop import Pictures, train
from trainers.phase_batches import PhaseBatches
from trainers.recipe import load_recipe
from trainers.step_requests import Request

QPS = (0, 12, 24, 36, 48, 60)
STATES = {"hyper-latents, spatial and group contexts": 0, "with the recurrent state": 48}


class _Progress:
    """Training's hooks: a line now and then."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        if step % 50 == 0:
            print(f"  {self.name}: step {step} of {self.total}, loss {metrics['loss']:.4f}", flush=True)

    def on_pictures(self, step: int, pictures: Pictures) -> None: ...

    def on_checkpoint(self, snapshot: Snapshot) -> None: ...

    def request(self) -> Request:
        return Request.NOTHING


@contextmanager
def arithmetic(exact: bool) -> Iterator[None]:
    """Whole numbers, or floats."""
    with nullcontext() if exact else floating():
        yield


def trained(store: Path, recipe_name: str, overrides: list[str], state: int, exact: bool, out: Path) -> Codec:
    """Train one of the four models, or take it up from `out`."""
    name = f"{'exact' if exact else 'float'}-{state}"
    if (out / name / "config.json").is_file():
        return load_codec(out / name)
    recipe = load_recipe(recipe_name, overrides)
    torch.manual_seed(recipe.seed)
    codec = create_codec(recipe.codec, {**recipe.codec_config, "state_channels": state})
    with arithmetic(exact):
        train(codec, recipe, PhaseBatches(store, recipe), _Progress(name, recipe.total_steps))
    codec.eval()
    save_codec(codec, out / name)
    return codec


def coded(codec: Codec, video: Path, count: int, exact: bool) -> list[tuple[int, int, float]]:
    """(QP, bytes of the stream, PSNR-YUV in dB) at every QP; each stream is decoded and compared."""
    with open_video(video) as source:
        fmt, frames = source.format, list(islice(source, count))
    points = []
    for qp in QPS:
        sink: io.BytesIO = io.BytesIO()
        seen: list[Frame] = []
        with arithmetic(exact):
            codec.encode(iter(frames), fmt, sink, EncodeOptions(qp), lambda _, frame, seen=seen: seen.append(frame))  # type: ignore[misc]
            decoded = frames_digest(codec.decode(io.BytesIO(sink.getvalue())))
        if decoded != frames_digest(seen):
            raise SystemExit(f"{video.name} at QP {qp}: the decoder's frames are not the encoder's")
        quality = [psnr_yuv(psnr(a.y, b.y), psnr(a.u, b.u), psnr(a.v, b.v)) for a, b in zip(frames, seen, strict=True)]
        points.append((qp, len(sink.getvalue()), sum(quality) / len(quality)))
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--recipe", default="innvc-demo")
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--videos", type=Path, nargs="*", help="instead of the store's held-out ones")
    parser.add_argument("--only", choices=["train-exact", "train-float"], help="train half of the models, no more")
    parser.add_argument("--out", type=Path, default=Path("runs/exact-priors"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for label, state in STATES.items():
        curves: dict[bool, dict[str, list[tuple[int, int, float]]]] = {}
        for exact in (False, True):
            if options.only and exact != (options.only == "train-exact"):
                continue
            codec = trained(options.store, options.recipe, options.set, state, exact, options.out)
            if not options.only:
                videos = options.videos or held_out_videos(options.store)
                curves[exact] = {video.name: coded(codec, video, options.frames, exact) for video in videos}
        if not options.only:
            results[label] = report(label, curves)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def report(label: str, curves: dict[bool, dict[str, list[tuple[int, int, float]]]]) -> dict[str, object]:
    """Print and give one comparison."""
    print(f"\n{label}: exact against float, same training")
    rates, bytes_float, bytes_exact = {}, 0, 0
    for video, float_points in curves[False].items():
        exact_points = curves[True][video]
        rates[video] = float(
            bjontegaard.bd_rate(
                [p[1] for p in float_points], [p[2] for p in float_points],
                [p[1] for p in exact_points], [p[2] for p in exact_points], method="pchip",
            )
        )  # fmt: skip
        bytes_float += sum(p[1] for p in float_points)
        bytes_exact += sum(p[1] for p in exact_points)
        print(f"  {video}: BD-rate {rates[video]:+.2f} %; bytes at QP " + ", ".join(
            f"{a[0]}: {a[1]} / {b[1]}" for a, b in zip(exact_points, float_points, strict=True)
        ))  # fmt: skip
    mean, all_bytes = sum(rates.values()) / len(rates), 100 * (bytes_exact / bytes_float - 1)
    print(f"  mean BD-rate {mean:+.2f} %, all bytes {all_bytes:+.2f} %")
    return {"bd_rate": rates, "mean_bd_rate": mean, "all_bytes_percent": all_bytes}


if __name__ == "__main__":
    main()
