"""What earlier frames say about a latent's probabilities: a recurrent state of whole numbers.

The paper takes this from the contexts, which are floats and so differ between machines. Here it is made of decoded
symbols alone: of the intra latent, then of each frame's latent and motion. It is not moved along the flow, which is
float too; it sees the motion's latent instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.dcvc_fm_base.exact_blocks import ExactBlockA, WideExactConv
from codec.dcvc_fm_base.latent_prior import as_activation
from codec.exact.blocks import TemporalState
from codec.exact.operations import relu


class TemporalPrior(nn.Module):
    """latent, motion, intra: channels of the three latents; the state has as many channels as the first."""

    def __init__(self, latent: int, motion: int, intra: int) -> None:
        super().__init__()
        self.from_intra = WideExactConv(intra, latent)
        self.enter = WideExactConv(2 * latent + motion, latent, 3)
        self.block = ExactBlockA(latent)
        self.state = TemporalState(latent, latent)

    def begin(self, intra: Tensor) -> Tensor:
        """The state after an intra frame: its decoded latent in sixteenths (B, I, h, w) → (B, C, h, w)."""
        return torch.as_tensor(self.from_intra(as_activation(intra)))

    def forward(self, state: Tensor, before: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """What is expected of the coming latent (B, C, h, w), and the state after it.

        before: the latent of the last frame; motion: of the coming frame's, both decoded, in sixteenths.
        """
        seen = torch.cat([state, as_activation(before), as_activation(motion)], dim=1)
        expected = self.block(relu(self.enter(seen)))
        return expected, self.state.renew(state, expected)
