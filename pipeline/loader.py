"""Batches of clips for training: a pure function of (clips, seed, step), shared out by rank.

So the step is the position: nothing else is needed to go on where a run stopped, with any number of workers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.errors import UsageError
from pipeline.batch_shares import share_of
from pipeline.clip_list import ClipList, ClipPlace, clips_of_split
from pipeline.clip_order import ClipOrder
from pipeline.manifest import SHARDS
from pipeline.shard_reader import ShardReader

_KEPT_DRAWS = 1024


@dataclass(frozen=True)
class ClipBatch:
    """luma: (B, T, 1, crop, crop) uint8; chroma: (B, T, 2, crop/2, crop/2) uint8, U then V; keys: the clips' keys."""

    luma: Tensor
    chroma: Tensor
    keys: list[str]


@dataclass(frozen=True)
class _Cut:
    """What is taken from a clip: `frames` by number, the window at (x, y) of each, mirrored where `flip` is set."""

    frames: tuple[int, ...]
    x: int
    y: int
    flip: bool


class ClipLoader:
    """Random crops of random clips of one split of a yuv420 store.

    batch_size counts clips over all ranks; a rank gets its share, as even as can be. Each epoch is a fresh order of all
    clips (`pipeline.clip_order`), so no clip comes twice in an epoch, whatever the world or its changes. Place in the
    clip, time offset, direction of time (where `reversal` is set) and horizontal flip come from a generator seeded by
    (seed, place in the whole order), so they do not depend on the world either. Clips shorter than `clip_frames` are
    played back and forth; pictures smaller than `crop` are mirrored at the edges.

    `clips`: a list to keep to, instead of what the store has in the split now.

    Raises UsageError where the store holds RGB, the split is empty or unknown, or a size makes no sense; BitreelError
    where a shard is missing or shorter than the manifest says.
    """

    def __init__(
        self,
        store: Path,
        *,
        split: str,
        clip_frames: int,
        crop: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        reversal: bool = True,
        clips: ClipList | None = None,
    ) -> None:
        store = Path(store)
        if batch_size <= 0:
            raise UsageError(f"batch_size ({batch_size}) must be positive")
        self.clips = clips if clips is not None else clips_of_split(store, split)
        self.batch_size, self.seed, self.reversal = batch_size, seed, reversal
        share = share_of(batch_size, rank, world)
        self.share = range(share.start, share.stop)
        self.reader = ShardReader(store / SHARDS)
        self.reader.check(self.clips.shards, self.clips.shard_ends())
        self._order = ClipOrder(self.clips, seed)
        self._set_shape(clip_frames, crop)

    def _set_shape(self, clip_frames: int, crop: int) -> None:
        if crop <= 0 or crop % 2 or clip_frames <= 0:
            raise UsageError(f"crop ({crop}) must be even, crop and clip_frames positive")
        self.clip_frames, self.crop = clip_frames, crop
        self._draw = lru_cache(_KEPT_DRAWS)(self._draw_place)  # asked for by `announce`, then by `batch`

    def reshaped(self, clip_frames: int, crop: int) -> ClipLoader:
        """The same order of the same clips, cut to another shape; shares what this one has read and opened."""
        other = copy.copy(self)
        other._set_shape(clip_frames, crop)
        return other

    def __len__(self) -> int:
        """Clips in the split."""
        return len(self.clips)

    def batch(self, step: int) -> ClipBatch:
        """The share of this rank at `step`, counted from 0."""
        half, count = self.crop // 2, len(self.share)
        luma = np.empty((count, self.clip_frames, 1, self.crop, self.crop), np.uint8)
        chroma = np.empty((count, self.clip_frames, 2, half, half), np.uint8)
        keys = []
        for i, sample in enumerate(self.share):
            clip, cut = self._draw(step * self.batch_size + sample)
            self._fill(clip, cut, luma[i, :, 0], chroma[i])
            keys.append(clip.key)
        return ClipBatch(torch.from_numpy(luma), torch.from_numpy(chroma), keys)

    def announce(self, step: int) -> None:
        """Let the disk begin with what `batch(step)` will read, in the order in which it lies there."""
        wanted = []
        for sample in self.share:
            clip, cut = self._draw(step * self.batch_size + sample)
            first, last = min(cut.frames), max(cut.frames)
            if 2 * self.crop >= clip.height:  # most of each picture: one stretch
                begin = clip.pixels_at + first * clip.frame_bytes
                wanted.append((clip.shard, begin, (last + 1 - first) * clip.frame_bytes))
            else:
                wanted += [
                    (clip.shard, *stretch)
                    for frame in range(first, last + 1)
                    for _, stretch, _ in self._planes(clip, frame, cut)
                ]
        for stretch in sorted(wanted):
            self.reader.announce(*stretch)

    def _draw_place(self, place: int) -> tuple[ClipPlace, _Cut]:
        """The clip at a place in the endless order and what is cut out of it."""
        clip = self.clips[self._order[place]]
        spans = (
            max(clip.frames - self.clip_frames, 0) + 1,
            max(clip.width - self.crop, 0) // 2 + 1,
            max(clip.height - self.crop, 0) // 2 + 1,
            2,
            2,
        )
        draws = np.random.default_rng([self.seed, place]).random(len(spans))
        start, x, y, flip, backwards = (int(draw * span) for draw, span in zip(draws, spans, strict=True))
        frames = tuple(start + _back_and_forth(t, clip.frames) for t in range(self.clip_frames))
        return clip, _Cut(frames[::-1] if backwards and self.reversal else frames, 2 * x, 2 * y, bool(flip))

    def _planes(self, clip: ClipPlace, frame: int, cut: _Cut) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
        """The whole rows to read for Y, U and V: (left edge of the window, (offset, length), (rows, width))."""
        planes = []
        at = clip.pixels_at + frame * clip.frame_bytes
        for width, height, x, y, side in (
            (clip.width, clip.height, cut.x, cut.y, self.crop),
            *2 * [(clip.width // 2, clip.height // 2, cut.x // 2, cut.y // 2, self.crop // 2)],
        ):
            rows = min(side, height)
            planes.append((x, (at + y * width, rows * width), (rows, width)))
            at += width * height
        return planes

    def _fill(self, clip: ClipPlace, cut: _Cut, luma: NDArray[np.uint8], chroma: NDArray[np.uint8]) -> None:
        """Cut one clip: luma (T, crop, crop), chroma (T, 2, crop/2, crop/2), written in place."""
        first_time: dict[int, int] = {}
        for t, frame in enumerate(cut.frames):
            if frame in first_time:  # played back and forth
                luma[t], chroma[t] = luma[first_time[frame]], chroma[first_time[frame]]
                continue
            first_time[frame] = t
            outs = (luma[t], chroma[t, 0], chroma[t, 1])
            for out, (x, (offset, _), shape) in zip(outs, self._planes(clip, frame, cut), strict=True):
                rows = np.empty(shape, np.uint8)
                self.reader.read(clip.shard, offset, rows)
                _place(rows[:, x : x + len(out)], cut.flip, out)


def _back_and_forth(t: int, frames: int) -> int:
    """0, 1, ..., frames-1, frames-2, ..., 0, 1, ... so that a short clip fills any length without a jump."""
    if frames == 1:
        return 0
    t %= 2 * (frames - 1)
    return t if t < frames else 2 * (frames - 1) - t


def _place(part: NDArray[np.uint8], flip: bool, out: NDArray[np.uint8]) -> None:
    """Copy a window into `out`, mirroring its edges at right and bottom where it is smaller."""
    if part.shape != out.shape:
        missing = [(0, wanted - got) for wanted, got in zip(out.shape, part.shape, strict=True)]
        part = np.pad(part, missing, mode="symmetric")
    out[...] = part[:, ::-1] if flip else part
