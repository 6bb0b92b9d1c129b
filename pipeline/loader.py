"""Batches of clips for training: a pure function of (seed, step, rank, world), so resuming needs no state at all."""

from __future__ import annotations

import mmap
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.errors import BitreelError, UsageError
from pipeline.manifest import SHARDS, read_manifest, read_store_settings

_OPEN_SHARDS = 64
_COLUMNS = ("shard", "key", "offset", "length", "frames", "stored_width", "stored_height")
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Clip:
    """Where a clip lies; the columns of the manifest that loading needs."""

    shard: str
    key: str
    offset: int
    length: int
    frames: int
    stored_width: int
    stored_height: int


@dataclass(frozen=True)
class ClipBatch:
    """luma: (B, T, 1, crop, crop) uint8; chroma: (B, T, 2, crop/2, crop/2) uint8, U then V; keys: the clips' keys."""

    luma: Tensor
    chroma: Tensor
    keys: list[str]


class ClipLoader:
    """Random crops of random clips of one split of a yuv420 store.

    Each epoch is a fresh permutation of all clips, dealt to the ranks in turn, so no clip comes twice in an epoch.
    Position, time offset and horizontal flip come from a generator seeded by (seed, place in the whole order).
    Clips shorter than `clip_frames` are played back and forth; pictures smaller than `crop` are mirrored at the edges.

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
    ) -> None:
        store = Path(store)
        if split not in _SPLITS:
            raise UsageError(f"unknown split '{split}'; known: {', '.join(_SPLITS)}")
        if crop <= 0 or crop % 2 or clip_frames <= 0 or batch_size <= 0:
            raise UsageError(f"crop ({crop}) must be even, crop, clip_frames and batch_size positive")
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} is not in a world of {world}")
        if read_store_settings(store)["pixels"] != "yuv420":
            raise UsageError(
                f"store '{store}' holds RGB; training wants one made with `bitreel ingest --pixels yuv420`"
            )
        self.split, self.clip_frames, self.crop, self.batch_size = split, clip_frames, crop, batch_size
        self.seed, self.rank, self.world = seed, rank, world
        self._shards = _Shards(store / SHARDS)
        table = read_manifest(store, [*_COLUMNS, "split"])
        rows = table.filter(pc.equal(table["split"], split)).select(_COLUMNS).to_pylist()
        if not rows:
            raise UsageError(f"store '{store}' has no clips in split '{split}'; ingest more videos")
        self._clips = sorted((_Clip(**row) for row in rows), key=lambda clip: clip.key)
        self._shards.check(self._clips)
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        """Clips in the split."""
        return len(self._clips)

    def batch(self, step: int) -> ClipBatch:
        """The batch of this rank at `step`, counted from 0."""
        first = (step * self.world + self.rank) * self.batch_size
        half = self.crop // 2
        luma = np.empty((self.batch_size, self.clip_frames, 1, self.crop, self.crop), np.uint8)
        chroma = np.empty((self.batch_size, self.clip_frames, 2, half, half), np.uint8)
        keys = []
        for i in range(self.batch_size):
            place = first + i
            clip = self._clips[self._item(place)]
            self._fill(clip, np.random.default_rng([self.seed, place]), luma[i, :, 0], chroma[i])
            keys.append(clip.key)
        return ClipBatch(torch.from_numpy(luma), torch.from_numpy(chroma), keys)

    def _item(self, place: int) -> int:
        """The clip at a place in the endless order: epoch after epoch, each its own permutation."""
        epoch, position = divmod(place, len(self._clips))
        if self._order[0] != epoch:  # kept only for speed; it follows from (seed, epoch) alone
            self._order = (epoch, np.random.default_rng([self.seed, epoch, 1]).permutation(len(self._clips)))
        return int(self._order[1][position])

    def _fill(self, clip: _Clip, rng: np.random.Generator, luma: NDArray[np.uint8], chroma: NDArray[np.uint8]) -> None:
        """Cut one clip: luma (T, crop, crop), chroma (T, 2, crop/2, crop/2), written in place."""
        stored = self._shards.view(clip)
        frames, width, height = clip.frames, clip.stored_width, clip.stored_height
        start = int(rng.integers(0, max(frames - self.clip_frames, 0) + 1))
        x = 2 * int(rng.integers(0, max(width - self.crop, 0) // 2 + 1))
        y = 2 * int(rng.integers(0, max(height - self.crop, 0) // 2 + 1))
        flip = bool(rng.integers(0, 2))
        chosen = [start + _back_and_forth(t, frames) for t in range(self.clip_frames)]
        for t, index in enumerate(chosen):
            _cut(stored[index, :height], x, y, flip, luma[t])
            planes = stored[index, height:].reshape(2, height // 2, width // 2)
            for c in range(2):
                _cut(planes[c], x // 2, y // 2, flip, chroma[t, c])


def _back_and_forth(t: int, frames: int) -> int:
    """0, 1, ..., frames-1, frames-2, ..., 0, 1, ... so that a short clip fills any length without a jump."""
    if frames == 1:
        return 0
    t %= 2 * (frames - 1)
    return t if t < frames else 2 * (frames - 1) - t


def _cut(plane: NDArray[np.uint8], x: int, y: int, flip: bool, out: NDArray[np.uint8]) -> None:
    """Copy the window at (x, y) into `out`, mirroring the plane's edges where it is smaller than the window."""
    height, width = out.shape
    part = plane[y : y + height, x : x + width]
    if part.shape != out.shape:
        part = np.pad(part, ((0, height - part.shape[0]), (0, width - part.shape[1])), mode="symmetric")
    out[...] = part[:, ::-1] if flip else part


class _Shards:
    """Memory maps of the shards last used; only the pages that a crop touches are read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()

    def check(self, clips: list[_Clip]) -> None:
        """Raise BitreelError where a shard is missing or ends before its last clip does."""
        ends: dict[str, int] = {}
        for clip in clips:
            ends[clip.shard] = max(clip.offset + clip.length, ends.get(clip.shard, 0))
        for shard, end in ends.items():
            path = self._folder / shard
            if not path.is_file() or path.stat().st_size < end:
                found = "shorter than the manifest says" if path.is_file() else "missing"
                raise BitreelError(f"'{path}' is {found}; run `bitreel store verify {self._folder.parent}`")

    def view(self, clip: _Clip) -> NDArray[np.uint8]:
        """The stored planes (frames, stored_height * 3/2, stored_width), straight from the file."""
        mapped = self._maps.pop(clip.shard, None)
        if mapped is None:
            with (self._folder / clip.shard).open("rb") as handle:
                mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            while len(self._maps) >= _OPEN_SHARDS:
                self._maps.popitem(last=False)  # closed once no array views it
        self._maps[clip.shard] = mapped
        rows = clip.stored_height * 3 // 2
        count = clip.frames * rows * clip.stored_width
        header = clip.length - count  # of the .npy member
        flat = np.frombuffer(mapped, np.uint8, count, clip.offset + header)
        return flat.reshape(clip.frames, rows, clip.stored_width)
