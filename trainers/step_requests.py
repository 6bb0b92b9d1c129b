"""What may be asked of a running training."""

from __future__ import annotations

from enum import IntEnum


class Request(IntEnum):
    """What somebody outside wants of a training, between two steps."""

    NOTHING = 0
    CHECKPOINT = 1
    STOP = 2  # after a checkpoint
