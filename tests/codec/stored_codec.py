"""A codec with the face of any other, which stores deflated planes: what streams do shows without a network."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from codec.api import Codec, CodedFrame, EncodeOptions, TrainingConditions, TrainingOutput
from codec.container import INTER, INTRA, REFRESH, Packet, StreamHeader
from codec.errors import StreamError
from codec.frames import Frame, VideoFormat


@dataclass
class StoredConfig:
    """segment_frames: how many frames it waits for. refresh_period: every so many frames, an inter frame says so."""

    segment_frames: int = 4
    refresh_period: int = 3


class StoredCodec(Codec):
    """Inter frames hold differences, so that a wrong or missing reference shows. Notes what it was given and asked."""

    family = "stored"
    config_class = StoredConfig
    config: StoredConfig

    def __init__(self, config: StoredConfig | None = None) -> None:
        super().__init__(config or StoredConfig())
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.taken = 0
        self.decoded: list[int] = []

    def forward(self, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions) -> TrainingOutput:
        raise NotImplementedError

    def complexity(self) -> dict[str, float]:
        return {}

    def encode_frames(self, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions) -> Iterator[CodedFrame]:
        held: list[Frame] = []
        before = bytes(len(blank(fmt)))
        done = 0
        for frame in frames:
            self.taken += 1
            held.append(frame)
            if len(held) == self.config.segment_frames:
                for item in held:
                    yield self._code(item, before, done, options)
                    before, done = item.to_bytes(), done + 1
                held = []
        for item in held:
            yield self._code(item, before, done, options)
            before, done = item.to_bytes(), done + 1

    def _code(self, frame: Frame, before: bytes, number: int, options: EncodeOptions) -> CodedFrame:
        intra = number % options.intra_period == 0 if options.intra_period > 0 else number == 0
        kind = INTRA if intra else REFRESH if number % self.config.refresh_period == 0 else INTER
        data = frame.to_bytes() if intra else _plus(frame.to_bytes(), before, -1)
        payload = zlib.compress(data, 1)
        return CodedFrame(kind, options.qp, payload, 8.0 * len(payload), frame)

    def decode_frames(self, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
        before = bytes(len(blank(header.format)))
        for packet in packets:
            self.decoded.append(packet.index)
            try:
                data = zlib.decompress(packet.payload)
            except zlib.error as error:
                raise StreamError(f"frame {packet.index}: {error}") from error
            before = data if packet.kind == INTRA else _plus(data, before, 1)
            yield Frame.from_bytes(before, header.format.width, header.format.height)


def blank(fmt: VideoFormat) -> bytes:
    width, height = fmt.chroma_size
    return bytes(fmt.width * fmt.height + 2 * width * height)


def _plus(data: bytes, other: bytes, sign: int) -> bytes:
    return (
        (np.frombuffer(data, np.uint8) + sign * np.frombuffer(other, np.uint8).astype(np.int16))
        .astype(np.uint8)
        .tobytes()
    )


def packet_places(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of every packet of a sound stream, the end packet last."""
    at = 5 + data[4] + 8
    places = []
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at + 1 : at + 4], "little")
        places.append((at, end))
        at = end
    assert all(a[1] == b[0] for a, b in pairwise(places)) and places[-1][1] == len(data)
    return places
