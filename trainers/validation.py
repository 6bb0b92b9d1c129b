"""Validation of a checkpoint: held-out clips coded to real files at fixed QPs, and decoded from them.

Runs wherever its files are seen, without Ray: `request_validation` puts a checkpoint's weights aside, `validate`
measures them. What runs it beside a training is in `ray_validation.py`.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from codec.api import CONFIG_FILE, WEIGHTS_FILE, Codec, EncodeOptions, load_codec
from codec.atomic_files import write_json_atomically
from codec.errors import BitreelError, UsageError
from codec.frames import Frame, VideoFormat
from codec.metrics import psnr, psnr_yuv
from trainers.checkpoint_folder import Validated
from trainers.schedule import lambda_of

if TYPE_CHECKING:
    from trainers.recipe import Recipe

VALIDATIONS = "validations"  # below a run's folder: step-000200.json each
WAITING = "waiting"  # below that: weights that were put aside, a folder a step
MAX_WAITING = 4  # a training that is faster than its validations leaves some out, but never the last
BEST = "best"  # below a run's folder: the weights of the best validation so far
_STEP = "step-{:06d}"


@dataclass(frozen=True)
class ValidationPoint:
    """All clips at one QP. bytes: of the files; bpp: their bits per luma pixel; psnr_*: dB, means over frames; mse:
    mean squared 8-bit error, planes weighted as the objective does."""

    qp: int
    bytes: int
    bpp: float
    psnr_y: float
    psnr_yuv: float
    mse: float


@dataclass(frozen=True)
class ValidationResult:
    """What a checkpoint is worth. clips of `frames` frames, `size` luma pixels wide and high; points by rising QP.

    rd_cost: geometric mean over QPs of bpp + λ·MSE, the objective with real bits; a percent of it counts alike at each
    QP, and less is better. λ is that of the recipe's last phase.
    """

    step: int
    model_hash: str
    clips: int
    frames: int
    size: int
    seconds: float
    rd_cost: float
    points: tuple[ValidationPoint, ...]

    def figures(self) -> dict[str, float]:
        """Curves for tracking: `validation/qp21/bpp`, …, and means over the QPs."""
        flat = {f"validation/qp{p.qp:02d}/{key}": getattr(p, key) for p in self.points for key in _SHOWN}
        means = {f"validation/{key}": sum(getattr(p, key) for p in self.points) / len(self.points) for key in _SHOWN}
        return flat | means | {"validation/rd_cost": self.rd_cost, "validation/seconds": self.seconds}

    def measured(self) -> tuple[int, int, int, tuple[int, ...]]:
        """What two results must have in common to be compared."""
        return self.clips, self.frames, self.size, tuple(point.qp for point in self.points)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> ValidationResult:
        return ValidationResult(**data | {"points": tuple(ValidationPoint(**point) for point in data["points"])})


_SHOWN = ("bpp", "psnr_y", "psnr_yuv")


def wants_validation(recipe: Recipe, step: int) -> bool:
    """Whether the checkpoint after `step` steps is to be validated; the last one is, where any is."""
    return recipe.validate_every > 0 and (step % recipe.validate_every == 0 or step == recipe.total_steps)


def request_validation(checkpoint: Path, folder: Path, recipe: Recipe, step: int) -> None:
    """Put a checkpoint's weights aside in the run's folder, to be validated later, where the recipe wants it after
    `step` steps. Asking twice is once."""
    target = folder / VALIDATIONS / WAITING / _STEP.format(step)
    if not wants_validation(recipe, step) or target.exists() or result_file(folder, step).exists():
        return
    if len(waiting_validations(folder)) >= MAX_WAITING and step < recipe.total_steps:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as scratch:
        part = Path(scratch) / target.name
        part.mkdir()
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            shutil.copyfile(checkpoint / name, part / name)
        part.rename(target)


def waiting_validations(folder: Path) -> list[tuple[int, Path]]:
    """Steps whose weights wait in a run's folder, in order, and where those are."""
    found = (folder / VALIDATIONS / WAITING).glob("step-*")
    return sorted((int(path.name.removeprefix("step-")), path) for path in found)


def result_file(folder: Path, step: int) -> Path:
    """Where a run's folder has the result of a step."""
    return folder / VALIDATIONS / f"{_STEP.format(step)}.json"


def validation_results(folder: Path) -> list[ValidationResult]:
    """All results of a run, by step."""
    files = sorted((folder / VALIDATIONS).glob("step-*.json"))
    results = [ValidationResult.from_json(json.loads(path.read_text())) for path in files]
    return sorted(results, key=lambda result: result.step)


def _comparable(results: Sequence[ValidationResult]) -> list[ValidationResult]:
    """Those that measured the same as the newest did."""
    return [result for result in results if result.measured() == results[-1].measured()]


def best_result(folder: Path) -> ValidationResult | None:
    """The validation with the least cost of those that can be compared; its weights are in the run's folder `best`."""
    return min(_comparable(validation_results(folder)), key=lambda result: result.rd_cost, default=None)


def standing(folder: Path) -> Validated:
    """What the validations of the run in `folder` say of its checkpoints. A step that no longer waits has its result:
    that is written first, and read here last."""
    waiting = frozenset(step for step, _ in waiting_validations(folder))
    costs = {result.step: result.rd_cost for result in _comparable(validation_results(folder))}
    return Validated(costs, waiting)


def keep_result(folder: Path, result: ValidationResult) -> None:
    """Write a result down, keep its weights where they are the best so far, and remove those that were put aside."""
    write_json_atomically(result_file(folder, result.step), result.to_json())
    weights = folder / VALIDATIONS / WAITING / _STEP.format(result.step)
    best = best_result(folder)
    if best is not None and best.step == result.step and weights.is_dir():
        old = folder / VALIDATIONS / f".old-{BEST}"
        shutil.rmtree(old, ignore_errors=True)
        if (folder / BEST).exists():
            (folder / BEST).rename(old)
        write_json_atomically(weights / "validation.json", result.to_json())
        weights.rename(folder / BEST)
        shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(weights, ignore_errors=True)


def check_held_out(store: Path, recipe: Recipe) -> None:
    """Raises UsageError where the recipe wants validations and the store holds nothing out."""
    if recipe.validate_every:
        try:
            held_out_clips(store, recipe, only=1)
        except UsageError as error:
            raise UsageError(f"validate_every: {error}; or set validate_every=0") from error


def held_out_clips(store: Path, recipe: Recipe, only: int | None = None) -> list[list[Frame]]:
    """The clips to validate on, always the same ones of the same store: crops of its split "val".

    No wider than the smallest picture there, in multiples of 16. Raises UsageError where there are none.
    """
    import pyarrow.compute as pc

    from pipeline.loader import ClipLoader
    from pipeline.manifest import read_manifest

    sizes = read_manifest(store, ["stored_width", "stored_height", "split"])
    sizes = sizes.filter(pc.equal(sizes["split"], "val"))
    if not sizes.num_rows:
        raise UsageError(f"store '{store}' has no clips in split 'val'; ingest more videos")
    least = min(pc.min(sizes[key]).as_py() for key in ("stored_width", "stored_height"))
    crop = max(16, min(recipe.validate_crop, least) // 16 * 16)
    loader = ClipLoader(
        store, split="val", clip_frames=recipe.validate_frames, crop=crop, batch_size=1, seed=recipe.seed
    )
    clips = []
    for index in range(min(len(loader), only or recipe.validate_clips)):
        batch = loader.batch(index)
        luma, chroma = batch.luma[0, :, 0].numpy(), batch.chroma[0].numpy()
        clips.append([Frame(y, uv[0], uv[1]) for y, uv in zip(luma, chroma, strict=True)])
    return clips


def validate(weights: Path, store: Path, recipe: Recipe, step: int, device: str = "cpu") -> ValidationResult:
    """Measure the codec in folder `weights`, made after `step` steps of `recipe`, on the store's held-out clips.

    Raises UsageError where the store holds none out, BitreelError where the codec can't code or decode one.
    """
    started = time.perf_counter()
    codec = load_codec(weights, device)
    clips = held_out_clips(store, recipe)
    with tempfile.TemporaryDirectory(prefix="bitreel-validation-") as scratch, torch.inference_mode():
        points = tuple(_point(codec, clips, qp, Path(scratch) / "clip.brl") for qp in recipe.validate_qps)
    return ValidationResult(
        step=step,
        model_hash=codec.model_hash().hex(),
        clips=len(clips),
        frames=len(clips[0]),
        size=clips[0][0].width,
        seconds=time.perf_counter() - started,
        rd_cost=rd_cost(points, recipe.phases[-1].lambda_range),
        points=points,
    )


def rd_cost(points: Sequence[ValidationPoint], lambda_range: tuple[float, float]) -> float:
    """Geometric mean over the points of bpp + λ·MSE, λ being what this range gives for each QP."""
    lambdas = lambda_of(torch.tensor([point.qp for point in points]), lambda_range).tolist()
    costs = [math.log(point.bpp + scale * point.mse) for point, scale in zip(points, lambdas, strict=True)]
    return math.exp(sum(costs) / len(costs))


def _point(codec: Codec, clips: list[list[Frame]], qp: int, file: Path) -> ValidationPoint:
    """All clips at one QP, each written to `file` and decoded from it."""
    size, pixels = 0, 0
    qualities: list[tuple[float, float, float]] = []
    for clip in clips:
        fmt = VideoFormat(clip[0].width, clip[0].height)
        with file.open("wb") as sink:
            codec.encode(clip, fmt, sink, EncodeOptions(qp=qp))
        size += file.stat().st_size
        pixels += len(clip) * fmt.width * fmt.height
        with file.open("rb") as source:
            decoded = list(codec.decode(source))
        if len(decoded) != len(clip):
            raise BitreelError(f"validation at QP {qp}: {len(decoded)} frames came back of {len(clip)}")
        for before, after in zip(clip, decoded, strict=True):
            qualities.append((psnr(before.y, after.y), psnr(before.u, after.u), psnr(before.v, after.v)))
    count = len(qualities)
    return ValidationPoint(
        qp=qp,
        bytes=size,
        bpp=8 * size / pixels,
        psnr_y=sum(q[0] for q in qualities) / count,
        psnr_yuv=sum(psnr_yuv(*q) for q in qualities) / count,
        mse=sum((6 * _mse(q[0]) + _mse(q[1]) + _mse(q[2])) / 8 for q in qualities) / count,
    )


def _mse(decibels: float) -> float:
    return 255.0**2 / 10 ** (decibels / 10)
