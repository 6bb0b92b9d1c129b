"""How fast do training crops come, to a consumer that does nothing? Our loader beside what others do, on one core each.

bitreel     what the trainer uses (`PhaseBatches`): random places, order and position as docs/loader.md tells
webdataset  a plain pipeline over the very same shards: shards shuffled, arrays decoded, cropped, shuffled, batched
png         a PyTorch DataLoader over a folder of PNGs a clip, as public training code of learned video codecs has it

Each runs in a process of its own that is bound to one core, in turn, several times. Cold: its files were dropped from
the page cache before (what a hypervisor keeps we can't know); warm: a second time. A megabyte is 10⁶ bytes of 4:2:0
samples of the crops that come out (RGB pictures count as what they would be in 4:2:0). "MB/s" is by the clock, "MB per
CPU second" by the process's own time, which other work on the machine disturbs less.

Example: python benchmarks/loader_throughput.py ~/videos --json loader.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

REPEATS = 3
SECONDS = 3.0
BATCH = 8
CONTENDERS = ("bitreel", "webdataset", "png")
SHAPES = ((7, 256), (2, 128))  # frames and crop: as for Vimeo-90k, and short clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="videos or folders of them; none: rendered clips")
    parser.add_argument("--store", type=Path, help="measure on this store instead of a fresh one")
    parser.add_argument("--size", default="448x256", help="pictures of the fresh store, WxH")
    parser.add_argument("--scratch", help="folder for what is written (default: the system's)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # contender, frames, crop, folder: the child's part
    given = parser.parse_args()
    if given.one:
        name, frames, crop, folder = given.one
        print(json.dumps(measure(name, int(frames), int(crop), Path(folder))))
        return
    with tempfile.TemporaryDirectory(dir=given.scratch) as temporary:
        compare(prepare(given, Path(temporary)), given.json)


def prepare(given: argparse.Namespace, scratch: Path) -> Path:
    """A folder with `store` and, of the same clips, `png`; both on the disk, not only in its cache."""
    store = scratch / "store"
    if given.store:
        store.symlink_to(given.store.resolve())
    else:
        from pipeline.ingest import ingest_videos
        from pipeline.rendered import render_demo_videos

        sources = given.sources or [str(path) for path in render_demo_videos(scratch / "videos", 12, 96)]
        width, height = (int(side) for side in given.size.split("x"))
        ingest_videos(sources, store, crop=(width, height), val_fraction=0, test_fraction=0, held_out=0)
    clips, size = write_pngs(store, scratch / "png")
    os.sync()
    print(f"{clips} clips, {size / 1e6:.0f} MB of samples; {os.cpu_count()} cores, {BATCH} clips a batch", flush=True)
    return scratch


def write_pngs(store: Path, folder: Path) -> tuple[int, int]:
    import av
    import numpy as np

    from pipeline.clip_list import clips_of_split
    from pipeline.manifest import SHARDS

    clips, size = clips_of_split(store, "train"), 0
    for number in range(len(clips)):
        clip = clips[number]
        (folder / clip.key).mkdir(parents=True)
        rows = clip.height * 3 // 2
        with (store / SHARDS / clip.shard).open("rb") as shard:
            shard.seek(clip.pixels_at)
            planes = np.frombuffer(shard.read(clip.frames * clip.frame_bytes), np.uint8)
        for t, frame in enumerate(planes.reshape(clip.frames, rows, clip.width)):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="yuv420p")
            picture.to_image().save(folder / clip.key / f"im{t + 1}.png")
        size += planes.size
    return len(clips), size


def compare(folder: Path, json_path: Path | None) -> None:
    found: dict[tuple[str, int, int], list[dict[str, float]]] = {}
    for _ in range(REPEATS):
        for frames, crop in SHAPES:
            for name in CONTENDERS:
                command = [sys.executable, __file__, "--one", name, str(frames), str(crop), str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.setdefault((name, frames, crop), []).append(json.loads(done.stdout.splitlines()[-1]))
    head = "frames x crop   loader       cold MB/s      warm MB/s      warm MB per CPU second      bitreel is faster by"
    print(head)
    table = []
    for (name, frames, crop), runs in sorted(
        found.items(), key=lambda item: (-item[0][1], CONTENDERS.index(item[0][0]))
    ):
        ours = found["bitreel", frames, crop]
        row: dict[str, Any] = {"loader": name, "frames": frames, "crop": crop, "runs": runs}
        for key in ("cold", "warm", "warm_cpu"):
            row[key] = statistics.median(run[key] for run in runs)
            row[f"{key}_ratio"] = statistics.median(a[key] / b[key] for a, b in zip(ours, runs, strict=True))
        table.append(row)
        ratios = " / ".join(f"{row[f'{key}_ratio']:.1f}" for key in ("cold", "warm", "warm_cpu"))
        figures = [f"{row['cold']:9.0f}", f"{row['warm']:14.0f}", f"{row['warm_cpu']:18.0f}", f"{ratios:>28}"]
        print(f"{frames:3d} x {crop:<10d} {name:12}", *figures)
    if json_path:
        json_path.write_text(json.dumps(table, indent=2) + "\n")


def measure(name: str, frames: int, crop: int, folder: Path) -> dict[str, float]:
    """One contender in this process: rates in MB/s, cold and warm, and warm by CPU time."""
    import torch

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    start: Callable[[Path, int, int], Iterator[int]] = {
        "bitreel": bitreel_clips, "webdataset": webdataset_clips, "png": png_clips
    }[name]  # fmt: skip
    next(start(folder, frames, crop))  # imports done
    drop_from_cache(folder / ("png" if name == "png" else "store/shards"))
    batches = start(folder, frames, crop)
    cold, _ = rate(batches, frames, crop)
    warm, warm_cpu = rate(batches, frames, crop)
    return {"cold": cold, "warm": warm, "warm_cpu": warm_cpu}


def rate(batches: Iterator[int], frames: int, crop: int) -> tuple[float, float]:
    """MB/s by the clock and by CPU time. Batches are told as their numbers of clips."""
    clock, cpu, clips = time.perf_counter(), time.process_time(), 0
    while (elapsed := time.perf_counter() - clock) < SECONDS:
        clips += next(batches)
    size = clips * frames * crop * crop * 1.5 / 1e6
    return size / elapsed, size / (time.process_time() - cpu)


def drop_from_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with path.open("rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bitreel_clips(folder: Path, frames: int, crop: int) -> Iterator[int]:
    from trainers.phase_batches import PhaseBatches
    from trainers.recipe import Phase, Recipe

    phase = Phase(name="all", steps=1 << 30, learning_rate=(1e-3, 1e-3), clip_frames=frames, crop=crop)
    batches = PhaseBatches(folder / "store", Recipe(name="none", codec="innvc", phases=(phase,), batch_size=BATCH))
    for step in range(1 << 30):
        yield len(batches.batch(step).luma)


def webdataset_clips(folder: Path, frames: int, crop: int) -> Iterator[int]:
    import numpy as np
    import webdataset

    draw = np.random.default_rng(1)

    def cut(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        clip, facts = sample["npy"], sample["json"]
        height, width = facts["stored_height"], facts["stored_width"]
        take = np.arange(frames) % len(clip) + draw.integers(0, max(1, len(clip) - frames + 1))
        x, y = (2 * int(draw.integers(0, max(0, side - crop) // 2 + 1)) for side in (width, height))
        luma = fitted(clip[take % len(clip), y : min(y + crop, height), x : x + crop], crop)
        planes = clip[take % len(clip), height:].reshape(frames, 2, height // 2, width // 2)
        chroma = fitted(planes[..., y // 2 : (y + crop) // 2, x // 2 : (x + crop) // 2], crop // 2)
        side = -1 if draw.random() < 0.5 else 1
        return np.ascontiguousarray(luma[..., ::side]), np.ascontiguousarray(chroma[..., ::side])

    shards = sorted(str(path) for path in (folder / "store" / "shards").iterdir())
    while True:
        pipeline = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
        for batch in pipeline.decode().map(cut).shuffle(100).batched(BATCH):
            yield len(batch[0])


def png_clips(folder: Path, frames: int, crop: int) -> Iterator[int]:
    import numpy as np
    import torch
    from PIL import Image

    class PngClips(torch.utils.data.Dataset[torch.Tensor]):
        """A random stretch of a random clip: frames opened, cropped, flipped, stacked (T, 3, crop, crop) uint8."""

        def __init__(self) -> None:
            self.clips = sorted((folder / "png").iterdir())
            self.draw = np.random.default_rng(1)

        def __len__(self) -> int:
            return len(self.clips)

        def __getitem__(self, index: int) -> torch.Tensor:
            paths = sorted(self.clips[index].iterdir(), key=lambda path: int(path.stem[2:]))
            first = int(self.draw.integers(0, max(1, len(paths) - frames + 1)))
            pictures = []
            for t in range(frames):
                with Image.open(paths[(first + t) % len(paths)]) as picture:
                    pictures.append(np.asarray(picture.convert("RGB")))
            stack = np.stack(pictures)
            y, x = (int(self.draw.integers(0, max(0, side - crop) + 1)) for side in stack.shape[1:3])
            window = fitted(stack[:, y : y + crop, x : x + crop].transpose(0, 3, 1, 2), crop)
            return torch.from_numpy(np.ascontiguousarray(window[..., :: -1 if self.draw.random() < 0.5 else 1]))

    while True:
        for batch in torch.utils.data.DataLoader(PngClips(), batch_size=BATCH, shuffle=True):
            yield len(batch)


def fitted(part: Any, side: int) -> Any:
    """Mirrored at the right and bottom where the picture is smaller than the crop."""
    import numpy as np

    missing = [(0, 0)] * (part.ndim - 2) + [(0, side - length) for length in part.shape[-2:]]
    return np.pad(part, missing, mode="symmetric") if any(more for _, more in missing) else part


if __name__ == "__main__":
    main()
