"""What InnVC's encoder and decoder both carry from frame to frame, and the step that both take with it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.arithmetic import FixedArithmetic
from codec.distributions import SCALE_COUNT
from codec.frames import Frame, VideoFormat
from codec.innvc.context import from_order, to_order
from codec.innvc.field import Field
from codec.innvc.frame_coding import FrameContext, SymbolSource, code_coefficients
from codec.innvc.prior import fixed_scale_index
from codec.innvc.quantization import fraction_bits
from codec.lifting import forward_transform, inverse_transform
from codec.motion_compensation import compensate

if TYPE_CHECKING:
    from codec.innvc.model import InnVC

SIDE = 16  # coded sizes are multiples of this; frames are padded, never cropped
Planes = tuple[Tensor, Tensor]  # luma (H, W) and chroma (2, H/2, W/2), padded, float32 whole numbers


class CodingState:
    """What encoder and decoder both carry from frame to frame."""

    def __init__(self, codec: InnVC, fmt: VideoFormat) -> None:
        self.codec, self.format = codec, fmt
        self.device = next(codec.parameters()).device
        self.height, self.width = -(-fmt.height // SIDE) * SIDE, -(-fmt.width // SIDE) * SIDE
        self.h, self.w = self.height // 8, self.width // 8
        self.arithmetic = FixedArithmetic()
        self.reference: Planes | None = None
        self.symbols: Tensor | None = None
        self.after_intra = False
        self.field: Field = self.empty_field()
        self.place = 0  # of the coming frame in its segment
        self.checksum = 0

    def starts_segment(self, intra: bool) -> bool:
        return intra or self.place == self.codec.config.segment_frames

    def flat_prediction(self) -> Planes:
        y = torch.full((self.height, self.width), 128.0, device=self.device)
        return y, torch.full((2, self.height // 2, self.width // 2), 128.0, device=self.device)

    def moved(self, vectors: Tensor) -> Planes:
        assert self.reference is not None
        y, uv = compensate(self.reference[0][None], self.reference[1][None], vectors)
        return y[0], uv[0]

    def context(self, qp: int, intra: bool, predicted: Planes, vectors: Tensor) -> FrameContext:
        fraction = fraction_bits(qp)
        around = [p.int() - 128 for p in predicted]
        transformed = to_order(forward_transform(around[0], around[1], fraction))
        kind = 0 if intra else 1 if self.after_intra else 2
        previous = torch.zeros_like(transformed) if kind < 2 or self.symbols is None else self.symbols
        field = self.codec.field_decoder(self.field, self.place, self.h, self.w, self.arithmetic)
        return FrameContext(kind, qp, transformed, previous, vectors[0], field)

    def finish_frame(self, context: FrameContext, predicted: Planes, source: SymbolSource) -> Frame:
        """Code the coefficients, rebuild the frame and make it the next one's reference."""
        fraction = fraction_bits(context.qp)
        coded = code_coefficients(self.codec.prior, self.arithmetic, context, source, self.codec.config.live_fraction)
        residual = inverse_transform(from_order(coded.coefficients), fraction)
        rebuilt = [(p.int() + r).clamp(0, 255) for p, r in zip(predicted, residual, strict=True)]
        self.reference = rebuilt[0].float(), rebuilt[1].float()
        self.symbols, self.after_intra = coded.symbols, context.kind == 0
        self.place += 1
        frame = self._cropped(rebuilt)
        for plane in frame.planes:
            self.checksum = zlib.crc32(plane.data, self.checksum)
        return frame

    def _cropped(self, planes: list[Tensor]) -> Frame:
        cw, ch = self.format.chroma_size
        y = planes[0][: self.format.height, : self.format.width].to(torch.uint8).cpu()
        uv = planes[1][:, :ch, :cw].to(torch.uint8).cpu()
        return Frame(*(np.ascontiguousarray(p.numpy()) for p in (y, uv[0], uv[1])))

    def field_layout(self, qp: int, slices: int) -> list[tuple[tuple[int, ...], Tensor]]:
        """(shape, scale index of every value) of the field's levels."""
        table = torch.tensor([qp], device=self.device)
        decoder = self.codec.field_decoder
        found: list[tuple[tuple[int, ...], Tensor]] = []
        for level, scales in zip(decoder.levels, decoder.scales, strict=True):
            shape = level.shape(self.h, self.w, slices)
            # A field's value is never "certainly zero": its proposal does not know of scales.
            index = fixed_scale_index(scales(table, self.arithmetic)[0], 1, SCALE_COUNT - 1)
            found.append((shape, index[:, None, None].expand(shape)))
        return found

    def empty_field(self) -> Field:
        """All zeros: what an absent field, or an absent level of it, counts as."""
        shapes = [level.shape(self.h, self.w, self.slice_limit) for level in self.codec.field_decoder.levels]
        return [torch.zeros(1, *shape, dtype=torch.float64, device=self.device) for shape in shapes]

    @property
    def slice_limit(self) -> int:
        return -(-self.codec.config.segment_frames // self.codec.config.slice_frames)
