"""The training loop: plain PyTorch, one process or one rank of many.

    batches.batch(step) ─▶ passes: codec forward ─▶ objective ─▶ backward ─▶ sum over ranks ─▶ AdamW ─▶ hooks

Every random draw comes from (seed, step), and the ranks' gradients are summed in a fixed order, so a run that stops and
goes on from a checkpoint does the very same arithmetic as one that never stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from codec.api import Codec, create_codec
from codec.errors import BitreelError, UsageError
from trainers.adamw import AdamW
from trainers.averages import WeightAverage, Window
from trainers.checkpoint import Snapshot, TrainingState, copied, optimizer_tensors, restore_optimizer
from trainers.codec_settings import check_settings, trains
from trainers.objective import METRICS
from trainers.qp_histogram import qp_shares
from trainers.recipe import Phase, Recipe
from trainers.schedule import StepConditions, conditions_at, last_log
from trainers.shares import draw_step, share_of
from trainers.step_passes import Passes, computing_as
from trainers.step_requests import Request
from trainers.step_sum import StepSum, same_everywhere

MAX_SKIPPED_IN_A_ROW = 25  # a run whose gradients are not finite for this long will not recover


class Clips(Protocol):
    """A batch: luma (B, T, 1, H, W) and chroma (B, T, 2, H/2, W/2), both uint8."""

    @property
    def luma(self) -> Tensor: ...

    @property
    def chroma(self) -> Tensor: ...


class BatchSource(Protocol):
    """Where batches come from. `batch` is a pure function of the step; each rank has a source of its own."""

    def batch(self, step: int) -> Clips: ...


@dataclass(frozen=True)
class Pictures:
    """The first clip of a batch and its reconstruction: (T, 1, H, W) and (T, 2, H/2, W/2) uint8, on the CPU."""

    qp: int
    source_luma: Tensor
    source_chroma: Tensor
    luma: Tensor
    chroma: Tensor


class TrainingHooks(Protocol):
    """What the loop tells the outside, and is asked from there. `step` counts finished steps."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """On every rank, with the same figures but for times."""
        ...

    def on_pictures(self, step: int, pictures: Pictures) -> None: ...

    def on_checkpoint(self, snapshot: Snapshot) -> None:
        """On rank 0 alone. The snapshot may be kept and written later."""
        ...

    def request(self) -> Request:
        """Asked in each step; ranks need not agree, the greatest counts for all of them after that very step."""
        ...


def train(
    codec: Codec,
    recipe: Recipe,
    batches: BatchSource,
    hooks: TrainingHooks,
    *,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
    start: TrainingState | None = None,
) -> dict[str, float]:
    """Train `codec` in place by `recipe` and give the last logged figures.

    `batches` gives this rank's share of each batch (`trainers.shares.share_of`). With world > 1 the process group must
    be up. `start` goes on from a checkpoint: bit for bit as if nothing had been between where `world` is the one it was
    made with, else up to the rounding of sums (for
    a codec that draws by `codec.draws`). At the end the codec has the averaged weights where the recipe averages.

    Raises UsageError where recipe, checkpoint and codec do not belong together, BitreelError where the gradients stay
    non-finite.
    """
    device = torch.device(device)
    check_resumable(recipe, start, world)
    check_settings(recipe, codec)
    codec.to(device).train()
    with computing_as(recipe, codec, device):
        return _steps(codec, recipe, batches, hooks, device, rank, world, start)


def _steps(
    codec: Codec,
    recipe: Recipe,
    batches: BatchSource,
    hooks: TrainingHooks,
    device: torch.device,
    rank: int,
    world: int,
    start: TrainingState | None,
) -> dict[str, float]:
    optimizer = AdamW(codec.parameters(), recipe.weight_decay)
    first, skipped, figures = 0, 0, {}
    if start is not None:
        codec.load_state_dict(start.weights)
        restore_optimizer(codec, optimizer, start.optimizer)
        first, skipped, figures = start.step, start.skipped_steps, dict(start.metrics)
    same_everywhere(codec, world)
    average = None
    if recipe.ema_decay and rank == 0:
        average = WeightAverage(codec, recipe.ema_decay, start.average if start else {})
    share = share_of(recipe.batch_size, rank, world)
    passes = Passes(codec, recipe, share, device)
    total = StepSum(list(codec.parameters()), len(METRICS), world)
    window = Window(device, start.window if start else [])
    skipped_in_a_row, phase_index, logged = 0, -1, last_log(recipe, first)
    for step in range(first, recipe.total_steps):
        now = conditions_at(recipe, step)
        if now.phase_index != phase_index:
            phase_index = now.phase_index
            _freeze(codec, now.phase)
        asked = time.perf_counter()
        clips = batches.batch(step)
        waited = time.perf_counter() - asked
        draws = draw_step(recipe, step, world)
        torch.manual_seed(draws.noise_seeds[rank])

        optimizer.zero_grad()
        shown = passes.run(clips.luma, clips.chroma, draws, now)
        metrics, request = total.add_up(shown.metrics, hooks.request())
        norm = nn.utils.clip_grad_norm_(codec.parameters(), now.phase.grad_clip)
        # Gradients are summed over the ranks by now, so every rank comes to the same verdict.
        finite = bool(torch.isfinite(norm))
        done = step + 1
        if finite:
            optimizer.step(now.learning_rate)
            if average is not None:
                average.follow(done)
            window.add(metrics, norm)
            skipped_in_a_row = 0
        else:
            skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
            if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise BitreelError(
                    f"training diverged at step {step} (phase '{now.phase.name}'): no finite gradient for "
                    f"{skipped_in_a_row} steps; lower learning_rate or grad_clip"
                )
        window.spent(waited, recipe.batch_size, recipe.batch_size * now.phase.clip_frames * now.phase.crop**2)

        if done % recipe.log_every == 0 or now.ends_phase:
            figures = window.close() | _standing(now, skipped, world) | qp_shares(recipe, range(logged, done))
            logged = done
            hooks.on_log(done, figures)
        if done % recipe.pictures_every == 0 or done == recipe.total_steps:
            hooks.on_pictures(done, _pictures(clips, shown.luma, shown.chroma, int(draws.qps[share.start])))
        if done % recipe.checkpoint_every == 0 or now.ends_phase or request != Request.NOTHING:
            if rank == 0:
                hooks.on_checkpoint(
                    Snapshot(
                        codec=codec,
                        recipe=recipe,
                        step=done,
                        world=world,
                        skipped_steps=skipped,
                        metrics=figures,
                        window=window.sums.tolist(),
                        weights=copied(codec.state_dict()),
                        average=copied(average.weights) if average else {},
                        optimizer=copied(optimizer_tensors(codec, optimizer)),
                    )
                )
            if request == Request.STOP:
                break
    _freeze(codec, None)
    if average is not None:
        codec.load_state_dict(codec.state_dict() | average.weights)
    return figures


def fresh_codec(recipe: Recipe) -> Codec:
    """The recipe's codec with the weights its seed decides. Raises UsageError for an unknown codec or setting."""
    torch.manual_seed(recipe.seed)
    return create_codec(recipe.codec, recipe.codec_config)


def check_resumable(recipe: Recipe, start: TrainingState | None, world: int) -> None:
    """Raises UsageError where the batch can't be split over `world` ranks, or `start` is of another training."""
    share_of(recipe.batch_size, 0, world)
    if start is None:
        return
    differing = _differences({key: start.recipe.get(key) for key in recipe.identity()}, recipe.identity())
    if differing:
        raise UsageError(f"the checkpoint follows another recipe: {'; '.join(differing[:3])}")


def _standing(now: StepConditions, skipped: int, world: int) -> dict[str, float]:
    return {
        "learning_rate": now.learning_rate,
        "mask_fraction": now.mask_fraction,
        "phase": float(now.phase_index),
        "skipped_steps": float(skipped),
        "workers": float(world),
    }


def _freeze(codec: Codec, phase: Phase | None) -> None:
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(phase is None or trains(phase, codec, name))


def _pictures(clips: Clips, rec_luma: Tensor, rec_chroma: Tensor, qp: int) -> Pictures:
    rec_luma, rec_chroma = (rec[0].clamp(0, 255).round().to(torch.uint8).cpu() for rec in (rec_luma, rec_chroma))
    return Pictures(qp, clips.luma[0].cpu(), clips.chroma[0].cpu(), rec_luma, rec_chroma)


def _differences(old: object, new: object, place: str = "") -> list[str]:
    """Where two recipes as plain data differ, as `key: old, now new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in _differences(a, b, f"{place}.{i}")]
    return [] if old == new else [f"{place} is {new!r} here, {old!r} there"]
