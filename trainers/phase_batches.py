"""Batches for a whole recipe: each phase reads clips of its own length and crop from the same store."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipeline.loader import ClipBatch, ClipLoader
from trainers.recipe import Recipe
from trainers.schedule import conditions_at
from trainers.shares import share_of


class PhaseBatches:
    """A rank's batches by global step. One batch is prepared ahead in a thread while the last one trains.

    Raises UsageError at once where the store can't serve one of the phases (clips too short, crop too large).
    """

    def __init__(self, store: Path, recipe: Recipe, rank: int = 0, world: int = 1) -> None:
        self.recipe = recipe
        self.share = share_of(recipe.batch_size, rank, world)
        # The loader deals out equal shares; for others each rank reads the whole batch and keeps its part.
        self._cut = recipe.batch_size % world > 0
        if self._cut:
            rank, world = 0, 1
        self.loaders = [
            ClipLoader(
                store,
                split="train",
                clip_frames=phase.clip_frames,
                crop=phase.crop,
                batch_size=recipe.batch_size // world,
                seed=recipe.seed,
                rank=rank,
                world=world,
            )
            for phase in recipe.phases
        ]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch")
        self._ahead: tuple[int, Future[ClipBatch]] | None = None

    def batch(self, step: int) -> ClipBatch:
        """This rank's clips for a step; a pure function of the step."""
        ahead, self._ahead = self._ahead, None
        current = ahead[1].result() if ahead is not None and ahead[0] == step else self._read(step)
        if step + 1 < self.recipe.total_steps:
            self._ahead = (step + 1, self._thread.submit(self._read, step + 1))
        return current

    def _read(self, step: int) -> ClipBatch:
        read = self.loaders[conditions_at(self.recipe, step).phase_index].batch(step)
        if not self._cut:
            return read
        return ClipBatch(read.luma[self.share], read.chroma[self.share], read.keys[self.share])
