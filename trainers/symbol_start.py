"""Makes what the coding of inter symbols starts from, `codec/innvc/symbol_start.npz`, anew from a model and a store.

    python -m trainers.symbol_start --model FOLDER --store STORE --out FILE

Clips are coded at QPs drawn at random, and the mixer is never reset: what it has learned in the end is what coding
starts from after each intra frame. The file is part of the format: streams made with one don't decode with another.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from codec.api import load_codec
from codec.atomic_files import write_atomically
from codec.bit_mixing import mixer_arrays
from codec.errors import BitreelError, UsageError
from codec.frames import Frame, VideoFormat
from codec.innvc.coding_state import CodingState
from codec.innvc.encoder import encode_frames
from codec.innvc.model import InnVC
from codec.innvc.symbol_mixing import new_mixer
from codec.streams import EncodeOptions
from pipeline.loader import ClipLoader

_FRAMES = 5  # of a clip: an intra frame, and four to learn from
_QPS = 2, 60


def make_start(
    model: Path, store: Path, file: Path, clips: int = 100, crop: int = 224, seed: int = 0,
    progress: Callable[[str], object] = print,
) -> None:  # fmt: skip
    """Learn a mixer from `clips` clips of the split "train" and write it to file, all or nothing.

    Raises UsageError where the model is no InnVC or the store has no such clips; BitreelError where it is damaged.
    """
    codec = load_codec(model)
    if not isinstance(codec, InnVC):
        raise UsageError(f"'{model}' is no model of the family innvc")
    loader = ClipLoader(store, split="train", clip_frames=_FRAMES, crop=crop, batch_size=1, seed=seed)
    draw, mixer, size = np.random.default_rng(seed), new_mixer(), 0
    for number in range(clips):
        batch = loader.batch(number)
        planes = batch.luma[0, :, 0].numpy(), batch.chroma[0].numpy()
        frames = [Frame(y.copy(), uv[0].copy(), uv[1].copy()) for y, uv in zip(*planes, strict=True)]
        state = CodingState(codec, VideoFormat(crop, crop))
        state.first_mixer = lambda: mixer
        options = EncodeOptions(int(draw.integers(_QPS[0], _QPS[1] + 1)), field=False)
        coded = list(encode_frames(codec, frames, state.format, options, state))
        size += sum(len(frame.payload) for frame in coded[1:])
        if number % 20 == 19 or number == clips - 1:
            progress(f"clip {number + 1} of {clips}: {size} bytes of inter frames")
    written = io.BytesIO()
    np.savez_compressed(written, **mixer_arrays(mixer))  # type: ignore[arg-type]
    write_atomically(file, written.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--store", type=Path, required=True, help="clips, as `bitreel ingest` makes them")
    parser.add_argument("--out", type=Path, required=True, help="file to write; one that is there is replaced")
    parser.add_argument("--clips", type=int, default=100, help="how many clips to code")
    parser.add_argument("--crop", type=int, default=224, help="side of the pictures, a multiple of 16")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        make_start(
            given.model, given.store, given.out, given.clips, given.crop, given.seed,
            lambda line: print(line, flush=True),
        )  # fmt: skip
    except BitreelError as error:
        print(f"symbol_start: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
