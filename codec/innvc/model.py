"""InnVC: the codec's face. Training is in `training_pass`, streams in `encoder` and `decoder`, a drawing in `prior`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from torch import Tensor

from codec.api import Codec, FitSettings, TrainingConditions, TrainingOutput
from codec.container import Packet, StreamHeader
from codec.distributions import ScaleTables
from codec.frames import Frame, VideoFormat
from codec.innvc.config import InnVCConfig
from codec.innvc.decoder import decode_frames
from codec.innvc.encoder import encode_frames
from codec.innvc.field import FieldDecoder, FieldEncoder
from codec.innvc.fit import fit
from codec.innvc.prior import PriorNetwork
from codec.innvc.training_pass import training_pass
from codec.innvc.tuning import ONE_PASS
from codec.inter.complexity import INTER_MAC, TRANSFORM_MAC, macs_per_pixel
from codec.inter.layout import GROUP_SIZES
from codec.streams import CodedFrame, EncodeOptions


class InnVC(Codec):
    """Invertible transform, prior network and conditioning field (arXiv 2606.13957, in our reading)."""

    family: ClassVar[str] = "innvc"
    config_class: ClassVar[type] = InnVCConfig
    free_modules = ("field_encoder",)
    training_conditions = frozenset(("mask_fraction", "field_dropout"))
    config: InnVCConfig

    def __init__(self, config: InnVCConfig) -> None:
        super().__init__(config)
        config.check()
        self.prior = PriorNetwork(config)
        self.field_decoder = FieldDecoder(config)
        self.field_encoder = FieldEncoder(config, sum(GROUP_SIZES))
        self.tables = ScaleTables(config.distribution, config.decision_price)
        self.tuning = ONE_PASS  # what the encoder does for one video

    def forward(self, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions) -> TrainingOutput:
        return training_pass(self, luma, chroma, qp, conditions)

    def encode_frames(self, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions) -> Iterator[CodedFrame]:
        return encode_frames(self, frames, fmt, options, tuning=self.tuning)

    def decode_frames(self, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
        return decode_frames(self, packets, header)

    def fit(
        self,
        frames: Sequence[Frame],
        fmt: VideoFormat,
        options: EncodeOptions,
        settings: FitSettings,
        on_step: Callable[[int, float], None] | None = None,
    ) -> InnVC:
        return fit(self, frames, fmt, options, settings, on_step)

    def complexity(self) -> dict[str, float]:
        network = macs_per_pixel(self.prior) + macs_per_pixel(self.field_decoder) + TRANSFORM_MAC
        return {
            "parameters": float(sum(p.numel() for p in self.parameters())),
            "decoder_kmac_per_pixel_intra": network / 1000,
            "decoder_kmac_per_pixel_inter": (network + INTER_MAC) / 1000,
        }
