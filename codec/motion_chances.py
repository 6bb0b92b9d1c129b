"""What the coder of motion has learned, and how it begins; `codec.motion_coding` says what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.bit_mixing import MOST_VOTES, Mixer, load_mixer
from codec.motion import NO_SECOND
from codec.motion_context_kernels import ADAPTIVE_CONTEXTS, CONTEXTS, SETS, VOTES
from codec.motion_kernels import code_motion

START = Path(__file__).with_name("motion_start.npz")  # part of the format; `trainers.motion_start` made it
_START_SEEN = 6
# How often each context's bit is a one in the vectors of real clips at fine to coarse quantization, in 256ths.
START_CHANCES = bytes.fromhex(
    "0f86cc0721325e859155526285767bd391803660809aa6b8869d96858f9d97a0ac5291aea7d5df86c7cf8dafcea2bbd95cbad7b7e2e78cd9"
    "e486cdd9a8b6e080808080808080808080808080808093779770706671777e6a6f64657e3c543b3d351e153a231e292c1e34401144252630"
    "1d133e201b29271e383410a15979a286709a0cb6482d4e544a4357d18e604f41586029e9debfad8e716c2d80544b8a61452b0f958a84af94"
    "78724180481e2e5d571680ab593a4d63421520807f503f3a0d341dc9a26d5b4d4c531b80cca093953a1727e9e5c3b7916b5e3562a9825405"
    "3fa856432f7b945d0852a25256626c758d03154e07549dff4b5d09fc5e391fa03b7570a7708c9a7e5e56088845577040201008c081a1a885"
    "694e08"
)


def new_mixer() -> Mixer:
    """A mixer that has seen nothing: it goes by the adaptive chance, above all."""
    weights = np.zeros((SETS, MOST_VOTES))
    weights[:, :VOTES] = 0.1
    weights[:, VOTES + 1] = 0.6
    return Mixer(CONTEXTS, weights, (0.01, 0.002))


def start_mixer() -> Mixer:
    """What coding starts from after an intra frame."""
    return load_mixer(START, new_mixer())


class MotionChances:
    """What the coder has learned since the last intra frame.

    chances: of the adaptive contexts, (ADAPTIVE_CONTEXTS,) int64 in 65536ths; seen: bits that each rests on. mixer: one
    to begin with, in the place of that of `START`. before: what the last inter frame had, see `Walk`; None where there
    was none.
    """

    def __init__(self, mixer: Mixer | None = None) -> None:
        self.chances = np.maximum(np.frombuffer(START_CHANCES, np.uint8).astype(np.int64) << 8, 256)
        self.seen = np.full(ADAPTIVE_CONTEXTS, _START_SEEN)
        self._mixer = mixer
        self.before: NDArray[np.int64] | None = None

    @property
    def mixer(self) -> Mixer:
        """Read from the file when it is asked for."""
        if self._mixer is None:
            self._mixer = start_mixer()
        return self._mixer

    def copy(self) -> MotionChances:
        """One to try something out on."""
        made = object.__new__(MotionChances)
        made.chances, made.seen = self.chances.copy(), self.seen.copy()
        made._mixer, made.before = self._mixer.copy() if self._mixer else None, self.before
        return made

    def prices(self) -> NDArray[np.float32]:
        """Bits of a zero and of a one in each adaptive context, (2, ADAPTIVE_CONTEXTS)."""
        one = self.chances / 65536
        return np.stack([-np.log2(1 - one), -np.log2(one)]).astype(np.float32)

    def walk(
        self, given: tuple[object, ...], blocks: NDArray[np.int64], split: NDArray[np.uint8],
        distances: NDArray[np.int64],
    ) -> int:  # fmt: skip
        """`code_motion` of a frame; all of this goes on, or stays as it was where that fails."""
        trial, before = self.copy(), self.before
        if before is None:
            before = np.zeros((5, *blocks.shape[1:]), np.int64)
            before[3] = NO_SECOND
        learned = trial.chances, trial.seen
        fresh = int(self.before is None)
        used = int(code_motion(given, trial.mixer.parts(), learned, blocks, split, distances, before, fresh))
        if used >= 0:
            self.chances, self.seen, self._mixer = trial.chances, trial.seen, trial.mixer
            self.before = _kept(blocks, split, distances)
        return used


def _kept(blocks: NDArray[np.int64], split: NDArray[np.uint8], distances: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the next frame knows of this one, see `Walk`."""
    of = distances[blocks[2]]
    vectors = (2 * blocks[:2] + of) // (2 * of)
    return np.concatenate([vectors, blocks[2:3], blocks[5:6], split.repeat(2, 0).repeat(2, 1)[None].astype(np.int64)])
