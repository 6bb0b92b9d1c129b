"""Frames without loss (QP 63): sample by sample beside the predictions, in the place of transform and network."""

from __future__ import annotations

import numpy as np
import torch

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.frames import Frame
from codec.innvc.coding_state import CodingState
from codec.inter.frame_motion import FrameSearch, receive_motion, send_motion
from codec.inter.prediction import Planes, Prediction
from codec.sample_coding import Planes as SamplePlanes
from codec.sample_coding import decode_samples, encode_samples

_GUESSES = 3  # base, plain, memory: the smoothed one tells nothing new


def encode_lossless(state: CodingState, coder: SymbolEncoder, frame: Frame, intra: bool, search: FrameSearch) -> None:
    """Code a frame and make it the next one's reference."""
    state.begin_lossless(intra)
    prediction = state.flat_prediction()
    if not intra:
        motion = search.run(state, state.padded(frame)[0], torch.ones(1, device=state.device))
        send_motion(state, coder, motion)
        prediction = state.moved(motion)
    encode_samples(coder, (frame.y, frame.u, frame.v), _guesses(state, prediction), state.samples)
    state.finish_lossless(frame, prediction)


def decode_lossless(state: CodingState, coder: SymbolDecoder, intra: bool) -> Frame:
    """The frame that `encode_lossless` took."""
    state.begin_lossless(intra)
    prediction = state.flat_prediction()
    if not intra:
        prediction = state.moved(receive_motion(state, coder))
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
