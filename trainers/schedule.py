"""What a recipe asks for at one step, and the whole plan as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.api import QP_COUNT
from trainers.recipe import Phase, Recipe


@dataclass(frozen=True)
class StepConditions:
    """What holds at one optimizer step. `ends_phase`: it is the phase's last."""

    phase: Phase
    phase_index: int
    learning_rate: float
    mask_fraction: float
    ends_phase: bool


def conditions_at(recipe: Recipe, step: int) -> StepConditions:
    """Conditions at a step, counted from 0 over all phases. Raises IndexError past the end."""
    first = 0
    for index, phase in enumerate(recipe.phases):
        if step < first + phase.steps:
            inside = step - first
            share = inside / max(1, phase.steps - 1)
            start, end = phase.mask_fraction
            return StepConditions(
                phase=phase,
                phase_index=index,
                learning_rate=_learning_rate(phase, inside),
                mask_fraction=start + (end - start) * share,
                ends_phase=inside == phase.steps - 1,
            )
        first += phase.steps
    raise IndexError(f"step {step} is past the recipe's {recipe.total_steps} steps")


def last_log(recipe: Recipe, done: int) -> int:
    """How many steps were done when figures were last logged, at or before `done` steps."""
    ends, first = [0], 0
    for phase in recipe.phases:
        first += phase.steps
        ends.append(first)
    return max(done // recipe.log_every * recipe.log_every, *(end for end in ends if end <= done))


def _learning_rate(phase: Phase, inside: int) -> float:
    start, end = phase.learning_rate
    if inside < phase.warmup_steps:
        return start * (inside + 1) / phase.warmup_steps
    share = (inside - phase.warmup_steps) / max(1, phase.steps - phase.warmup_steps - 1)
    if phase.curve == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return start + (end - start) * share


def lambda_of(qp: Tensor, lambda_range: tuple[float, float]) -> Tensor:
    """λ for each QP: (B,) int64 in 0..63 → (B,) float32, bits per squared 8-bit error, log-linear in QP."""
    low, high = (math.log(value) for value in lambda_range)
    share = qp.to(torch.float32) / (QP_COUNT - 1)
    return torch.exp(low + (high - low) * share)


def weight_of(lambdas: Tensor, lambda_range: tuple[float, float], balance: float) -> Tensor:
    """Weight of each sample in the objective, (B,): (λ / geometric middle of the range)^-balance.

    J grows with λ, roughly as its square root: without balance the highest QPs would decide nearly all of the gradient.
    """
    middle = math.sqrt(lambda_range[0] * lambda_range[1])
    return (lambdas / middle) ** -balance


_PLAN_LABELS = (
    "phase",
    "steps",
    "mask fraction",
    "QP",
    "λ",
    "balance",
    "clip frames",
    "crop",
    "learning rate",
    "curve",
    "warm-up steps",
    "field dropout",
    "gradient clip",
    "loss",
    "frozen",
)


def plan_rows(recipe: Recipe) -> list[tuple[str, ...]]:
    """The plan: a row of phase names, then one row a setting; the first cell of each says what it is."""
    columns: list[tuple[str, ...]] = [_PLAN_LABELS]
    first = 0
    for phase in recipe.phases:
        columns.append(
            (
                phase.name,
                f"{first}-{first + phase.steps - 1}",
                _span(phase.mask_fraction),
                f"{phase.qp[0]}-{phase.qp[1]}",
                _span(phase.lambda_range, ".3g"),
                f"{phase.balance:g}",
                str(phase.clip_frames),
                str(phase.crop),
                _span(phase.learning_rate),
                phase.curve,
                str(phase.warmup_steps),
                f"{phase.field_dropout:g}",
                f"{phase.grad_clip:g}",
                phase.loss,
                ", ".join(phase.frozen) or "-",
            )
        )
        first += phase.steps
    return list(zip(*columns, strict=True))


def plan_table(recipe: Recipe) -> str:
    """The plan as plain text, for logs and artifacts."""
    rows = plan_rows(recipe)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([plan_title(recipe), "", *lines])


def plan_title(recipe: Recipe) -> str:
    """One line: recipe, codec, length, batch and seed."""
    settings = ", ".join(f"{key}={value}" for key, value in recipe.codec_config.items())
    codec = f"{recipe.codec} ({settings})" if settings else recipe.codec
    kept = [f"the last {recipe.keep_checkpoints}"]
    kept += [f"the best by {recipe.keeps_by}"] if recipe.keeps_by else []
    kept += [f"one every {recipe.keep_every_hours:g} h"] if recipe.keep_every_hours else []
    asked = [f"in passes of {recipe.micro_batch}"] if recipe.micro_batch else []
    asked += [recipe.precision] if recipe.precision != "float32" else []
    asked += [f"weights averaged ({recipe.ema_decay:g})"] if recipe.ema_decay else []
    asked += ["recomputed"] if recipe.recompute else []
    asked += ["compiled"] if recipe.compile else []
    return ", ".join(
        [
            f"{recipe.name}: {codec}",
            f"{recipe.total_steps} steps of {recipe.batch_size} clips",
            *asked,
            f"seed {recipe.seed}",
            f"checkpoint every {recipe.checkpoint_every} (kept: {', '.join(kept)})",
        ]
    )


def _span(pair: tuple[float, float], form: str = "g") -> str:
    start, end = (format(value, form) for value in pair)
    return start if start == end else f"{start} → {end}"
