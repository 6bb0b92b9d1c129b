"""The work on one video, as one Ray task: at every QP, encode in one pass, fit and encode, decode both elsewhere.

A point is done when its note lies beside its two streams; whatever ends a task, at most the point under way is lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from codec.api import Codec, EncodeOptions, FitSettings, load_codec
from codec.errors import BitreelError, VideoError
from codec.frames import Frame
from infra.evaluation_results import Point
from infra.evaluation_source import EvaluationSource, prepare_source
from infra.evaluation_streams import StreamSet, decode_elsewhere, encode_to_file, measured_point
from infra.evaluation_worker import DecodeJob
from infra.fitting_results import FitPoint, fitted_stream, one_pass_stream, point_path

ONE_PASS, FITTED = "one pass", "fitted"  # how points call the two ways
_NO_PICTURE = -1


@dataclass(frozen=True)
class FitJob:
    """One video's task. folder: its results; cache: where its frames lie meanwhile; keys: of each QP's point.

    frames: at most so many. threads: PyTorch's, in encoder and decoder alike. device: where it is fitted and encoded.
    """

    video: str
    folder: Path
    cache: Path
    model: str
    model_hash: str
    keys: dict[int, str]
    frames: int
    settings: FitSettings
    threads: int = 1
    device: str = "cpu"

    def done(self) -> dict[int, FitPoint]:
        """Points that are on disk already."""
        found = {qp: FitPoint.find(self.folder, qp, key) for qp, key in self.keys.items()}
        return {qp: point for qp, point in found.items() if point is not None}


class SourceFrames(Sequence[Frame]):
    """The frames of a source at random access; each access reads one from disk, so that no video is too long."""

    def __init__(self, source: EvaluationSource) -> None:
        self._source = source
        width, height = source.format.chroma_size
        self._size = source.width * source.height + 2 * width * height

    def __len__(self) -> int:
        return self._source.frame_count

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        """Raises IndexError past the end, VideoError where the file is gone or was cut short."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        try:
            data = np.fromfile(self._source.path, np.uint8, self._size, offset=at * self._size)
        except FileNotFoundError as error:
            raise VideoError(f"'{self._source.path}' is gone; run again") from error
        if data.size != self._size:
            raise VideoError(f"'{self._source.path}' was cut short; run again")
        return Frame.from_bytes(data.data, self._source.width, self._source.height)


def fit_video(job: FitJob) -> list[FitPoint]:
    """All points of one video, by rising QP; those that are on disk already are not made again.

    Raises VideoError where the video can't be read, BitreelError where a stream can't be encoded or decodes to other
    frames than the encoder saw.
    """
    done = job.done()
    missing = [qp for qp in sorted(job.keys) if qp not in done]
    if missing:
        import torch

        torch.set_num_threads(job.threads)
        source = prepare_source(Path(job.video), job.cache, job.frames)
        try:
            codec = load_codec(job.model, job.device)
            for qp in missing:
                done[qp] = _measure(job, codec, source, qp)
        finally:
            Path(source.path).unlink(missing_ok=True)
    return [done[qp] for qp in sorted(done)]


def _measure(job: FitJob, codec: Codec, source: EvaluationSource, qp: int) -> FitPoint:
    """Make, check and keep one point."""
    point_path(job.folder, qp).unlink(missing_ok=True)  # it may tell of streams that other settings made, which go now
    plain, better = one_pass_stream(job.folder, qp), fitted_stream(job.folder, qp)
    plain.parent.mkdir(parents=True, exist_ok=True)
    order = {way: _order(job, source, qp, way) for way in (ONE_PASS, FITTED)}
    first = encode_to_file(codec, order[ONE_PASS], qp, plain)
    losses: list[float] = []
    started = time.perf_counter()
    fitted = codec.fit(
        SourceFrames(source), source.format, EncodeOptions(qp=qp), job.settings, lambda _, loss: losses.append(loss)
    )
    fit_seconds = time.perf_counter() - started
    second = encode_to_file(fitted, order[FITTED], qp, better)
    streams = [(qp, str(plain), os.devnull), (qp, str(better), os.devnull)]
    answers = decode_elsewhere(DecodeJob(job.model, source, streams, _NO_PICTURE, job.threads), job.folder)
    one_pass = measured_point(order[ONE_PASS], answers[0], *first, plain.parent)
    point = FitPoint(
        qp, one_pass, measured_point(order[FITTED], answers[1], *second, better.parent), fit_seconds, losses
    )
    for measured in (point.one_pass, point.fitted):
        _check_exact(measured, source)
    point.save(job.folder, job.keys[qp])
    return point


def _order(job: FitJob, source: EvaluationSource, qp: int, way: str) -> StreamSet:
    return StreamSet(way, job.model, job.model_hash, source, (qp,), -1, True, _NO_PICTURE, job.threads)


def _check_exact(point: Point, source: EvaluationSource) -> None:
    if not point.details["exact"]:
        raise BitreelError(
            f"{source.name} QP {point.qp}, {point.codec}: another process decodes other frames than the encoder saw"
        )
