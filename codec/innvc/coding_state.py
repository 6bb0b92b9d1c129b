"""What InnVC's encoder and decoder both carry from frame to frame, and the step that both take with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.exact.operations import full_precision
from codec.frames import Frame, VideoFormat
from codec.innvc.activity import block_qps
from codec.innvc.field import Field
from codec.innvc.filter_changes import FilterChanges, changed_filter
from codec.innvc.filter_gains import GainChances
from codec.innvc.frame_coding import FrameContext, code_coefficients
from codec.innvc.starts import POST_FILTER, SYMBOL_START
from codec.inter.context import from_order, to_order
from codec.inter.layout import GROUP_SIZES
from codec.inter.post_filter import BLOCK, Flags, FlagSource
from codec.inter.prediction import Planes, Prediction
from codec.inter.quantization import FRACTION_BITS, intra_steps, sample_step, whole_steps
from codec.inter.state import InterState
from codec.inter.symbol_sources import FrameTables, Quantizing, SymbolSource
from codec.intra.coding import IntraSettings
from codec.intra.coding import Planes as IntraPlanes
from codec.lifting import forward_transform, inverse_transform
from codec.sample_coding import SampleModel

if TYPE_CHECKING:
    from codec.innvc.model import InnVC


class CodingState(InterState):
    """What encoder and decoder both carry from frame to frame."""

    def __init__(self, codec: InnVC, fmt: VideoFormat) -> None:
        super().__init__(fmt, next(codec.parameters()).device, SYMBOL_START, POST_FILTER)
        self.codec = codec
        self.recurrent: Tensor | None = None
        self.trim = self.no_trim()
        self.samples = SampleModel()  # of frames without loss
        self.field: Field = self.empty_field()
        self.place = 0  # of the coming frame in its segment
        self.gain_chances = self._first_gains()

    def fork(self) -> Self:
        """A state to try something out on."""
        made = super().fork()
        made.samples = self.samples.copy()
        made.gain_chances = self.gain_chances.copy()
        return made

    def adapt(self, changes: FilterChanges | None) -> None:
        """Begin with an intra frame, and with what its stream says about the post filter."""
        self.post_filter = changed_filter(changes)
        self.gains, self.gain_chances = None, self._first_gains()

    def _first_gains(self) -> GainChances:
        return GainChances((-(-self.height // BLOCK), -(-self.width // BLOCK)))

    def starts_segment(self, intra: bool) -> bool:
        return intra or self.place == self.codec.config.segment_frames

    @full_precision()
    def context(self, qp: int, intra: bool, prediction: Prediction, vectors: Tensor) -> FrameContext:
        def transformed(planes: Planes, minus: Planes | None) -> Tensor:
            around = [p[0].int() - (128 if minus is None else minus[i][0].int()) for i, p in enumerate(planes)]
            return to_order(forward_transform(around[0], around[1], FRACTION_BITS))

        base = transformed(prediction.base, None)
        guesses = None
        if prediction.guesses:
            guesses = torch.stack([transformed(guess, prediction.base) for guess in prediction.guesses])
        kind = 0 if intra else 1 if self.after_intra else 2
        field = self.codec.field_decoder(self.field, self.place, self.h, self.w)
        trim = self.no_trim() if intra else self.trim
        qps = self.block_qps(qp, prediction)
        return FrameContext(kind, qp, qps, base, guesses, self._moved_state(kind, vectors), vectors[0], field, trim)

    def block_qps(self, qp: int, prediction: Prediction) -> Tensor:
        """QP of each 8x8 block, (h, w) int64."""
        frame, strength = torch.tensor([qp], device=self.device), self.codec.config.activity
        if not prediction.guesses or not strength:
            return frame.expand(self.h, self.w)
        return block_qps(prediction.base[0], frame, strength)[0]

    def no_trim(self) -> Tensor:
        return torch.zeros(sum(GROUP_SIZES), dtype=torch.int64, device=self.device)

    def _moved_state(self, kind: int, vectors: Tensor) -> Tensor | None:
        part = self.codec.prior.state
        if part is None:
            return None
        if kind == 0 or self.recurrent is None:
            return part.empty(1, self.h, self.w, self.device)
        return part.move(self.recurrent, vectors)

    @full_precision()
    def finish_frame(
        self, context: FrameContext, prediction: Prediction, source: SymbolSource, flags: FlagSource
    ) -> Frame:
        """Code an inter frame's coefficients, rebuild the frame and make it the next one's reference.

        Gives it as it is shown: filtered.
        """
        coefficients = self._walk(context, source)
        residual = inverse_transform(from_order(coefficients), FRACTION_BITS)
        rebuilt = [(p[0].int() + r).clamp(0, 255) for p, r in zip(prediction.base, residual, strict=True)]
        return self._keep(context, prediction, rebuilt, flags)

    def intra_settings(self, qp: int) -> IntraSettings:
        return IntraSettings(qp, intra_steps(), self.codec.config.activity)

    @full_precision()
    def finish_intra(self, qp: int, coded: IntraPlanes, flags: FlagSource) -> Frame:
        """Make a decoded intra frame the next one's reference; it is filtered to be shown.

        The state comes from the network's walk over the frame's own coefficients, quantized as if they were to be sent.
        """
        rebuilt = [torch.from_numpy(coded[0]), torch.from_numpy(np.stack(coded[1:]))]
        rebuilt = [plane.to(self.device) for plane in rebuilt]
        prediction = self.flat_prediction()
        vectors = torch.zeros(1, 2, self.h, self.w, dtype=torch.int64, device=self.device)
        context = self.context(qp, True, prediction, vectors)
        target = to_order(forward_transform(rebuilt[0] - 128, rebuilt[1] - 128, FRACTION_BITS))
        tables = FrameTables(self.codec.tables, None)
        self._walk(context, Quantizing(tables, target, whole_steps(context.qps)))
        self.adaptive = self.mixing = None  # both begin anew
        self.flags = Flags()
        return self._keep(context, prediction, rebuilt, flags)

    def begin_lossless(self, intra: bool) -> None:
        if self.starts_segment(intra):
            self.place = 0

    def finish_lossless(self, frame: Frame, prediction: Prediction) -> None:
        """Make a frame without loss the next one's reference; what else was learned is forgotten."""
        self.recurrent, self.trim, self.adaptive, self.mixing = None, self.no_trim(), None, None
        planes = self.padded(frame)
        step = torch.ones(1, dtype=torch.int64, device=self.device)
        self.renew_reference(prediction, planes, step)
        self.place += 1

    def _walk(self, context: FrameContext, source: SymbolSource) -> Tensor:
        coefficients, self.recurrent, self.trim = code_coefficients(
            self.codec.prior, context, source, self.codec.config.live_fraction
        )
        source.finish()
        return coefficients

    def _keep(self, context: FrameContext, prediction: Prediction, rebuilt: list[Tensor], flags: FlagSource) -> Frame:
        step = sample_step(torch.tensor([context.qp], device=self.device))
        self.renew_reference(prediction, (rebuilt[0].float()[None], rebuilt[1].float()[None]), step)
        if context.kind:
            self.end_symbols()
        self.place += 1
        return self.shown(flags, context.qp, prediction, rebuilt)

    def field_layout(self, qp: int, slices: int) -> list[tuple[tuple[int, ...], NDArray[np.int64]]]:
        """(shape, table number of every value) of the field's levels."""
        decoder = self.codec.field_decoder
        found: list[tuple[tuple[int, ...], NDArray[np.int64]]] = []
        for number, level in enumerate(decoder.levels):
            shape = level.shape(self.h, self.w, slices)
            rows = decoder.rows(number, torch.tensor([qp], device=self.device))[0]
            numbers = decoder.tables.number(rows)[:, None, None].expand(shape)
            found.append((shape, np.ascontiguousarray(numbers.cpu().numpy()).reshape(-1)))
        return found

    def empty_field(self) -> Field:
        """All zeros: what an absent field, or an absent level of it, counts as."""
        shapes = [level.shape(self.h, self.w, self.slice_limit) for level in self.codec.field_decoder.levels]
        return [torch.zeros(1, *shape, dtype=torch.float32, device=self.device) for shape in shapes]

    @property
    def slice_limit(self) -> int:
        return -(-self.codec.config.segment_frames // self.codec.config.slice_frames)
