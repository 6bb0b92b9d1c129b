"""What the tools that learn from coded clips share: a model, the clips of a store, a command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from codec.api import load_codec
from codec.errors import BitreelError, UsageError
from codec.frames import Frame
from codec.innvc.model import InnVC
from pipeline.loader import ClipLoader

Progress = Callable[[str], object]
# (model, store, file, clips, crop, seed, progress): writes the file
Tool = Callable[[Path, Path, Path, int, int, int, Progress], None]


def load_innvc(model: Path) -> InnVC:
    """Raises UsageError where the model is no InnVC."""
    codec = load_codec(model)
    if not isinstance(codec, InnVC):
        raise UsageError(f"'{model}' is no model of the family innvc")
    return codec


def clips_of(store: Path, frames: int, clips: int, crop: int, seed: int) -> Iterator[list[Frame]]:
    """`clips` clips of so many frames, crop x crop, of the store's split "train".

    Raises UsageError where the store has none; BitreelError where it is damaged.
    """
    loader = ClipLoader(store, split="train", clip_frames=frames, crop=crop, batch_size=1, seed=seed)
    for number in range(clips):
        batch = loader.batch(number)
        planes = batch.luma[0, :, 0].numpy(), batch.chroma[0].numpy()
        yield [Frame(y.copy(), uv[0].copy(), uv[1].copy()) for y, uv in zip(*planes, strict=True)]


def run_tool(make: Tool, name: str, description: str | None, clips: int) -> None:
    """A tool's command line; clips: how many it codes unless told otherwise."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--store", type=Path, required=True, help="clips, as `bitreel ingest` makes them")
    parser.add_argument("--out", type=Path, required=True, help="file to write; one that is there is replaced")
    parser.add_argument("--clips", type=int, default=clips, help="how many clips to code")
    parser.add_argument("--crop", type=int, default=224, help="side of the pictures, a multiple of 16")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        make(
            given.model, given.store, given.out, given.clips, given.crop, given.seed,
            lambda line: print(line, flush=True),
        )  # fmt: skip
    except BitreelError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
