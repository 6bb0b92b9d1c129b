"""The contextual encoder: what of a frame is worth coding, given what the decoder expects. Floats, encoder only.

It starts as the identity on the transformed residual in steps, and learns where saying less, or something else, is
cheaper in bits and error together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.dcvc_fm.config import DCVCFMConfig
from codec.dcvc_fm.scalers import CHANNELS

_ACTIVATION = 64.0  # of the decoder's features, about what a float network takes for one


class ContextualEncoder(nn.Module):
    """Residual in steps, (B, 96, h, w), and the decoder's features before the first half, (B, width, h, w) → latent."""

    def __init__(self, config: DCVCFMConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden
        self.enter = nn.Conv2d(CHANNELS + width, width, 1)
        self.blocks = nn.ModuleList(_Block(width, hidden) for _ in range(config.encoder_blocks))
        self.leave = nn.Conv2d(width, CHANNELS, 1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, residual: Tensor, features: Tensor) -> Tensor:
        small = residual.sign() * torch.log2(1 + residual.abs())
        x = F.relu(self.enter(torch.cat([small, features.detach() / _ACTIVATION], dim=1)))
        for block in self.blocks:
            x = block(x)
        # Where nothing is left, nothing is added: a picture at rest stays as it is.
        return residual + self.leave(x) * residual.detach().abs().clamp_max(1)


class _Block(nn.Module):
    """Depthwise 3x3, 1x1, ReLU, 1x1, skip."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.widen = nn.Conv2d(width, hidden, 1)
        self.narrow = nn.Conv2d(hidden, width, 1)
        nn.init.normal_(self.narrow.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(x + self.narrow(F.relu(self.widen(self.depthwise(x)))))
