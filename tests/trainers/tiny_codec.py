"""A codec of a few hundred weights behind the real face, so that training tests take seconds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed
import torch.nn.functional as functional
from torch import Tensor, nn

from codec.api import CODECS, Codec, CodedFrame, EncodeOptions, TrainingConditions, TrainingOutput
from codec.container import Packet, StreamHeader
from codec.draws import draw_each
from codec.frames import Frame, VideoFormat


def install() -> None:
    """Make `create_codec("tiny", …)` work in this process."""
    CODECS["tiny"] = "tests.trainers.tiny_codec:Tiny"


def die_where_told(calls: int) -> None:
    """kill -9 this process at its n-th forward call where the folder $TINY_DEATHS has a file RANK-N, once. Where the
    file holds 15 it is SIGTERM, and where it holds a process id that one gets SIGTERM.

    The file "calls" there tells how many calls the last process of rank 0 has made.
    """
    folder = os.environ.get("TINY_DEATHS")
    if not folder:
        return
    rank = torch.distributed.get_rank()
    if rank == 0:
        (Path(folder) / "calls").write_text(str(calls))
    order = Path(folder) / f"{rank}-{calls}"
    if order.is_file():
        asked = order.read_text()
        order.unlink()
        if asked:
            os.kill(os.getpid() if asked == "15" else int(asked), signal.SIGTERM)
        time.sleep(2)  # whatever was written before, or is to be heard of, has arrived by now
        if not asked:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class TinyConfig:
    width: int = 6
    segment_frames: int = 1


class Tiny(Codec):
    """Strided convolution down, uniform noise as quantization, transposed convolution up; frames on their own."""

    family = "tiny"
    config_class = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.down = nn.Conv2d(3, config.width, 4, stride=4)
        self.up = nn.ConvTranspose2d(config.width, 3, 4, stride=4)
        self.step_size = nn.Parameter(torch.zeros(64))
        self.never_used = nn.Parameter(torch.zeros(1))

    calls = 0

    def forward(self, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions) -> TrainingOutput:
        Tiny.calls += 1
        die_where_told(Tiny.calls)
        b, t, _, h, w = luma.shape
        y, uv = luma.float().flatten(0, 1), chroma.float().flatten(0, 1)
        x = torch.cat([y, functional.interpolate(uv, size=(h, w))], dim=1) / 255 - 0.5
        scale = torch.exp(self.step_size[qp] + 3).repeat_interleave(t)[:, None, None, None]
        latent = self.down(x) * scale
        noisy = latent + draw_each(b, t, *latent.shape[1:]).flatten(0, 1) - 0.5
        out = (self.up(noisy / scale) + 0.5) * 255
        rec_y, rec_uv = out[:, :1], functional.avg_pool2d(out[:, 1:], 2)
        error_y = (rec_y - y).square().flatten(1).sum(1)
        error_uv = (rec_uv - uv).square().flatten(1).sum(1)
        bits = torch.log2(1 + latent.abs() * conditions.mask_fraction).flatten(1).sum(1)
        return TrainingOutput(
            bits=bits.view(b, t),
            field_bits=bits.new_zeros(b),
            sse=(0.75 * error_y + 0.5 * error_uv).view(b, t),
            luma=rec_y.detach().view(b, t, 1, h, w),
            chroma=rec_uv.detach().view(b, t, 2, h // 2, w // 2),
        )

    def encode_frames(self, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions) -> Iterator[CodedFrame]:
        raise NotImplementedError

    def decode_frames(self, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
        raise NotImplementedError

    def complexity(self) -> dict[str, float]:
        return {"parameters": float(sum(p.numel() for p in self.parameters()))}
