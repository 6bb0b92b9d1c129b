"""Which QPs a training drew: shares of neighbouring ones, over the steps of a window."""

from __future__ import annotations

import torch

from codec.api import QP_COUNT
from trainers.recipe import Recipe
from trainers.shares import draw_step

QP_CLASS = 8  # neighbouring QPs that count as one
QP_CLASSES = tuple(f"{low:02d}-{low + QP_CLASS - 1:02d}" for low in range(0, QP_COUNT, QP_CLASS))


def qp_shares(recipe: Recipe, steps: range) -> dict[str, float]:
    """`qp_share/00-07`, …: shares of all samples of these steps, over all ranks. Drawn anew rather than counted, so
    that a run that went on in the middle of the window gives the very same."""
    drawn = torch.cat([draw_step(recipe, step, 1).qps for step in steps])
    counts = torch.bincount(drawn // QP_CLASS, minlength=len(QP_CLASSES)).tolist()
    return {f"qp_share/{name}": count / len(drawn) for name, count in zip(QP_CLASSES, counts, strict=True)}
