"""DCVC-FM base's encoder: frames into coded frames, each as soon as it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from codec.container import INTER, INTRA
from codec.dcvc_fm.config import place_in_hierarchy, refreshes
from codec.dcvc_fm_base.coding_state import CodingState, FrameQuality
from codec.dcvc_fm_base.latent_coding import Encoding, Wanted
from codec.dcvc_fm_base.pictures import to_network
from codec.entropy_coding import SymbolEncoder
from codec.exact.operations import full_precision
from codec.frames import Frame, VideoFormat
from codec.streams import CodedFrame, EncodeOptions

if TYPE_CHECKING:
    from codec.dcvc_fm_base.model import DCVCFMBase

PLACES = 3


@torch.no_grad()
def encode_frames(
    codec: DCVCFMBase, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions
) -> Iterator[CodedFrame]:
    """See `Codec.encode_frames`."""
    state, number = CodingState(codec, fmt), 0
    for frame in frames:
        if number == 0 or (options.intra_period > 0 and number == options.intra_period):
            number = 0
            coded = code_intra(state, frame, int(options.qp))
        else:
            refresh = refreshes(number, codec.config.refresh_period)
            coded = code_inter(state, frame, FrameQuality(int(options.qp), place_in_hierarchy(number), refresh))
        number += 1
        yield coded


@full_precision()
def code_intra(state: CodingState, frame: Frame, qp: int) -> CodedFrame:
    """One frame by itself."""
    intra, coder = state.codec.intra, SymbolEncoder()
    latent = intra.analyse(to_network(frame, state.device), torch.tensor([qp], device=state.device))
    rebuilt = state.code_intra(Encoding(coder), qp, Wanted(intra.hyper_encoder(latent), latent))
    return CodedFrame(INTRA, qp, coder.finish(), coder.estimated_bits, rebuilt)


@full_precision()
def code_inter(state: CodingState, frame: Frame, quality: FrameQuality) -> CodedFrame:
    """One frame after another."""
    inter, memory, coder = state.codec.inter, state.memory, SymbolEncoder()
    assert memory is not None
    source, target = Encoding(coder), to_network(frame, state.device)
    qp = torch.tensor([quality.qp], device=state.device)
    send_quality(coder, quality)
    latent = inter.motion.analyse(inter.estimation(target, memory.frame), memory.motion_feature, qp)
    wanted = Wanted(inter.motion.hyper_encoder(latent), latent)
    motion, flow = state.code_motion(source, quality, wanted)
    contexts = inter.contexts(state.contexts_feature(quality), memory.frame, flow)
    latent = inter.encoder(target, contexts, qp)
    rebuilt = state.code_inter(source, quality, motion, contexts, Wanted(inter.hyper_encoder(latent), latent))
    return CodedFrame(INTER, quality.qp, coder.finish(), coder.estimated_bits, rebuilt)


def send_quality(coder: SymbolEncoder, quality: FrameQuality) -> None:
    """What the packet's head does not say: place in the hierarchy, and whether the temporal feature is made anew."""
    coder.encode_uniform(quality.place, PLACES)
    coder.encode_uniform(int(quality.refreshes), 2)
