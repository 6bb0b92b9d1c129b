"""Frames without loss (QP 63): sample by sample beside the predictions, in the place of transform and network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.frames import Frame
from codec.innvc.coding_state import SIDE, CodingState
from codec.innvc.prediction import Planes, Prediction
from codec.motion_coding import decode_motion, encode_motion
from codec.motion_search import search_motion
from codec.sample_coding import Planes as SamplePlanes
from codec.sample_coding import decode_samples, encode_samples

_GUESSES = 3  # base, plain, memory: the smoothed one tells nothing new


def encode_lossless(
    state: CodingState, coder: SymbolEncoder, frame: Frame, intra: bool, before: Tensor | None, reach: int
) -> Tensor | None:
    """Code a frame and make it the next one's reference; gives its vectors (1, 2, h, w), None for an intra frame.

    before: the vectors of the frame before, as candidates. reach: luma samples of the coarse motion search.
    """
    state.begin_lossless(intra)
    prediction, vectors = state.flat_prediction(), None
    if not intra:
        assert state.reference is not None
        luma = state.padded(frame)[0]
        motion = search_motion(luma, state.reference.last[0], torch.ones(1, device=state.device), reach, before)
        encode_motion(coder, motion)
        vectors = motion.vectors
        prediction = state.moved(vectors)
    encode_samples(coder, (frame.y, frame.u, frame.v), _guesses(state, prediction), state.samples)
    state.finish_lossless(frame, prediction)
    return vectors


def decode_lossless(state: CodingState, coder: SymbolDecoder, intra: bool) -> Frame:
    """The frame that `encode_lossless` took."""
    state.begin_lossless(intra)
    prediction = state.flat_prediction()
    if not intra:
        vectors = decode_motion(coder, state.height // SIDE, state.width // SIDE).vectors.to(state.device)
        prediction = state.moved(vectors)
    width, height = state.format.chroma_size
    shapes = [(state.format.height, state.format.width), (height, width), (height, width)]
    frame = Frame(*decode_samples(coder, shapes, _guesses(state, prediction), state.samples))
    state.finish_lossless(frame, prediction)
    return frame


def _guesses(state: CodingState, prediction: Prediction) -> list[SamplePlanes]:
    """The predictions, without the padding; none for an intra frame."""
    if not prediction.guesses:
        return []
    width, height = state.format.chroma_size

    def cut(planes: Planes) -> SamplePlanes:
        luma = planes[0][0, : state.format.height, : state.format.width].to(torch.uint8).cpu().numpy()
        chroma = planes[1][0, :, :height, :width].to(torch.uint8).cpu().numpy()
        return np.ascontiguousarray(luma), np.ascontiguousarray(chroma[0]), np.ascontiguousarray(chroma[1])

    return [cut(planes) for planes in (prediction.base, *prediction.guesses)][:_GUESSES]
