"""DCVC-FM at the paper's size: the codec's face. Training is in `training_pass`, a drawing in `inter_model`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from torch import Tensor

from codec.api import Codec, TrainingConditions, TrainingOutput
from codec.container import Packet, StreamHeader
from codec.dcvc_fm_base.complexity import measured_parts
from codec.dcvc_fm_base.config import DCVCFMBaseConfig
from codec.dcvc_fm_base.decoder import decode_frames
from codec.dcvc_fm_base.encoder import encode_frames
from codec.dcvc_fm_base.inter_model import InterModel
from codec.dcvc_fm_base.intra_model import IntraModel
from codec.dcvc_fm_base.motion_pass import motion_pass
from codec.dcvc_fm_base.training_pass import training_pass
from codec.distributions import ScaleTables
from codec.frames import Frame, VideoFormat
from codec.streams import CodedFrame, EncodeOptions


class DCVCFMBase(Codec):
    """DCVC-FM (CVPR 2024, arXiv 2402.17414) as it is described, but for its temporal prior, which is exact.

    Its transforms are floats: on another device than the encoder's the symbols of a stream are the same, its pictures
    only nearly so.
    """

    family: ClassVar[str] = "dcvc-fm-base"
    config_class: ClassVar[type] = DCVCFMBaseConfig
    free_modules = (
        "intra.encoder_first", "intra.encoder_rest", "intra.decoder_first", "intra.decoder_rest", "intra.refine",
        "inter.encoder", "inter.decoder", "inter.reconstruction",
    )  # fmt: skip
    config: DCVCFMBaseConfig
    exact_frames: ClassVar[bool] = False
    training_conditions = frozenset(("motion_only",))
    motion_network: ClassVar[str] = "inter.estimation."

    def __init__(self, config: DCVCFMBaseConfig) -> None:
        config.check()
        super().__init__(config)
        self.intra = IntraModel(config)
        self.inter = InterModel(config)
        self.intra_scales = ScaleTables("gaussian")
        self.inter_scales = ScaleTables("laplace")

    @property
    def segment_frames(self) -> int:
        return 1

    def forward(self, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions) -> TrainingOutput:
        if conditions.motion_only:
            return motion_pass(self, luma, chroma)
        return training_pass(self, luma, chroma, qp, conditions)

    def encode_frames(self, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions) -> Iterator[CodedFrame]:
        return encode_frames(self, frames, fmt, options)

    def decode_frames(self, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
        return decode_frames(self, packets, header)

    def complexity(self) -> dict[str, float]:
        parts = measured_parts(self)
        return {
            "parameters": float(sum(p.numel() for p in self.parameters())),
            "decoder_kmac_per_pixel_intra": sum(p.kmac for p in parts if p.decodes and p.model == "intra"),
            "decoder_kmac_per_pixel_inter": sum(p.kmac for p in parts if p.decodes and p.model == "inter"),
        }
