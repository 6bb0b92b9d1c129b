"""InnVC's settings, saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from codec.distributions import Family
from codec.errors import UsageError
from codec.inter.layout import GROUP_SIZES


@dataclass
class InnVCConfig:
    """Sizes of the networks and of the field.

    The defaults are the small model: about a seventh of the 60 kMAC per pixel that a small decoder may spend.
    """

    # What training may go on under with new values, from the same weights.
    RETUNABLE: ClassVar[tuple[str, ...]] = ("activity", "intra_boost", "live_fraction")

    # Channels of the prior network's features, at 1/8 resolution.
    width: int = 128
    # Residual blocks before the first group of coefficients, and after each group.
    trunk_blocks: int = 3
    group_blocks: int = 1
    # Channels of the recurrent state that goes from frame to frame along the vectors; 0 leaves it out.
    state_channels: int = 64
    # So many groups of channels, from the first, are coded in two halves, the second knowing its neighbours.
    checkerboard_groups: int = 5
    # Family of the coefficients' distributions: laplace or gaussian.
    distribution: Family = "laplace"
    # Channels of the conditioning field's fine (1/16) and coarse (1/32) grids, of its whole-picture level, and of what
    # its decoder makes of them.
    fine_channels: int = 2
    coarse_channels: int = 2
    whole_channels: int = 8
    field_features: int = 16
    # Frames that share one field (at most 16), and frames that share one time slice of it.
    segment_frames: int = 16
    slice_frames: int = 8
    # Share of live latent channels at QP 0 when coding; the training schedule ends there. 1.0 keeps all alive.
    live_fraction: float = 0.5
    # Intra frames are coded at a QP up to this much higher, since all frames after them are predicted from them.
    intra_boost: int = 14
    # How much the step follows the prediction's contrast, in sixteenths: 0 for equal squared error everywhere (PSNR),
    # 16 lets it grow with the standard deviation (SSIM).
    activity: int = 0
    # Bits that a squared quantization step of error is worth when the quantizer decides between symbols.
    decision_price: float = 7.5

    def check(self) -> None:
        """Raises UsageError where a setting makes no sense."""
        least = {"width": 1, "trunk_blocks": 0, "group_blocks": 0, "state_channels": 0, "checkerboard_groups": 0,
                 "fine_channels": 1, "coarse_channels": 1, "whole_channels": 1, "field_features": 1,
                 "segment_frames": 1, "slice_frames": 1, "intra_boost": 0, "activity": 0}  # fmt: skip
        for name, lowest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise UsageError(f"codec setting {name} = {value!r}: give a whole number, {lowest} or more")
        if self.checkerboard_groups > len(GROUP_SIZES):
            raise UsageError(
                f"codec setting checkerboard_groups = {self.checkerboard_groups}: {len(GROUP_SIZES)} at most"
            )
        if self.distribution not in get_args(Family):
            raise UsageError(f"distribution '{self.distribution}' is not known; known: {', '.join(get_args(Family))}")
        if not self.decision_price > 0:
            raise UsageError(f"codec setting decision_price = {self.decision_price!r}: must be above 0")
        if not 0 < self.live_fraction <= 1:
            raise UsageError(f"codec setting live_fraction = {self.live_fraction!r}: must be above 0, at most 1")
