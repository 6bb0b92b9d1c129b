"""What intra coding starts from, learned from footage: the modes' matrices, and the mixer as training left it.

`start.npz` is part of the format, as the tables of other codecs are. An earlier form of `trainers.intra_start` made it:
made anew, it differs, and streams with it. Its arrays: wide
(32, 64, 46) and small (32, 16, 21) int16, in 1024ths; chances (CONTEXTS,) uint16; seen (CONTEXTS,) uint8; weights
(SETS, votes) int32; steps (SETS,) int32.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.atomic_files import write_atomically
from codec.bit_mixing import MOST_VOTES, Mixer, load_mixer, mixer_arrays, stored_arrays
from codec.errors import BitreelError
from codec.intra.coefficient_kernels import CONTEXTS, SETS

CONTEXT_SIZES = {8: 46, 4: 21}  # values of a context, by the side of its block
START = Path(__file__).with_name("start.npz")
_FIRST_WEIGHT = 0.18  # of each vote, before training

Matrices = tuple[NDArray[np.int16], NDArray[np.int16]]


@lru_cache
def mode_matrices(file: Path = START) -> Matrices:
    """Of 8x8 and of 4x4 blocks: a mode's weights, in 1024ths, for each sample and each value of the context.

    Raises BitreelError where the file is something else.
    """
    found = stored_arrays(file)
    shapes = {"wide": (32, 64, CONTEXT_SIZES[8]), "small": (32, 16, CONTEXT_SIZES[4])}
    for name, shape in shapes.items():
        if name not in found or found[name].shape != shape:
            raise BitreelError(f"'{file}' is damaged or of another version; install bitreel anew")
    return found["wide"].astype(np.int16), found["small"].astype(np.int16)


def learned_mixer(file: Path = START) -> Mixer:
    """The mixer that an intra frame starts from. Raises as `mode_matrices`."""
    return load_mixer(file, new_mixer())


def new_mixer() -> Mixer:
    """A mixer that has seen nothing."""
    weights = np.zeros((SETS, MOST_VOTES))
    weights[:, :9] = _FIRST_WEIGHT
    return Mixer(CONTEXTS, weights, (0.03, 0.006))


def save_start(file: Path, matrices: Matrices, mixer: Mixer) -> None:
    """Write what `start.npz` holds."""
    written = io.BytesIO()
    arrays: dict[str, Any] = {"wide": matrices[0], "small": matrices[1], **mixer_arrays(mixer)}
    np.savez_compressed(written, **arrays)
    write_atomically(file, written.getvalue())
