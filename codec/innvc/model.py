"""InnVC: the codec's face. Training is in `training_pass`, streams in `encoder` and `decoder`, a drawing in `prior`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, ClassVar

from torch import Tensor, nn

from codec.api import Codec, EncodeOptions, FrameReport, StreamReport, TrainingConditions, TrainingOutput
from codec.frames import Frame, VideoFormat
from codec.innvc.config import InnVCConfig
from codec.innvc.decoder import decode_stream
from codec.innvc.encoder import encode_stream
from codec.innvc.field import FieldDecoder, FieldEncoder
from codec.innvc.layout import GROUP_SIZES
from codec.innvc.prior import PriorNetwork
from codec.innvc.training_pass import training_pass

# Multiply-accumulates a luma pixel outside the networks: lifting (54 shears a line of 8, two ways, with chroma) and
# the interpolation of a moved 8x8 block (8 taps luma, 4 taps chroma).
_TRANSFORM_MAC = 2 * 54 / 8 + 2 * 15 / 4 / 2
_INTERPOLATION_MAC = (15 * 8 * 8 + 8 * 8 * 8 + 2 * (7 * 4 * 4 + 4 * 4 * 4)) / 64


class InnVC(Codec):
    """Invertible transform, prior network and conditioning field (arXiv 2606.13957, in our reading)."""

    family: ClassVar[str] = "innvc"
    config_class: ClassVar[type] = InnVCConfig
    config: InnVCConfig

    def __init__(self, config: InnVCConfig) -> None:
        super().__init__(config)
        self.prior = PriorNetwork(config)
        self.field_decoder = FieldDecoder(config)
        self.field_encoder = FieldEncoder(config, sum(GROUP_SIZES))

    def forward(self, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions) -> TrainingOutput:
        return training_pass(self, luma, chroma, qp, conditions)

    def encode(
        self,
        frames: Iterable[Frame],
        fmt: VideoFormat,
        sink: BinaryIO,
        options: EncodeOptions,
        on_frame: Callable[[FrameReport, Frame], None] | None = None,
    ) -> StreamReport:
        return encode_stream(self, frames, fmt, sink, options, on_frame)

    def decode(self, source: BinaryIO) -> Iterator[Frame]:
        return decode_stream(self, source)

    def complexity(self) -> dict[str, float]:
        network = _macs_per_pixel(self.prior) + _macs_per_pixel(self.field_decoder) + _TRANSFORM_MAC
        return {
            "parameters": float(sum(p.numel() for p in self.parameters())),
            "decoder_kmac_per_pixel_intra": network / 1000,
            "decoder_kmac_per_pixel_inter": (network + _INTERPOLATION_MAC) / 1000,
        }


def _macs_per_pixel(module: nn.Module) -> float:
    """All convolutions once at 1/8 resolution, a luma pixel."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    return sum(m.weight.numel() for m in layers) / 64
