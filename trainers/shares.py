"""How a step's batch is dealt out to workers and passes, and what it draws: a function of (seed, step) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codec.errors import UsageError
from trainers.recipe import Recipe
from trainers.schedule import conditions_at


def share_of(batch_size: int, rank: int, world: int) -> slice:
    """This rank's clips of a batch, numbered over the whole of it: equal shares, the first ranks one more if need be.

    Raises UsageError where a rank would have none.
    """
    if world > batch_size:
        raise UsageError(f"batch_size {batch_size} is too small for {world} workers: each needs a clip of its own")
    least, more = divmod(batch_size, world)
    first = rank * least + min(rank, more)
    return slice(first, first + least + (rank < more))


def passes_of(clips: int, micro_batch: int) -> list[slice]:
    """A rank's clips in passes of at most `micro_batch` of them, as even as may be; 0: all at once."""
    count = -(-clips // micro_batch) if micro_batch else 1
    return [share_of(clips, number, count) for number in range(count)]


@dataclass(frozen=True)
class StepDraws:
    """What a step draws for its whole batch. qps: (batch_size,) int64; clip_seeds: one a clip; step_seed: of the step;
    noise_seeds: one a rank, for PyTorch's own generator."""

    qps: Tensor
    clip_seeds: list[int]
    step_seed: int
    noise_seeds: list[int]


def draw_step(recipe: Recipe, step: int, world: int) -> StepDraws:
    """The draws of a step. QPs are uniform over the phase's range or its few values."""
    phase = conditions_at(recipe, step).phase
    low, high = phase.qp
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((recipe.seed, step))))
    qps = generator.integers(low, high + 1, size=recipe.batch_size)
    if phase.qp_values:
        few = np.linspace(low, high, phase.qp_values).round().astype(np.int64)
        qps = few[generator.integers(len(few), size=recipe.batch_size)]
    clip_seeds, step_seed, noise_seeds = (
        generator.integers(2**62, size=size).tolist() for size in (recipe.batch_size, 1, world)
    )
    return StepDraws(torch.from_numpy(qps), clip_seeds, step_seed[0], noise_seeds)
