"""A codec of a few hundred weights behind the real face, so that training tests take seconds."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as functional
from torch import Tensor, nn

from codec.api import CODECS, Codec, CodedFrame, EncodeOptions, TrainingConditions, TrainingOutput
from codec.container import INTRA, Packet, StreamHeader
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
    exact_frames = False
    config_class = TinyConfig
    training_conditions = frozenset(("mask_fraction",))

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.down = nn.Conv2d(3, config.width, 4, stride=4)
        self.up = nn.ConvTranspose2d(config.width, 3, 4, stride=4)
        self.step_size = nn.Parameter(torch.zeros(64))
        self.never_used = nn.Parameter(torch.zeros(1))

    calls = 0

    def forward(self, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions) -> TrainingOutput:
        Tiny.calls += 1
        time.sleep(float(os.environ.get("TINY_PACE", "0")))
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
        for frame in frames:
            y, uv = torch.from_numpy(frame.y)[None, None].float(), torch.from_numpy(np.stack([frame.u, frame.v]))[None]
            scale = torch.exp(self.step_size[int(options.qp)] + 3)
            x = torch.cat([y, functional.interpolate(uv.float(), size=y.shape[-2:])], dim=1) / 255 - 0.5
            symbols = (self.down(x) * scale).round().clamp(-32768, 32767).to(torch.int16)
            payload = zlib.compress(symbols.numpy().tobytes(), 9)
            yield CodedFrame(INTRA, int(options.qp), payload, 8.0 * len(payload), self._shown(symbols, int(options.qp)))

    def decode_frames(self, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
        shape = (1, self.config.width, header.format.height // 4, header.format.width // 4)
        for packet in packets:
            symbols = np.frombuffer(zlib.decompress(packet.payload), np.int16).reshape(shape)
            yield self._shown(torch.from_numpy(symbols.copy()), packet.qp)

    def _shown(self, symbols: Tensor, qp: int) -> Frame:
        out = (self.up(symbols / torch.exp(self.step_size[qp] + 3)) + 0.5) * 255
        planes = (out[:, :1], functional.avg_pool2d(out[:, 1:], 2))
        y, uv = (plane[0].clamp(0, 255).round().to(torch.uint8).numpy() for plane in planes)
        return Frame(y[0], uv[0], uv[1])

    def complexity(self) -> dict[str, float]:
        return {"parameters": float(sum(p.numel() for p in self.parameters()))}
