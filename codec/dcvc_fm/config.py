"""DCVC-FM's settings, saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from codec.distributions import Family
from codec.errors import UsageError

HIERARCHY = (0, 1, 0, 2, 0, 2, 0, 2)  # of frames since the intra frame, modulo 8 (DCVC-FM; the first inter frame is 1)


@dataclass
class DCVCFMConfig:
    """Sizes of the networks, and how quality goes from frame to frame. The defaults are the small model."""

    # What training may go on under with new values, from the same weights.
    RETUNABLE: ClassVar[tuple[str, ...]] = ("refresh_period", "intra_boost", "hierarchy_boosts", "correction_in_loop")

    # Channels of the networks' features, at 1/8 resolution, and of the hidden layer of their blocks.
    width: int = 128
    hidden: int = 256
    # Blocks before the first half of the symbols, before the second, and after both.
    context_blocks: int = 3
    half_blocks: int = 2
    decoder_blocks: int = 4
    # Blocks of the contextual encoder; 0 leaves it out: what is coded is the transformed residual itself.
    encoder_blocks: int = 0
    # Channels of the temporal feature that goes from frame to frame along the vectors.
    feature_channels: int = 64
    # Family of the symbols' distributions: laplace or gaussian.
    distribution: Family = "laplace"
    # Every so many frames the temporal feature is dropped and made anew from the decoded frame; 0 for never.
    refresh_period: int = 32
    # QPs that frames of each place in the hierarchy (0, 1, 2) are finer by.
    hierarchy_boosts: tuple[int, ...] = (0, 3, 2)
    # The intra frame is coded at a QP up to this much higher, since all frames after it are predicted from it.
    intra_boost: int = 14
    # Whether later frames are predicted from the corrected frame or from what was coded.
    correction_in_loop: bool = False
    # Bits that a squared quantization step of error is worth when the quantizer decides between symbols.
    decision_price: float = 7.5

    def __post_init__(self) -> None:
        self.hierarchy_boosts = tuple(self.hierarchy_boosts)  # JSON has lists

    def check(self) -> None:
        """Raises UsageError where a setting makes no sense."""
        least = {"width": 1, "hidden": 1, "context_blocks": 0, "half_blocks": 0, "decoder_blocks": 0,
                 "encoder_blocks": 0, "feature_channels": 1, "refresh_period": 0, "intra_boost": 0}  # fmt: skip
        for name, lowest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise UsageError(f"codec setting {name} = {value!r}: give a whole number, {lowest} or more")
        if len(self.hierarchy_boosts) != 1 + max(HIERARCHY) or not all(
            isinstance(b, int) for b in self.hierarchy_boosts
        ):
            raise UsageError(f"codec setting hierarchy_boosts = {self.hierarchy_boosts!r}: give three whole numbers")
        if self.distribution not in get_args(Family):
            raise UsageError(f"distribution '{self.distribution}' is not known; known: {', '.join(get_args(Family))}")
        if not self.decision_price > 0:
            raise UsageError(f"codec setting decision_price = {self.decision_price!r}: must be above 0")


def place_in_hierarchy(number: int) -> int:
    """Of the inter frame `number`, 1 and up since its intra frame."""
    return HIERARCHY[number % len(HIERARCHY)]


def refreshes(number: int, period: int) -> bool:
    """Whether the temporal feature is dropped before inter frame `number`, 1 and up since its intra frame.

    Before the first there is none to drop.
    """
    return period > 0 and number > 1 and number % period == 1 % period
