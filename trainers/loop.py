"""The training loop: plain PyTorch, one process or one rank of many.

    batches.batch(step) ─▶ codec forward ─▶ objective ─▶ backward ─▶ AdamW ─▶ hooks (curves, pictures, checkpoints)

Every random draw comes from (seed, step, rank), so a run that stops and goes on from a checkpoint does the very same
arithmetic as one that never stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from codec.api import Codec, TrainingConditions, TrainingOutput, create_codec
from codec.errors import BitreelError, UsageError
from trainers.checkpoint import Snapshot, TrainingState, restore_optimizer
from trainers.objective import METRICS, rate_distortion, step_metrics
from trainers.recipe import Recipe
from trainers.schedule import StepConditions, conditions_at, lambda_of, weight_of
from trainers.throughput import Throughput

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
    """What the loop tells the outside. Every rank calls its own; `step` counts finished steps."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None: ...

    def on_pictures(self, step: int, pictures: Pictures) -> None: ...

    def on_checkpoint(self, snapshot: Snapshot) -> None: ...

    def should_stop(self) -> bool:
        """Asked after each checkpoint; the answer must be the same on every rank."""
        ...


class TrainingStep(nn.Module):
    """Codec and objective as one module, so that a data-parallel wrapper sees the loss alone as its output."""

    def __init__(self, codec: Codec, segment_frames: int) -> None:
        super().__init__()
        self.codec = codec
        self.segment_frames = segment_frames

    def forward(
        self,
        luma: Tensor,
        chroma: Tensor,
        qp: Tensor,
        lambdas: Tensor,
        sample_weights: Tensor,
        conditions: TrainingConditions,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gives loss (scalar), metrics (8,), reconstructed luma and chroma; only the loss has a gradient."""
        output: TrainingOutput = self.codec(luma, chroma, qp, conditions)
        pixels = luma.shape[-2] * luma.shape[-1]
        loss = rate_distortion(output, lambdas, sample_weights, pixels, self.segment_frames)
        metrics = step_metrics(loss, output, pixels, self.segment_frames)
        return loss, metrics, output.luma.detach(), output.chroma.detach()


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

    `batches` gives this rank's share, batch_size / world clips. With world > 1 the process group must be up. `start`
    goes on from a checkpoint. Raises UsageError where recipe, checkpoint and codec do not belong together,
    BitreelError where the gradients stay non-finite.
    """
    device = torch.device(device)
    check_resumable(recipe, start, world)
    codec.to(device).train()
    optimizer = torch.optim.AdamW(
        codec.parameters(), lr=recipe.phases[0].learning_rate[0], weight_decay=recipe.weight_decay
    )
    first, skipped, figures = 0, 0, {}
    if start is not None:
        codec.load_state_dict(start.weights)
        restore_optimizer(codec, optimizer, start.optimizer)
        first, skipped, figures = start.step, start.skipped_steps, dict(start.metrics)
    step_module: nn.Module = TrainingStep(codec, recipe.segment_frames)
    if world > 1:
        # Frozen parameters and a dropped-out field leave some without gradient, differently from step to step.
        step_module = nn.parallel.DistributedDataParallel(step_module, find_unused_parameters=True)

    window, skipped_in_a_row, phase_index = _Window(device), 0, -1
    throughput = Throughput(device)
    for step in range(first, recipe.total_steps):
        now = conditions_at(recipe, step)
        if now.phase_index != phase_index:
            phase_index = now.phase_index
            _freeze(codec, now.phase.frozen, now.phase.name)
        asked = time.perf_counter()
        clips = batches.batch(step)
        waited = time.perf_counter() - asked
        luma, chroma = clips.luma.to(device), clips.chroma.to(device)
        drawn = draw_qps(recipe, step, rank, world)
        throughput.add(clips.luma, drawn, waited)
        qp = drawn.to(device)
        conditions = TrainingConditions(mask_fraction=now.mask_fraction, field_dropout=now.phase.field_dropout)

        optimizer.zero_grad(set_to_none=True)
        lambdas = lambda_of(qp, now.phase.lambda_range)
        sample_weights = weight_of(lambdas, now.phase.lambda_range, now.phase.balance)
        loss, metrics, rec_luma, rec_chroma = step_module(luma, chroma, qp, lambdas, sample_weights, conditions)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(codec.parameters(), now.phase.grad_clip)
        # Gradients are averaged over the ranks by now, so every rank comes to the same verdict.
        finite = bool(torch.isfinite(norm))
        if finite:
            for group in optimizer.param_groups:
                group["lr"] = now.learning_rate
            optimizer.step()
            window.add(metrics, norm)
            skipped_in_a_row = 0
        else:
            skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
            if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise BitreelError(
                    f"training diverged at step {step} (phase '{now.phase.name}'): no finite gradient for "
                    f"{skipped_in_a_row} steps; lower learning_rate or grad_clip"
                )

        done = step + 1
        if done % recipe.log_every == 0 or now.ends_phase:
            figures = window.close(world) | throughput.close(world) | _standing(now, skipped)
            hooks.on_log(done, figures)
        if done % recipe.pictures_every == 0 or done == recipe.total_steps:
            hooks.on_pictures(done, _pictures(luma, chroma, rec_luma, rec_chroma, qp))
        if done % recipe.checkpoint_every == 0 or now.ends_phase:
            hooks.on_checkpoint(Snapshot(codec, optimizer, recipe, done, world, skipped, figures))
            if hooks.should_stop():
                break
    _freeze(codec, (), "")
    return figures


def fresh_codec(recipe: Recipe) -> Codec:
    """The recipe's codec with the weights its seed decides. Raises UsageError for an unknown codec or setting."""
    torch.manual_seed(recipe.seed)
    return create_codec(recipe.codec, recipe.codec_config)


def check_resumable(recipe: Recipe, start: TrainingState | None, world: int) -> None:
    """Raises UsageError where the batch can't be split over `world` ranks, or `start` is of another training."""
    if recipe.batch_size % world:
        raise UsageError(f"batch_size {recipe.batch_size} can't be split evenly over {world} workers")
    if start is None:
        return
    if start.world != world:
        raise UsageError(f"the checkpoint was made by {start.world} workers; resume with as many, not {world}")
    differing = _differences(start.recipe, recipe.to_dict())
    if differing:
        raise UsageError(f"the checkpoint follows another recipe: {'; '.join(differing[:3])}")


def draw_qps(recipe: Recipe, step: int, rank: int, world: int) -> Tensor:
    """This rank's QPs of a step, (batch_size / world,) int64, uniform over the phase's range or its few values.

    Drawn for the whole batch and then shared out, so the number of workers changes nothing. Seeds PyTorch's own
    generator for the step as well, differently on each rank.
    """
    phase = conditions_at(recipe, step).phase
    low, high = phase.qp
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((recipe.seed, step))))
    qps = generator.integers(low, high + 1, size=recipe.batch_size)
    if phase.qp_values:
        few = np.linspace(low, high, phase.qp_values).round().astype(np.int64)
        qps = few[generator.integers(len(few), size=recipe.batch_size)]
    noise_seeds = generator.integers(2**62, size=world)
    torch.manual_seed(int(noise_seeds[rank]))
    share = recipe.batch_size // world
    return torch.from_numpy(qps[rank * share : (rank + 1) * share])


class _Window:
    """Averages of the steps since the last log."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._reset()

    def _reset(self) -> None:
        # Sums of METRICS, then the gradient norm, then the count of finite steps.
        self.sums = torch.zeros(len(METRICS) + 2, dtype=torch.float64, device=self.device)
        self.since = time.perf_counter()

    def add(self, metrics: Tensor, norm: Tensor) -> None:
        self.sums += torch.cat([metrics, torch.stack([norm.detach().double(), torch.ones_like(metrics[0])])])

    def close(self, world: int) -> dict[str, float]:
        """Averages over steps and ranks. Figures that are not defined (NaN) are left out."""
        if world > 1:
            torch.distributed.all_reduce(self.sums)
        *sums, count = self.sums.tolist()
        steps = count / world
        elapsed = time.perf_counter() - self.since
        figures = {
            name: value / count
            for name, value in zip((*METRICS, "gradient_norm"), sums, strict=True)
            if count and np.isfinite(value)
        }
        if steps:
            figures["seconds_per_step"] = elapsed / steps
        self._reset()
        return figures


def _standing(now: StepConditions, skipped: int) -> dict[str, float]:
    return {
        "learning_rate": now.learning_rate,
        "mask_fraction": now.mask_fraction,
        "phase": float(now.phase_index),
        "skipped_steps": float(skipped),
    }


def _freeze(codec: Codec, prefixes: tuple[str, ...], phase: str) -> None:
    names = [name for name, _ in codec.named_parameters()]
    idle = [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]
    if idle:
        raise UsageError(f"phase '{phase}': frozen: no parameter's name starts with {', '.join(idle)}")
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))


def _pictures(luma: Tensor, chroma: Tensor, rec_luma: Tensor, rec_chroma: Tensor, qp: Tensor) -> Pictures:
    rec_luma, rec_chroma = (rec[0].clamp(0, 255).round().to(torch.uint8).cpu() for rec in (rec_luma, rec_chroma))
    return Pictures(int(qp[0]), luma[0].cpu(), chroma[0].cpu(), rec_luma, rec_chroma)


def _differences(old: object, new: object, place: str = "") -> list[str]:
    """Where two recipes as plain data differ, as `key: old, now new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in _differences(a, b, f"{place}.{i}")]
    return [] if old == new else [f"{place} is {new!r} here, {old!r} there"]
