"""The order in which clips are trained on: endless, epoch after epoch, the same for any number of workers.

    clips as they lie on the disk ─▶ runs of neighbours, shuffled ─▶ shuffled within a buffer ─▶ batches ─▶ shares

A run is a stretch of one shard; runs come in random order, and each clip then moves back by up to BUFFER_CLIPS places.
So at any time the clips that come next lie in a few hundred stretches instead of all over the store: a network disk's
cache of a few gigabytes fetches each stretch once an epoch, while a batch mixes clips from all of these. A store of
fewer clips is mixed throughout.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.clip_list import ClipList

RUN_BYTES = 8 << 20
BUFFER_CLIPS = 1024
_KEPT_EPOCHS = 2  # reading ahead is in the next epoch before the last one is over


def epoch_order(clips: ClipList, seed: int, epoch: int) -> NDArray[np.int64]:
    """Numbers of all clips, (N,), each once: the order of one epoch, which follows from these arguments alone."""
    draw = np.random.default_rng([seed, epoch, 1])
    runs = _run_of_each(clips)
    rank_of_run = draw.permutation(int(runs[-1]) + 1)
    spread = np.argsort(rank_of_run[runs], kind="stable")
    delayed = np.arange(len(clips)) + draw.random(len(clips)) * BUFFER_CLIPS
    return spread[np.argsort(delayed, kind="stable")]


def _run_of_each(clips: ClipList) -> NDArray[np.int64]:
    """The number of the run that each clip is in, (N,), rising from 0."""
    lengths = clips.lengths
    starts_shard = np.flatnonzero(np.diff(clips.shard, prepend=-1))
    before = np.cumsum(lengths) - lengths
    in_shard = before - np.repeat(before[starts_shard], np.diff(starts_shard, append=len(clips)))
    piece = in_shard // RUN_BYTES
    begins = np.diff(clips.shard, prepend=-1).astype(bool) | (np.diff(piece, prepend=-1) != 0)
    return np.cumsum(begins) - 1


class ClipOrder:
    """Random access to the endless order: `order[place]` is a clip's number. Not for several threads at once."""

    def __init__(self, clips: ClipList, seed: int) -> None:
        self._clips, self._seed = clips, seed
        self._epochs: OrderedDict[int, NDArray[np.int64]] = OrderedDict()  # only for speed

    def __getitem__(self, place: int) -> int:
        epoch, position = divmod(place, len(self._clips))
        order = self._epochs.get(epoch)
        if order is None:
            order = self._epochs[epoch] = epoch_order(self._clips, self._seed, epoch)
            while len(self._epochs) > _KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        return int(order[position])
