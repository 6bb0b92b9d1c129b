"""DCVC-FM: the codec's face. Training is in `training_pass`, streams in `coding`, a drawing in `network`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from torch import Tensor

from codec.api import Codec, TrainingConditions, TrainingOutput
from codec.container import Packet, StreamHeader
from codec.dcvc_fm.config import DCVCFMConfig
from codec.dcvc_fm.decoder import decode_frames
from codec.dcvc_fm.encoder import encode_frames
from codec.dcvc_fm.encoder_network import ContextualEncoder
from codec.dcvc_fm.network import FrameNetwork
from codec.dcvc_fm.training_pass import training_pass
from codec.distributions import ScaleTables
from codec.frames import Frame, VideoFormat
from codec.inter.complexity import INTER_MAC, INTRA_MAC, macs_per_pixel
from codec.streams import CodedFrame, EncodeOptions


class DCVCFM(Codec):
    """Conditional coding with learned quantization scalers, a hierarchy and a refreshed temporal feature (CVPR 2024,
    arXiv 2402.17414), small enough for CPUs."""

    family: ClassVar[str] = "dcvc-fm"
    config_class: ClassVar[type] = DCVCFMConfig
    free_modules = ("encoder",)
    training_conditions = frozenset(("picture_gradients",))
    least_clip_frames = 2  # intra frames come from the intra coder
    config: DCVCFMConfig
    steers_quality: ClassVar[bool] = True
    # Frames from one that stays a reference to the next, and the first: the finer ones of the hierarchy stay.
    STAYING: ClassVar[tuple[int, int]] = (2, 1)

    def __init__(self, config: DCVCFMConfig) -> None:
        super().__init__(config)
        config.check()
        self.network = FrameNetwork(config)
        self.encoder = ContextualEncoder(config) if config.encoder_blocks else None
        self.tables = ScaleTables(config.distribution, config.decision_price)

    @property
    def segment_frames(self) -> int:
        return 1

    def forward(self, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions) -> TrainingOutput:
        return training_pass(self, luma, chroma, qp, conditions)

    def encode_frames(self, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions) -> Iterator[CodedFrame]:
        return encode_frames(self, frames, fmt, options)

    def decode_frames(self, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
        return decode_frames(self, packets, header)

    def complexity(self) -> dict[str, float]:
        network = macs_per_pixel(self.network) + INTER_MAC
        return {
            "parameters": float(sum(p.numel() for p in self.parameters())),
            "decoder_kmac_per_pixel_intra": INTRA_MAC / 1000,
            "decoder_kmac_per_pixel_inter": network / 1000,
        }
