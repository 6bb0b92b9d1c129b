"""What exact priors are built of: residual blocks, the other half of a checkerboard, a state from frame to frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.exact.kept import kept
from codec.exact.layers import ExactConv2d, branch
from codec.exact.operations import blend
from codec.exact.warp import warp


class ResidualBlock(nn.Module):
    """Depthwise 3x3, 1x1, ReLU, 1x1, skip: (B, width, h, w) → the same; hidden: channels between, `width` if 0."""

    def __init__(self, width: int, hidden: int = 0) -> None:
        super().__init__()
        self.depthwise = ExactConv2d(width, width, 3, depthwise=True)
        self.widen = ExactConv2d(width, hidden or width)
        self.narrow = ExactConv2d(hidden or width, width)
        nn.init.normal_(self.narrow.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return branch(x, x, self.depthwise, self.widen, self.narrow)


class CheckerboardContext(nn.Module):
    """Spatial context: what a group's first half says about the second (a two-step checkerboard).

    The four direct neighbours of each place of the second half belong to the first; see `checkerboard`.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.gather = ExactConv2d(channels, channels, 3, depthwise=True, bias=False)
        self.enter = ExactConv2d(channels, width)
        self.leave = ExactConv2d(width, width, bias=False)
        nn.init.constant_(self.gather.weight, 0.25)
        nn.init.normal_(self.leave.weight, std=0.02)

    def forward(self, state: Tensor, known: Tensor) -> Tensor:
        """The state for the second half. known: (B, channels, h, w) magnitudes, zero where not known yet."""
        return branch(known, state, self.gather, self.enter, self.leave)


@kept(16)
def checkerboard(channels: int, h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat positions of the first and of the second half of an h x w grid with h·w even, (channels, h·w/2) int64 each.

    Every other channel has them the other way round, so that the second half of one has the first half of its
    neighbours in frequency at the very same place.
    """
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    odd = ((rows + columns) % 2 == 1).flatten()
    places = torch.arange(h * w)
    halves = places[~odd], places[odd]
    first = torch.stack([halves[c % 2] for c in range(channels)])
    second = torch.stack([halves[1 - c % 2] for c in range(channels)])
    return first.to(device), second.to(device)


class TemporalState(nn.Module):
    """A recurrent state of whole numbers: warped to the coming frame, and renewed from all that a frame decoded to."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.candidate = ExactConv2d(width, channels)
        self.keep = ExactConv2d(width + channels, channels)

    def empty(self, batch: int, h: int, w: int, device: torch.device) -> Tensor:
        """The state before the first frame and at each intra frame."""
        return torch.zeros(batch, self.channels, h, w, dtype=torch.float32, device=device)

    def move(self, state: Tensor, vectors: Tensor) -> Tensor:
        """See `warp`."""
        return warp(state, vectors)

    def renew(self, moved: Tensor, decoded: Tensor) -> Tensor:
        """The state after a frame: moved (B, channels, h, w) and the network's last features (B, width, h, w)."""
        return blend(moved, self.candidate(decoded), self.keep(torch.cat([decoded, moved], dim=1)))
