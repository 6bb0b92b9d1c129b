"""Sizes of DCVC-FM base, saved beside its weights. The defaults are the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from codec.errors import UsageError

Number = TypeVar("Number", int, float)

CELL = 64  # a hyper-latent stands for so many luma samples a side: coded sizes are multiples of it
LATENT_CELL = 16
LATENT_QUARTERS = 4  # of a latent's channels, for the four-step spatial prior


@dataclass
class DCVCFMBaseConfig:
    """Widths in channels; the scale they stand at in brackets. Source: DCVC-FM (CVPR 2024, arXiv 2402.17414)."""

    # What training may go on under with new values, from the same weights.
    RETUNABLE: ClassVar[tuple[str, ...]] = ("refresh_period", "place_weights")

    # Intra model: encoder and, mirrored, decoder (1/2, 1/4, 1/8); latent (1/16), hyper-latent (1/64); the U-Net (1).
    intra_widths: tuple[int, int, int] = (128, 192, 256)
    intra_latent: int = 256
    intra_hyper: int = 128
    intra_refine: int = 16
    # Width of the intra model's prior networks (1/16).
    intra_prior: int = 768
    # Inter model: motion estimation's scales, widest layer; motion codec's features and latent; hyper-latents of both.
    flow_scales: int = 4
    flow_width: int = 64
    motion: int = 64
    motion_prior: int = 192
    hyper: int = 64
    # Temporal feature (1) and contexts (1, 1/2, 1/4).
    feature: int = 48
    half: int = 64
    quarter: int = 96
    # Alignment at full scale: groups of channels that move together, and places that each takes from.
    offset_groups: int = 16
    offsets: int = 2
    # Latent (1/16), its prior networks' width, and what the contextual decoder hands to the reconstruction (1).
    latent: int = 128
    prior: int = 384
    decoded: int = 32
    # U-Nets of the reconstruction: widths (1, 1/2, 1/4) and blocks at 1/4.
    refine: tuple[int, int, int] = (32, 64, 128)
    refine_blocks: int = 4
    # Largest hyper-latent with an entry of its own in the learned tables.
    hyper_reach: int = 10
    # Every so many frames the temporal feature is dropped and made anew from the decoded frame; 0 for never.
    refresh_period: int = 32
    # What training's distortion weighs for frames of each place in the hierarchy (0, 1, 2).
    place_weights: tuple[float, float, float] = (0.5, 1.2, 0.9)

    def __post_init__(self) -> None:
        self.intra_widths = _three(self.intra_widths)  # JSON has lists
        self.refine = _three(self.refine)
        self.place_weights = _three(self.place_weights)

    def check(self) -> None:
        """Raises UsageError where a setting makes no sense."""
        whole = [name for name, kind in self.__annotations__.items() if kind == "int"]
        for name in whole:
            value = getattr(self, name)
            least = 0 if name == "refresh_period" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"codec setting {name} = {value!r}: give a whole number, {least} or more")
        for name in ("intra_widths", "refine"):
            if not all(isinstance(n, int) and n > 0 for n in getattr(self, name)):
                raise UsageError(f"codec setting {name}: give three whole numbers above 0")
        if not all(isinstance(w, int | float) and w > 0 for w in self.place_weights):
            raise UsageError("codec setting place_weights: give three numbers above 0")
        for name in ("intra_latent", "motion", "latent"):
            if getattr(self, name) % LATENT_QUARTERS:
                raise UsageError(f"codec setting {name} = {getattr(self, name)}: must be a multiple of 4")
        if self.feature % self.offset_groups:
            raise UsageError(f"codec setting feature = {self.feature}: must be a multiple of offset_groups")


def _three(values: Sequence[Number]) -> tuple[Number, Number, Number]:
    if len(values) != 3:
        raise UsageError(f"{values!r}: give three numbers")
    return values[0], values[1], values[2]
