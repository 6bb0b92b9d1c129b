"""In which form should a clip lie in its shard? Bytes against the speed of reading training crops, for real clips.

raw         planes as they are: a crop reads the rows it needs
lz4, zstd   each frame by itself, so that a crop reads the frames it needs; `left`: each sample was first replaced by
            its difference to the one at its left
ffv1        each frame by itself, version 3, range coder

Every form gives back the very samples (checked). Speeds are by the CPU time of one core, from memory. A crop is frames
x side x side of a clip at a random place; its speed counts the 4:2:0 bytes that come out. `slower disk` is the speed
of the disk (stored MB/s for each core that reads) below which the form gives crops faster than raw planes do; above it
raw is faster. The disk is only computed: bytes that a crop needs, divided by its speed, beside the CPU time.

Example: python benchmarks/sample_storage.py --store clips/ --json storage.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Planes = NDArray[np.uint8]  # (frames, height * 3/2, width), or one frame of it
SHAPES = ((2, 128), (7, 256), (16, 256))
SECONDS = 1.0  # CPU time for each figure, at least
MAX_CLIPS = 60


@dataclass(frozen=True)
class Form:
    """pack: a frame (rows, width) to bytes; unpack: back, given its shape."""

    name: str
    pack: Callable[[Planes], bytes]
    unpack: Callable[[bytes, tuple[int, int]], Planes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a yuv420 store; without it, rendered clips")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    if given.store:
        rows = compare(read_clips(given.store))
    else:
        from pipeline.ingest import ingest_videos
        from pipeline.rendered import render_demo_videos

        with tempfile.TemporaryDirectory() as folder:
            videos = render_demo_videos(Path(folder) / "videos", 6, 48)
            ingest_videos(videos, Path(folder) / "store", val_fraction=0, test_fraction=0, held_out=0)
            rows = compare(read_clips(Path(folder) / "store"))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


def read_clips(store: Path) -> list[Planes]:
    """Clips spread over the store, at most MAX_CLIPS."""
    from pipeline.clip_list import clips_of_split
    from pipeline.manifest import SHARDS

    listed, clips = clips_of_split(store, "train"), []
    for number in np.unique(np.linspace(0, len(listed) - 1, MAX_CLIPS).astype(int)):
        clip = listed[int(number)]
        with (store / SHARDS / clip.shard).open("rb") as shard:
            shard.seek(clip.pixels_at)
            planes = np.frombuffer(shard.read(clip.frames * clip.frame_bytes), np.uint8)
        clips.append(planes.reshape(clip.frames, clip.height * 3 // 2, clip.width))
    return clips


def compare(clips: list[Planes]) -> list[dict[str, Any]]:
    size = sum(clip.nbytes for clip in clips)
    sides = sorted({f"{clip.shape[2]}x{clip.shape[1] * 2 // 3}" for clip in clips})
    print(f"{len(clips)} clips of {', '.join(sides)}, {size / 1e6:.0f} MB raw; MB/s of CPU time on one core")
    shapes = "  ".join(f"{f'crops {t}x{side}':>12} {'slower disk':>11}" for t, side in SHAPES)
    print(f"{'form':12} {'size':>5} {'write':>6} {'read all':>9}  {shapes}", flush=True)
    rows: list[dict[str, Any]] = []
    for form in FORMS:
        begin = time.process_time()
        packed = [[form.pack(frame) for frame in clip] for clip in clips]
        row: dict[str, Any] = {"form": form.name, "write": size / (time.process_time() - begin) / 1e6}
        row["size"] = sum(len(frame) for frames in packed for frame in frames) / size
        for frames, clip in zip(packed, clips, strict=True):
            back = [form.unpack(frame, clip.shape[1:]) for frame in frames]
            assert np.array_equal(np.stack(back), clip), f"{form.name} does not give back a clip"
        row["read"] = 1 / Crops(form, packed, clips, None).cost()[0]
        cells = []
        for shape in SHAPES:
            cpu, needed = Crops(form, packed, clips, shape).cost()
            row[f"{shape[0]}x{shape[1]}"] = {"cpu": cpu, "needed": needed}
            raw = rows[0][f"{shape[0]}x{shape[1]}"] if rows else {"cpu": cpu, "needed": needed}
            saved, spent = raw["needed"] - needed, cpu - raw["cpu"]
            below = f"{saved / spent:.0f}" if saved > 0 and spent > 0 else "-"
            cells.append(f"{1 / cpu:12.0f} {below:>11}")
        print(
            f"{form.name:12} {row['size']:5.2f} {row['write']:6.0f} {row['read']:9.0f}  {'  '.join(cells)}", flush=True
        )
        rows.append(row)
    return rows


@dataclass
class Crops:
    """Crops of (frames, side) out of packed clips, cut as the loader does; None for whole clips."""

    form: Form
    packed: list[list[bytes]]
    clips: list[Planes]
    shape: tuple[int, int] | None

    def cost(self) -> tuple[float, float]:
        """CPU seconds a MB that comes out, and stored bytes that are needed for each byte of it."""
        out = needed = done = 0
        draw = np.random.default_rng(5)
        begin = time.process_time()
        while (spent := time.process_time() - begin) < SECONDS:
            got, read = self._one(done % len(self.clips), draw)
            out, needed, done = out + got, needed + read, done + 1
        return spent / out * 1e6, needed / out

    def _one(self, number: int, draw: np.random.Generator) -> tuple[int, int]:
        count, rows, width = self.clips[number].shape
        height = rows * 2 // 3
        frames, side = self.shape or (count, max(width, height))
        first = int(draw.integers(0, max(count - frames, 0) + 1))
        x, y = (2 * int(draw.integers(0, max(length - side, 0) // 2 + 1)) for length in (width, height))
        tall, wide = min(side, height), min(side, width)
        luma = tall * wide
        pieces = self.packed[number][first : first + frames]
        out = np.empty((len(pieces), luma * 3 // 2), np.uint8)
        for cut, piece in zip(out, pieces, strict=True):
            picture = self.form.unpack(piece, (rows, width))
            cut[:luma].reshape(tall, wide)[...] = picture[y : y + tall, x : x + wide]
            halves = picture[height:].reshape(2, height // 2, width // 2)
            window = halves[:, y // 2 : (y + tall) // 2, x // 2 : (x + wide) // 2]
            cut[luma:].reshape(window.shape)[...] = window
        read = sum(map(len, pieces))
        return out.nbytes, read * tall // height if self.form.name == "raw" else read


def zipped(codec: str, level: int | None, left: bool = False) -> Form:
    packer = pa.Codec(codec, compression_level=level) if level else pa.Codec(codec)

    def pack(frame: Planes) -> bytes:
        given = np.diff(frame, axis=1, prepend=np.uint8(0)) if left else frame
        return bytes(packer.compress(given.tobytes(), asbytes=True))

    def unpack(piece: bytes, shape: tuple[int, int]) -> Planes:
        flat = np.frombuffer(packer.decompress(piece, shape[0] * shape[1]), np.uint8).reshape(shape)
        return np.cumsum(flat, axis=1, dtype=np.uint8) if left else flat

    return Form(f"{codec}{f'-{level}' if level else ''}{' left' if left else ''}", pack, unpack)


def ffv1() -> Form:
    headers: dict[tuple[int, int], bytes] = {}  # one a size, as it would stand in each sample
    decoders: dict[tuple[int, int], av.VideoCodecContext] = {}

    def opened(mode: Literal["r", "w"], shape: tuple[int, int]) -> av.VideoCodecContext:
        context = av.VideoCodecContext.create("ffv1", mode)
        context.width, context.height, context.pix_fmt = shape[1], shape[0] * 2 // 3, "yuv420p"
        context.thread_count = 1
        return context

    def pack(frame: Planes) -> bytes:
        encoder = opened("w", frame.shape)
        encoder.time_base = Fraction(1, 25)
        encoder.options = {"level": "3", "coder": "range_def", "slices": "4", "slicecrc": "0", "g": "1"}
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="yuv420p")
        (packet,) = [packet for packet in (*encoder.encode(picture), *encoder.encode(None)) if packet.size]
        headers[frame.shape] = bytes(encoder.extradata or b"")
        return bytes(packet)

    def unpack(piece: bytes, shape: tuple[int, int]) -> Planes:
        if shape not in decoders:
            decoders[shape] = opened("r", shape)
            decoders[shape].extradata = headers[shape]
        (picture,) = decoders[shape].decode(av.Packet(piece))
        return picture.to_ndarray()

    return Form("ffv1", pack, unpack)


FORMS = (
    Form("raw", lambda frame: frame.tobytes(), lambda piece, shape: np.frombuffer(piece, np.uint8).reshape(shape)),
    zipped("lz4", None),
    zipped("zstd", 1),
    zipped("zstd", 3),
    zipped("zstd", 3, left=True),
    ffv1(),
)

if __name__ == "__main__":
    main()
