"""Makes what the coding of motion starts from, `codec/motion_start.npz`, anew from a model and a store.

    python -m trainers.motion_start --model FOLDER --store STORE --out FILE

Clips are coded at QPs drawn at random, the chances begin anew with each clip, but the mixer is never reset: what it has
learned in the end is what coding starts from after each intra frame. The file is part of the format: streams made with
one don't decode with another.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from codec.atomic_files import write_atomically
from codec.bit_mixing import Mixer, mixer_arrays
from codec.frames import Frame
from codec.motion_chances import MotionChances, new_mixer
from codec.motion_context_kernels import KINDS
from codec.streams import EncodeOptions
from trainers.coded_clips import InterCodec, Progress, clips_of, load_inter_codec, run_tool

_FRAMES = 8  # of a clip: an intra frame, and seven to learn from
_QPS = 4, 56


def make_start(
    model: Path, store: Path, file: Path, clips: int = 100, crop: int = 224, seed: int = 0,
    progress: Progress = print,
) -> None:  # fmt: skip
    """Learn a mixer from `clips` clips of the split "train" and write it to file, all or nothing.

    Raises UsageError where the model's family is not known here or the store has no such clips; BitreelError where it
    is damaged.
    """
    codec, draw, mixer = load_inter_codec(model), np.random.default_rng(seed), new_mixer()
    for number, frames in enumerate(clips_of(store, _FRAMES, clips, crop, seed)):
        options = EncodeOptions(int(draw.integers(_QPS[0], _QPS[1] + 1)), field=False)
        mixer = _learned_from(codec, frames, options, crop, mixer)
        if number % 20 == 19 or number == clips - 1:
            progress(f"clip {number + 1} of {clips}: {int(mixer.steps[: 2 * KINDS].sum())} bits of motion")
    written = io.BytesIO()
    np.savez_compressed(written, **mixer_arrays(mixer))  # type: ignore[arg-type]
    write_atomically(file, written.getvalue())


def _learned_from(
    codec: InterCodec, frames: list[Frame], options: EncodeOptions, crop: int, mixer: Mixer
) -> Mixer:  # fmt: skip
    """The mixer after a clip."""
    state, learned = codec.state(crop), MotionChances(mixer)
    state.first_motion = lambda: learned
    for _ in codec.code(frames, options, state):
        pass
    return learned.mixer


if __name__ == "__main__":
    run_tool(make_start, "motion_start", __doc__, clips=100)
