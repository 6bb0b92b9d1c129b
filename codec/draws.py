"""Random numbers of training that don't hang on how a step's batch is dealt out to workers and passes.

`draw_each` gives a clip the same numbers whichever worker has it, `draw_together` gives all workers the same ones;
`seeds_each` is for what is computed once more in the backward pass. Anything else a codec draws from PyTorch's own
generator, which the training loop seeds differently for each worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_SEEDS = 2**62  # so many different ones


class ClipDraws:
    """Uniform numbers from a seed for each clip: the same seeds, the same numbers."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """The next numbers in [0, 1), (clips, *shape) float32."""
        return torch.stack([torch.rand(shape, generator=generator) for generator in self.generators]).to(device)


# The clips', and one for the step.
_known: ContextVar[tuple[ClipDraws, torch.Generator] | None] = ContextVar("draws", default=None)


@contextmanager
def draws_from(clip_seeds: Sequence[int], step_seed: int) -> Iterator[None]:
    """Within it draws follow from these seeds alone, one for each clip of the pass and one for the whole step."""
    token = _known.set((ClipDraws(clip_seeds), torch.Generator().manual_seed(step_seed)))
    try:
        yield
    finally:
        _known.reset(token)


def draw_each(clips: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """Uniform numbers in [0, 1) for each clip, (clips, *shape) float32; PyTorch's own outside `draws_from`.

    Not for code that is run again in the backward pass: it would draw on. Raises ValueError where the pass has another
    number of clips.
    """
    own = _of_clips(clips)
    return torch.rand(clips, *shape, device=device) if own is None else own.draw(*shape, device=device)


def seeds_each(clips: int) -> list[int]:
    """A seed for each clip, drawn like `draw_each`: `ClipDraws` of them, made anew each time some code runs, give it
    the same numbers when it runs again. Raises as `draw_each`."""
    own = _of_clips(clips)
    generators = [None] * clips if own is None else own.generators
    return [int(torch.randint(_SEEDS, (), generator=generator)) for generator in generators]


def draw_together() -> float:
    """A uniform number in [0, 1), the same for every pass of a step; PyTorch's own outside `draws_from`."""
    known = _known.get()
    return float(torch.rand((), generator=None if known is None else known[1]))


def _of_clips(clips: int) -> ClipDraws | None:
    known = _known.get()
    if known is not None and len(known[0].generators) != clips:
        raise ValueError(f"draws for {clips} clips in a pass of {len(known[0].generators)}")
    return known[0] if known is not None else None
