"""The part of an inter frame's packet that says what it is predicted from: which frames stay, and the motion."""

from __future__ import annotations

from torch import Tensor

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.inter.state import SIDE, InterState
from codec.motion import MOST_REFERENCES, Motion
from codec.motion_coding import decode_motion, encode_motion
from codec.motion_search import QuarterPlanes, search_motion

PERIOD = 4  # frames from one that stays a reference to the next, unless an encoder is told otherwise
REACH = 32  # luma samples of the coarse motion search


class FrameSearch:
    """The encoder's motion search from frame to frame."""

    def __init__(self) -> None:
        self._kept = QuarterPlanes()
        self._before: Tensor | None = None

    def run(self, state: InterState, luma: Tensor, step: Tensor) -> Motion:
        """Motion of the coming frame (1, H, W); step: (1,) the residual's, in sample units."""
        assert state.reference is not None
        references = [planes[0] for planes in state.reference.frames]
        before = None if state.after_intra else self._before
        motion = search_motion(luma, references, state.distances, step, REACH, before, state.motion, self._kept)
        self._before = motion.vectors(state.distances)
        return motion


def send_motion(state: InterState, coder: SymbolEncoder, motion: Motion, period: int = PERIOD, first: int = 0) -> None:
    """period, first: see `goes`."""
    state.gone = goes(state.distances, period, first)
    coder.encode_uniform(state.gone, _choices(state))
    encode_motion(coder, motion, state.distances, state.motion)


def receive_motion(state: InterState, coder: SymbolDecoder) -> Motion:
    """Raises StreamError on impossible values."""
    state.gone = coder.decode_uniform(_choices(state))
    rows, columns = state.height // SIDE, state.width // SIDE
    return decode_motion(coder, rows, columns, state.distances, state.motion).to(state.device)


def _choices(state: InterState) -> int:
    """Any of the references may make room for the coming frame; none has to while there are few."""
    count = len(state.distances)
    return count + 1 if count < MOST_REFERENCES else count


def goes(distances: tuple[int, ...], period: int = PERIOD, first: int = 0) -> int:
    """The number of the reference that makes room, or one too large for none. The encoder's choice.

    The intra frame, which is finer than all others, stays; so does the last frame, and every `period`-th after the
    intra frame while there is room, beginning with its `first`-th.
    """
    intra = distances[-1]
    passing = [n for n, distance in enumerate(distances[:-1]) if n and (intra - distance - first) % period]
    if passing:
        return passing[-1]
    return len(distances) if len(distances) < MOST_REFERENCES else len(distances) - 2
