"""Makes what the coding of inter symbols starts from, a codec's `symbol_start.npz`, anew from a model and a store.

    python -m trainers.symbol_start --model FOLDER --store STORE --out FILE

Clips are coded at QPs drawn at random, and the mixer is never reset: what it has learned in the end is what coding
starts from after each intra frame. The file is part of the format: streams made with one don't decode with another.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from codec.atomic_files import write_atomically
from codec.bit_mixing import mixer_arrays
from codec.inter.symbol_mixing import new_mixer
from codec.streams import EncodeOptions
from trainers.coded_clips import Progress, clips_of, load_inter_codec, run_tool

_FRAMES = 5  # of a clip: an intra frame, and four to learn from
_QPS = 2, 60


def make_start(
    model: Path, store: Path, file: Path, clips: int = 100, crop: int = 224, seed: int = 0,
    progress: Progress = print,
) -> None:  # fmt: skip
    """Learn a mixer from `clips` clips of the split "train" and write it to file, all or nothing.

    Raises UsageError where the model's family is not known here or the store has no such clips; BitreelError where it
    is damaged.
    """
    codec = load_inter_codec(model)
    draw, mixer, size = np.random.default_rng(seed), new_mixer(), 0
    for number, frames in enumerate(clips_of(store, _FRAMES, clips, crop, seed)):
        state = codec.state(crop)
        state.first_mixer = lambda: mixer
        options = EncodeOptions(int(draw.integers(_QPS[0], _QPS[1] + 1)), field=False)
        coded = list(codec.code(frames, options, state))
        size += sum(len(frame.payload) for frame in coded[1:])
        if number % 20 == 19 or number == clips - 1:
            progress(f"clip {number + 1} of {clips}: {size} bytes of inter frames")
    written = io.BytesIO()
    np.savez_compressed(written, **mixer_arrays(mixer))  # type: ignore[arg-type]
    write_atomically(file, written.getvalue())


if __name__ == "__main__":
    run_tool(make_start, "symbol_start", __doc__, clips=100)
