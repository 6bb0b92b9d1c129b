"""Random numbers of training that don't hang on how a step's batch is dealt out to workers and passes.

`draw_each` gives a clip the same numbers whichever worker has it, `draw_together` gives all workers the same ones.
Anything else a codec draws from PyTorch's own generator, which the training loop seeds differently for each worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

# One generator a clip, and one for the step.
_generators: ContextVar[tuple[list[torch.Generator], torch.Generator] | None] = ContextVar("generators", default=None)


@contextmanager
def draws_from(clip_seeds: Sequence[int], step_seed: int) -> Iterator[None]:
    """Within it draws follow from these seeds alone, one for each clip of the pass and one for the whole step."""
    generators = [torch.Generator().manual_seed(seed) for seed in clip_seeds]
    token = _generators.set((generators, torch.Generator().manual_seed(step_seed)))
    try:
        yield
    finally:
        _generators.reset(token)


def draw_each(clips: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """Uniform numbers in [0, 1) for each clip, (clips, *shape) float32; PyTorch's own outside `draws_from`.

    Not for code that is run again in the backward pass: it would draw on. Raises ValueError where the pass has another
    number of clips.
    """
    known = _generators.get()
    if known is None:
        return torch.rand(clips, *shape, device=device)
    if len(known[0]) != clips:
        raise ValueError(f"draws for {clips} clips in a pass of {len(known[0])}")
    return torch.stack([torch.rand(shape, generator=generator) for generator in known[0]]).to(device)


def draw_together() -> float:
    """A uniform number in [0, 1), the same for every pass of a step; PyTorch's own outside `draws_from`."""
    known = _generators.get()
    return float(torch.rand((), generator=None if known is None else known[1]))
