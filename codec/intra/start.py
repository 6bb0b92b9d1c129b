"""What intra coding starts from, learned from footage: the modes' matrices, and the mixer as training left it.

`start.npz` is part of the format, as the tables of other codecs are; `trainers.intra_start` made it. Its arrays: wide
(32, 64, 46) and small (32, 16, 21) int16, in 1024ths; chances (CONTEXTS,) uint16; seen (CONTEXTS,) uint8; weights
(SETS, votes) int32; steps (SETS,) int32.
"""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.atomic_files import write_atomically
from codec.bit_mixing import MOST_VOTES, Mixer
from codec.errors import BitreelError
from codec.intra.coefficient_kernels import CONTEXTS, SETS

CONTEXT_SIZES = {8: 46, 4: 21}  # values of a context, by the side of its block
_FILE = Path(__file__).with_name("start.npz")
_SHAPES = {
    "wide": (32, 64, CONTEXT_SIZES[8]),
    "small": (32, 16, CONTEXT_SIZES[4]),
    "chances": (CONTEXTS,),
    "seen": (CONTEXTS,),
    "weights": (SETS, MOST_VOTES),
    "steps": (SETS,),
}
_FIRST_WEIGHT = 0.18  # of each vote, before training


Matrices = tuple[NDArray[np.int16], NDArray[np.int16]]


def load_start(file: Path) -> tuple[Matrices, Mixer]:
    """What `save_start` wrote. Raises BitreelError where it is something else."""
    try:
        with np.load(file, allow_pickle=False) as read:
            found = {name: read[name] for name in read.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BitreelError(f"'{file}' can't be read; install bitreel anew") from error
    if {name: array.shape for name, array in found.items()} != _SHAPES:
        raise BitreelError(f"'{file}' is damaged or of another version; install bitreel anew")
    mixer = new_mixer()
    mixer.chances[:], mixer.seen[:] = found["chances"], found["seen"]
    mixer.weights[:], mixer.steps[:] = found["weights"], found["steps"]
    return (found["wide"].astype(np.int16), found["small"].astype(np.int16)), mixer


@lru_cache
def _learned() -> tuple[Matrices, Mixer]:
    return load_start(_FILE)


def mode_matrices() -> Matrices:
    """Of 8x8 and of 4x4 blocks: a mode's weights, in 1024ths, for each sample and each value of the context."""
    return _learned()[0]


def learned_mixer() -> Mixer:
    """The mixer that an intra frame starts from."""
    return _learned()[1].copy()


def new_mixer() -> Mixer:
    """A mixer that has seen nothing."""
    weights = np.zeros((SETS, MOST_VOTES))
    weights[:, :9] = _FIRST_WEIGHT
    return Mixer(CONTEXTS, weights)


def save_start(file: Path, matrices: Matrices, mixer: Mixer) -> None:
    """Write what `start.npz` holds. A chance rests on 40 bits at most and the weights keep learning, so that both still
    follow the picture."""
    arrays = {
        "wide": matrices[0], "small": matrices[1], "chances": mixer.chances.astype(np.uint16),
        "seen": np.minimum(mixer.seen, 40), "weights": mixer.weights, "steps": np.minimum(mixer.steps, 200),
    }  # fmt: skip
    written = io.BytesIO()
    np.savez_compressed(written, **arrays)  # type: ignore[arg-type]
    write_atomically(file, written.getvalue())
