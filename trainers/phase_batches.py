"""Batches for a whole recipe: each phase reads clips of its own length and crop from the same store."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipeline.clip_list import ClipList
from pipeline.loader import ClipBatch, ClipLoader
from trainers.recipe import Recipe
from trainers.schedule import conditions_at

READY_BATCHES = 3  # cut and waiting in memory
ANNOUNCED_BATCHES = 8  # more that the kernel was told of, so that a slow disk works on many reads at once


class PhaseBatches:
    """A rank's batches by global step, prepared ahead in a thread while the last one trains.

    Each is the rank's share of the recipe's batch, whatever the world (`pipeline.batch_shares`). `clips` is the
    list that a run keeps to (`trainers.run_clips`); without it, what the store has for training now.

    waited_seconds: how long `batch` has kept its caller waiting so far.
    Raises UsageError at once where the store can't serve one of the phases.
    """

    def __init__(
        self, store: Path, recipe: Recipe, rank: int = 0, world: int = 1, clips: ClipList | None = None
    ) -> None:
        self.recipe = recipe
        first = recipe.phases[0]
        loader = ClipLoader(
            store,
            split="train",
            clip_frames=first.clip_frames,
            crop=first.crop,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            rank=rank,
            world=world,
            clips=clips,
        )
        self.clips = loader.clips
        self.loaders = [loader.reshaped(phase.clip_frames, phase.crop) for phase in recipe.phases]
        self.waited_seconds = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch")
        self._ahead: dict[int, Future[ClipBatch]] = {}
        self._announced = 0  # all steps before this one

    @property
    def read_retries(self) -> int:
        """Reads that were tried again after an error that passed."""
        return self.loaders[0].reader.retries

    def batch(self, step: int) -> ClipBatch:
        """This rank's clips for a step; a pure function of the step. Raises as `ClipLoader.batch`."""
        began = time.perf_counter()
        if step not in self._ahead:  # the first of a run, or a jump
            for future in self._ahead.values():
                future.cancel()
            self._ahead.clear()
        for wanted in range(step, min(step + 1 + READY_BATCHES, self.recipe.total_steps)):
            if wanted not in self._ahead:
                self._ahead[wanted] = self._thread.submit(self._read, wanted)
        current = self._ahead.pop(step).result()
        self.waited_seconds += time.perf_counter() - began
        return current

    def close(self) -> None:
        """End the thread; batches that were prepared are dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _loader(self, step: int) -> ClipLoader:
        return self.loaders[conditions_at(self.recipe, step).phase_index]

    def _read(self, step: int) -> ClipBatch:
        end = min(step + 1 + ANNOUNCED_BATCHES, self.recipe.total_steps)
        begin = self._announced if step < self._announced <= end else step
        for coming in range(begin, end):
            self._loader(coming).announce(coming)
        self._announced = end
        return self._loader(step).batch(step)
