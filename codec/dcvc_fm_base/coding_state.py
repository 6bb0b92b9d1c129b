"""What encoder and decoder both carry from frame to frame, and the step that both take with a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.dcvc_fm_base.config import LATENT_CELL
from codec.dcvc_fm_base.latent_coding import SymbolSource, Wanted, code_hyper, code_latent
from codec.dcvc_fm_base.latent_prior import Expected, LatentPrior
from codec.dcvc_fm_base.pictures import coded_side, to_frame
from codec.exact.operations import full_precision
from codec.frames import Frame, VideoFormat
from codec.inter.context import STEP_UNITS

if TYPE_CHECKING:
    from codec.dcvc_fm_base.model import DCVCFMBase

_HYPER_CELLS = 4  # latent places a hyper-latent's side


@dataclass(frozen=True)
class FrameQuality:
    """What a packet says of an inter frame: its QP, its place in the hierarchy, whether the feature is made anew."""

    qp: int
    place: int
    refreshes: bool


@dataclass
class Memory:
    """After a frame. frame: (B, 3, H, W) in [0, 1]; feature: (B, F, H, W), None after an intra frame; motion_feature:
    (B, M, H/4, W/4). These are floats. The rest is whole, and all that priors see: latent and motion, decoded, in
    sixteenths, (B, C, H/16, W/16), zero after an intra frame; state: the temporal prior's."""

    frame: Tensor
    feature: Tensor | None
    motion_feature: Tensor
    latent: Tensor
    motion: Tensor
    state: Tensor

    def detached(self) -> Memory:
        """The same without gradients to the frames before."""
        kept = (self.motion_feature, self.latent, self.motion, self.state)
        feature = None if self.feature is None else self.feature.detach()
        return Memory(self.frame.detach(), feature, *(each.detach() for each in kept))


class CodingState:
    """memory: None before the first frame."""

    def __init__(self, codec: DCVCFMBase, fmt: VideoFormat) -> None:
        self.codec, self.format = codec, fmt
        self.device = next(codec.parameters()).device
        self.height, self.width = coded_side(fmt.height), coded_side(fmt.width)
        self.h, self.w = self.height // LATENT_CELL, self.width // LATENT_CELL
        self.memory: Memory | None = None

    @full_precision()
    def code_intra(self, source: SymbolSource, qp: int, wanted: Wanted | None) -> Frame:
        """Code an intra frame's symbols and rebuild it. wanted: what an encoder would like."""
        intra, device = self.codec.intra, self.device
        hyper = code_hyper(source, intra.hyper_tables, qp, self._hyper_size, wanted, device)
        expected = intra.expect(hyper)
        latent = self._code_scaled(source, expected, wanted)
        frame = held(intra.synthesise(latent, torch.tensor([qp], device=device)))
        self.memory = after_intra(self.codec, frame, latent)
        return to_frame(frame, self.format)

    def contexts_feature(self, quality: FrameQuality) -> Tensor:
        """The temporal feature for a frame, adapted or made anew."""
        assert self.memory is not None
        return temporal_feature(self.codec, self.memory, quality.place, quality.refreshes)

    @full_precision()
    def code_motion(self, source: SymbolSource, quality: FrameQuality, wanted: Wanted | None) -> tuple[Tensor, Tensor]:
        """Code a frame's motion: its latent in sixteenths, and the flow (1, 2, H, W)."""
        motion, memory = self.codec.inter.motion, self.memory
        assert memory is not None
        hyper = code_hyper(source, motion.hyper_tables, quality.qp, self._hyper_size, wanted, self.device)
        expected = motion.expect(hyper, memory.motion)
        latent = self._code_stepped(source, self.codec.inter.motion.prior, expected, wanted)
        qp = torch.tensor([quality.qp], device=self.device)
        flow, memory.motion_feature = motion.synthesise(latent, memory.motion_feature, qp)
        return latent, flow

    @full_precision()
    def code_inter(
        self, source: SymbolSource, quality: FrameQuality, motion: Tensor, contexts: tuple[Tensor, Tensor, Tensor],
        wanted: Wanted | None,
    ) -> Frame:  # fmt: skip
        """Code what is left of a frame after its motion, rebuild it and make it the next one's past."""
        inter, memory = self.codec.inter, self.memory
        assert memory is not None
        temporal, state = inter.temporal_prior(memory.state, memory.latent, motion)
        hyper = code_hyper(source, inter.hyper_tables, quality.qp, self._hyper_size, wanted, self.device)
        expected = inter.expect(hyper, temporal, memory.latent)
        latent = self._code_stepped(source, inter.prior, expected, wanted)
        qp = torch.tensor([quality.qp], device=self.device)
        made, feature = inter.reconstruction(inter.decoder(latent, contexts, qp), contexts)
        frame = held(made)
        self.memory = Memory(frame, feature, memory.motion_feature, latent, motion, state)
        return to_frame(frame, self.format)

    @property
    def _hyper_size(self) -> tuple[int, int]:
        return self.h // _HYPER_CELLS, self.w // _HYPER_CELLS

    def _code_scaled(self, source: SymbolSource, expected: Expected, wanted: Wanted | None) -> Tensor:
        tables = self.codec.intra_scales
        before, after = expected.maps.split(1, dim=1)
        return code_latent(
            source, self.codec.intra.prior, tables, expected, wanted, lambda latent: latent * before / STEP_UNITS, after
        )

    def _code_stepped(
        self, source: SymbolSource, prior: LatentPrior, expected: Expected, wanted: Wanted | None
    ) -> Tensor:
        steps = expected.maps
        return code_latent(
            source, prior, self.codec.inter_scales, expected, wanted, lambda latent: latent * STEP_UNITS / steps, steps
        )


def held(frame: Tensor) -> Tensor:
    """A frame within [0, 1], whatever the symbols were."""
    return torch.nan_to_num(frame).clamp(0, 1)


def after_intra(codec: DCVCFMBase, frame: Tensor, latent: Tensor) -> Memory:
    """What an intra frame leaves to the first inter frame."""
    batch, _, h, w = latent.shape
    config = codec.config
    none = latent.new_zeros(batch, config.latent, h, w)
    motion = latent.new_zeros(batch, config.motion, h, w)
    motion_feature = latent.new_zeros(batch, config.motion, 4 * h, 4 * w)
    return Memory(frame, None, motion_feature, none, motion, codec.inter.temporal_prior.begin(latent))


def temporal_feature(codec: DCVCFMBase, memory: Memory, place: int, refreshes: bool) -> Tensor:
    """(B, F, H, W): adapted to the frame's place; at a refresh, or without one, made anew from the decoded frame."""
    contexts = codec.inter.contexts
    if refreshes or memory.feature is None:
        return contexts.renewed(memory.frame)
    return contexts.adapted(memory.feature, place)
