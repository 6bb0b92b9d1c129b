"""The part of an inter frame's packet that says what it is predicted from: which frames stay, and the motion."""

from __future__ import annotations

from torch import Tensor

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.innvc.coding_state import SIDE, CodingState
from codec.motion import Motion
from codec.motion_coding import decode_motion, encode_motion
from codec.motion_search import QuarterPlanes, search_motion

REACH = 32  # luma samples of the coarse motion search


class FrameSearch:
    """The encoder's motion search from frame to frame."""

    def __init__(self) -> None:
        self._kept = QuarterPlanes()
        self._before: Tensor | None = None

    def run(self, state: CodingState, luma: Tensor, step: Tensor) -> Motion:
        """Motion of the coming frame (1, H, W); step: (1,) the residual's, in sample units."""
        assert state.reference is not None
        references = [planes[0] for planes in state.reference.frames]
        before = None if state.after_intra else self._before
        motion = search_motion(luma, references, state.distances, step, REACH, before, state.motion, self._kept)
        self._before = motion.vectors(state.distances)
        return motion


def send_motion(state: CodingState, coder: SymbolEncoder, motion: Motion, keep: bool) -> None:
    """keep: the last frame stays a reference when this one follows it."""
    state.keep_last = keep
    coder.encode_uniform(int(keep), 2)
    encode_motion(coder, motion, state.distances, state.motion)


def receive_motion(state: CodingState, coder: SymbolDecoder) -> Motion:
    """Raises StreamError on impossible values."""
    state.keep_last = bool(coder.decode_uniform(2))
    rows, columns = state.height // SIDE, state.width // SIDE
    return decode_motion(coder, rows, columns, state.distances, state.motion).to(state.device)
