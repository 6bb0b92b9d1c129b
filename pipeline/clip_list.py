"""The clips of one split, as columns in the order they lie on the disk: what a training reads, and can keep to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3
from numpy.typing import NDArray

from codec.atomic_files import write_atomically
from codec.errors import BitreelError, UsageError
from pipeline.manifest import CLIP_SCHEMA, read_manifest, read_store_settings

SPLITS = ("train", "val", "test")
_COLUMNS = ("clip_id", "shard", "key", "offset", "length", "frames", "stored_width", "stored_height")
_SCHEMA = pa.schema([CLIP_SCHEMA.field(name) for name in _COLUMNS])


@dataclass(frozen=True)
class ClipPlace:
    """Where one clip lies: `length` bytes from `offset` in a shard end with `frames` 4:2:0 pictures of this size."""

    shard: str
    key: str
    offset: int
    length: int
    frames: int
    width: int
    height: int

    @property
    def frame_bytes(self) -> int:
        return self.width * self.height * 3 // 2

    @property
    def pixels_at(self) -> int:
        """Offset of the first picture in the shard, behind the .npy header."""
        return self.offset + self.length - self.frames * self.frame_bytes


class ClipList:
    """Clips by number, sorted by shard and offset. Some 200 bytes a clip in memory.

    Two stores, or one store at two times, give the same `fingerprint` only where every clip has the same content and
    the same place.
    """

    def __init__(self, table: pa.Table) -> None:
        """table: the columns of the manifest that loading needs, in any order."""
        table = table.select(_COLUMNS).sort_by([("shard", "ascending"), ("offset", "ascending")]).combine_chunks()
        self._table = table
        shards = pc.dictionary_encode(table["shard"].combine_chunks()) if len(table) else None
        self.shards: list[str] = shards.dictionary.to_pylist() if shards is not None else []
        self.shard: NDArray[np.int32] = (
            shards.indices.to_numpy(zero_copy_only=False) if shards is not None else np.empty(0, np.int32)
        )
        self._numbers = {name: table[name].to_numpy() for name in _COLUMNS if name not in ("clip_id", "shard", "key")}

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, number: int) -> ClipPlace:
        n = self._numbers
        return ClipPlace(
            self.shards[self.shard[number]],
            self._table["key"][number].as_py(),
            *(int(n[name][number]) for name in ("offset", "length", "frames", "stored_width", "stored_height")),
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Stored bytes of each clip, (N,)."""
        return self._numbers["length"]

    def places(self) -> dict[str, tuple[str, str, int]]:
        """Content and place of each clip by its key: (clip_id, shard, offset)."""
        columns = (self._table[name].to_pylist() for name in ("key", "clip_id", "shard", "offset"))
        return {key: (clip, shard, offset) for key, clip, shard, offset in zip(*columns, strict=True)}

    def shard_ends(self) -> NDArray[np.int64]:
        """How long each of `shards` is at least, (S,) bytes."""
        ends = np.zeros(len(self.shards), np.int64)
        np.maximum.at(ends, self.shard, self._numbers["offset"] + self._numbers["length"])
        return ends

    def fingerprint(self) -> str:
        """BLAKE3 over content and place of every clip."""
        digest = blake3()
        for name in ("clip_id", "shard", "key", "offset"):
            digest.update("\n".join(map(str, self._table[name].to_pylist())).encode() + b"\0")
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write the list as Parquet, all or nothing. Raises OSError as the disk does."""
        buffer = pa.BufferOutputStream()
        pq.write_table(self._table, buffer, compression="zstd")
        write_atomically(path, buffer.getvalue().to_pybytes())


def read_clip_list(path: Path) -> ClipList:
    """A list that `ClipList.write` wrote. Raises BitreelError where it is damaged."""
    try:
        return ClipList(pq.ParquetFile(path).read().cast(_SCHEMA))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise BitreelError(f"'{path}' is missing or damaged: the clips of this run are not known without it") from error


def clips_of_split(store: Path, split: str) -> ClipList:
    """The clips that a yuv420 store has in a split now.

    Raises UsageError where the store holds RGB, or the split is empty or unknown; BitreelError where it is damaged.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split '{split}'; known: {', '.join(SPLITS)}")
    if read_store_settings(store)["pixels"] != "yuv420":
        raise UsageError(f"store '{store}' holds RGB; training wants one made with `bitreel ingest --pixels yuv420`")
    table = read_manifest(store, [*_COLUMNS, "split"])
    clips = ClipList(table.filter(pc.equal(table["split"], split)))
    if not len(clips):
        raise UsageError(f"store '{store}' has no clips in split '{split}'; ingest more videos")
    return clips
