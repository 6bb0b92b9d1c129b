"""Learned quantization scalers: a step for each coefficient at each QP, log-interpolated between two learned ends.

q(qp) = exp(ln q0 + (ln q1 - ln q0) · qp / 63), elementwise, one such pair for the encoder and one for the decoder
(DCVC-FM, "learnable quantization scaler"). The decoder's are kept as whole numbers, for exp() differs between machines.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from codec.errors import BitreelError
from codec.inter.layout import LUMA_CHANNELS, ORDER
from codec.inter.quantization import CHROMA_SHARE, COARSEST_STEP, FRACTION_BITS
from codec.streams import QP_COUNT

CHANNELS = 96
QP_PARTS = 16  # QPs are told in sixteenths where they need not be whole
_LARGEST_STEP = 1 << 14


class QuantizationScalers(nn.Module):
    """Parameters: log2 of the decoder's step in grey levels at QP 0 and QP 63, (2, 96), and how the encoder's differ.

    Buffer steps (64, 96) int32: the decoder's in 16ths of a grey level; follows the parameters where they have changed
    since, whenever a state dict or `whole` is asked for; `load_state_dict` brings its own.
    """

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        chroma = torch.tensor([c >= LUMA_CHANNELS for c in ORDER])
        share = torch.where(chroma, math.log2(CHROMA_SHARE), 0.0)
        top = math.log2(COARSEST_STEP)
        self.decoder = nn.Parameter(torch.stack([share + top, share + top - (QP_COUNT - 1) / 9]))
        self.encoder = nn.Parameter(torch.zeros(2, CHANNELS))
        self.register_buffer("steps", torch.zeros(QP_COUNT, CHANNELS, dtype=torch.int32))
        self._made_of: Tensor | None = None  # the parameters that the steps stand for

    def decoder_steps(self, qp: Tensor) -> Tensor:
        """In grey levels, differentiable: QPs (B,), whole or not → (B, 96)."""
        return torch.exp2(_between(self.decoder, qp))

    def encoder_steps(self, qp: Tensor) -> Tensor:
        """What the encoder divides by: as the decoder's, times what was learned beside it."""
        return torch.exp2(_between(self.decoder + self.encoder, qp))

    def whole(self, qp16: int) -> Tensor:
        """The decoder's steps at a QP in sixteenths, (96,) int64, in 16ths of a grey level.

        Raises BitreelError where the steps in the weights are not sound.
        """
        self._follow_parameters()
        low, part = divmod(qp16, QP_PARTS)
        steps = self.steps.long()
        if int(steps.min()) < 1 or int(steps.max()) > _LARGEST_STEP:
            raise BitreelError("the model's quantization steps are not sound: copy its weights anew, or train on")
        high = steps[min(low + 1, QP_COUNT - 1)]
        return (steps[low] * (QP_PARTS - part) + high * part + QP_PARTS // 2) // QP_PARTS

    def _follow_parameters(self) -> None:
        if self._made_of is not None and torch.equal(self.decoder.detach(), self._made_of):
            return
        with torch.no_grad():
            all_qps = self.decoder_steps(torch.arange(QP_COUNT, device=self.decoder.device))
            whole = torch.round(all_qps * (1 << FRACTION_BITS)).clamp(1, _LARGEST_STEP)
        self.steps.copy_(whole.int())
        self._made_of = self.decoder.detach().clone()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._follow_parameters()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._made_of = self.decoder.detach().clone() if prefix + "steps" in state_dict else None


def _between(ends: Tensor, qp: Tensor) -> Tensor:
    share = qp.float()[:, None] / (QP_COUNT - 1)
    return ends[0] + (ends[1] - ends[0]) * share
