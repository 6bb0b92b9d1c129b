"""InnVC: the codec's face. Training is in `training_pass`, streams in `encoder` and `decoder`, a drawing in `prior`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from torch import Tensor, nn

from codec.api import Codec, FitSettings, TrainingConditions, TrainingOutput
from codec.container import Packet, StreamHeader
from codec.distributions import ScaleTables
from codec.exact.layers import ExactConv2d, ExactWideMap
from codec.frames import Frame, VideoFormat
from codec.innvc.config import InnVCConfig
from codec.innvc.decoder import decode_frames
from codec.innvc.encoder import encode_frames
from codec.innvc.field import FieldDecoder, FieldEncoder
from codec.innvc.fit import fit
from codec.innvc.layout import GROUP_SIZES
from codec.innvc.prediction import GUESSES
from codec.innvc.prior import PriorNetwork
from codec.innvc.training_pass import training_pass
from codec.innvc.tuning import ONE_PASS
from codec.streams import CodedFrame, EncodeOptions

# Multiply-accumulates a luma pixel outside the networks: lifting (54 shears a line of 8, two ways, with chroma) and
# the interpolation of a moved 8x8 block (8 taps luma, 4 taps chroma).
_TRANSFORM_MAC = 2 * 54 / 8 + 2 * 15 / 4 / 2
_INTERPOLATION_MAC = (15 * 8 * 8 + 8 * 8 * 8 + 2 * (7 * 4 * 4 + 4 * 4 * 4)) / 64
# An inter frame is moved twice, and once more with each block's four neighbours' vectors; three further transforms.
_INTER_MAC = (2 + 1 + 4 / 2) * _INTERPOLATION_MAC + (1 + GUESSES) * _TRANSFORM_MAC


class InnVC(Codec):
    """Invertible transform, prior network and conditioning field (arXiv 2606.13957, in our reading)."""

    family: ClassVar[str] = "innvc"
    config_class: ClassVar[type] = InnVCConfig
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
        network = _macs_per_pixel(self.prior) + _macs_per_pixel(self.field_decoder) + _TRANSFORM_MAC
        return {
            "parameters": float(sum(p.numel() for p in self.parameters())),
            "decoder_kmac_per_pixel_intra": network / 1000,
            "decoder_kmac_per_pixel_inter": (network + _INTER_MAC) / 1000,
        }


def _macs_per_pixel(module: nn.Module) -> float:
    """All convolutions once at 1/8 resolution, a luma pixel; a wide map is two passes."""
    layers = [m for m in module.modules() if isinstance(m, ExactConv2d | ExactWideMap)]
    return sum(m.weight.numel() * (2 if isinstance(m, ExactWideMap) else 1) for m in layers) / 64
