"""What an anchor is to an evaluation: a conventional encoder with fixed settings that makes a file at a constant QP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from codec.frames import Frame, Plane
from infra.evaluation_source import EvaluationSource


@dataclass(frozen=True)
class QpLadder:
    """first: QPs encoded to begin with; then, where a quality range asks for it, past their ends by `step` within
    lowest..highest, and between them. Quality falls as QP rises."""

    first: tuple[int, ...]
    lowest: int
    highest: int
    step: int


@dataclass(frozen=True)
class CodedVideo:
    """data: the file, video only. sizes: bytes of each frame in it, in display order. options: what the encoder says
    it was run with, "" where it says nothing."""

    data: bytes
    sizes: list[int]
    options: str


class Anchor(Protocol):
    """One encoder with its settings; `command` and `version` are stored with results, and key the cache."""

    @property
    def name(self) -> str:
        """What --anchors calls it."""

    @property
    def suffix(self) -> str:
        """Of its files, by which FFmpeg knows them."""

    @property
    def ladder(self) -> QpLadder:
        """Its scale of QPs."""

    @property
    def min_side(self) -> int:
        """Smaller frames it does not take."""

    def version(self) -> str:
        """The encoder's version. Raises UsageError where this machine has no such encoder, naming what to install."""

    def command(self, qp: int, intra_period: int) -> str:
        """All options of one encode, in FFmpeg's notation. intra_period: -1 for one intra frame, or N."""

    def encode(self, source: EvaluationSource, qp: int, intra_period: int) -> CodedVideo:
        """Encode all frames. Raises BitreelError where the encoder fails or did not take a setting."""


def even_planes(frame: Frame) -> tuple[Plane, Plane, Plane]:
    """The planes at even luma size: odd ones are padded by repeating the edge, as encoders want it."""
    height, width = frame.height + frame.height % 2, frame.width + frame.width % 2
    y = np.pad(frame.y, ((0, height - frame.height), (0, width - frame.width)), mode="edge")
    return y, frame.u, frame.v
