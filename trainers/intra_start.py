"""Makes what intra coding starts from, `codec/intra/start.npz`, anew from a store's clips.

    python -m trainers.intra_start --store STORE --out FILE

First the modes are learned (`trainers.intra_modes`). Then the coder runs over a frame of every clip with them, at QPs
drawn at random, and its mixer is never reset: what it has learned in the end is what each intra frame starts from. The
file is part of the format: streams made with one don't decode with another.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec.bit_mixing import Mixer
from codec.errors import BitreelError, UsageError
from codec.inter.quantization import intra_steps
from codec.intra.coding import IntraSettings, code_planes
from codec.intra.start import Matrices, new_mixer, save_start
from pipeline.loader import ClipLoader
from trainers.intra_modes import Planes, Progress, collect_blocks, learn_modes

_QPS = 16, 62  # coarser ones have next to no symbols to learn from


@dataclass(frozen=True)
class StartRecipe:
    """How much is learned from. crop: side of the pictures, a multiple of 16. crops: of each clip.

    per_plane: blocks of each size from a picture's luma. rounds: of fitting the modes.
    """

    crop: int = 128
    crops: int = 4
    per_plane: int = 80
    rounds: int = 28
    seed: int = 0


def make_start(store: Path, file: Path, recipe: StartRecipe, progress: Progress = print) -> None:
    """Learn modes and mixer from the split "train" of a store and write them to file, all or nothing.

    The same store, recipe and seed give the same file. Raises UsageError where the store has no clips for training, or
    too few for their modes; BitreelError where it is damaged.
    """
    if recipe.crop % 16 or min(recipe.crop, recipe.crops, recipe.per_plane, recipe.rounds) <= 0:
        raise UsageError("the crop must be a multiple of 16, and all numbers positive")
    loader = ClipLoader(store, split="train", clip_frames=1, crop=recipe.crop, batch_size=1, seed=recipe.seed)
    count = len(loader) * recipe.crops
    progress(f"{len(loader)} clips, {count} pictures of {recipe.crop}x{recipe.crop}")
    matrices = []
    for size in (8, 4):
        draw = np.random.default_rng([recipe.seed, size])
        blocks = collect_blocks(_pictures(loader, count), size, recipe.per_plane, draw)
        progress(f"modes {size}x{size}: {len(blocks.samples)} blocks")
        matrices.append(learn_modes(blocks, recipe.rounds, draw, progress))
    modes = matrices[0], matrices[1]
    save_start(file, modes, trained_mixer(_pictures(loader, count), count, modes, recipe.seed, progress))
    progress(f"wrote {file}")


def trained_mixer(pictures: Iterator[Planes], count: int, modes: Matrices, seed: int, progress: Progress) -> Mixer:
    """A mixer after all the pictures, each coded at a QP of its own."""
    draw, mixer = np.random.default_rng([seed, 1]), new_mixer()
    bits, samples = 0.0, 0
    for number, planes in enumerate(pictures):
        qp = int(draw.integers(_QPS[0], _QPS[1] + 1))
        out = (np.zeros_like(planes[0]), np.zeros_like(planes[1]), np.zeros_like(planes[2]))
        intervals = np.empty(64 * planes[0].size, np.uint32)
        given = (False, intervals, np.zeros(0, np.uint16), np.zeros(2, np.uint64))
        used = code_planes(planes, out, given, IntraSettings(qp, intra_steps()), mixer, modes)
        bits += float((16 - np.log2(intervals[:used] >> 16)).sum())
        samples += planes[0].size
        if number % 50 == 49 or number == count - 1:
            progress(f"mixer: picture {number + 1} of {count}, {bits / samples:.3f} bits a pixel")
            bits, samples = 0.0, 0
    return mixer


def _pictures(loader: ClipLoader, count: int) -> Iterator[Planes]:
    """Y, U, V of the loader's pictures, int32, the same ones each time."""
    for step in range(count):
        batch = loader.batch(step)
        chroma = batch.chroma[0, 0].numpy().astype(np.int32)
        yield batch.luma[0, 0, 0].numpy().astype(np.int32), chroma[0].copy(), chroma[1].copy()


def main() -> None:
    defaults = StartRecipe()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="clips, as `bitreel ingest` makes them")
    parser.add_argument("--out", type=Path, required=True, help="file to write; one that is there is replaced")
    parser.add_argument("--crop", type=int, default=defaults.crop, help="side of the pictures")
    parser.add_argument("--crops", type=int, default=defaults.crops, help="pictures of each clip")
    parser.add_argument("--per-plane", type=int, default=defaults.per_plane, help="blocks of each size of a picture")
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="of fitting the modes")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    given = parser.parse_args()
    recipe = StartRecipe(given.crop, given.crops, given.per_plane, given.rounds, given.seed)
    try:
        make_start(given.store, given.out, recipe, lambda line: print(line, flush=True))
    except BitreelError as error:
        print(f"intra_start: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
