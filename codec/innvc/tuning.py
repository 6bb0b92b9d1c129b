"""What the encoder may choose for one video; one pass takes the defaults, `fit` looks for better ones."""

from __future__ import annotations

from dataclasses import dataclass

from codec.innvc.filter_changes import FilterChanges
from codec.inter.frame_motion import PERIOD


@dataclass(frozen=True)
class Tuning:
    """intra_boost: QPs that an intra frame is finer by, None for the model's setting. period: frames from one that
    stays a reference to the next. boosts: QPs that inter frames are finer by, in turn, from the intra frame on.
    changes: of the post filter.
    """

    intra_boost: int | None = None
    period: int = PERIOD
    boosts: tuple[int, ...] = (0,)
    changes: FilterChanges | None = None


ONE_PASS = Tuning()
