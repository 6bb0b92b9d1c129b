"""A small codec that really can be fitted: it deflates quantized planes, and fitting finds the filter that suits them.

Every process must know it: the driver, Ray's workers and the decoder's own. `announce` makes a folder for PYTHONPATH
that sees to that. A folder of orders, in $FIT_ORDERS, tells it to misbehave where and when a test wants it.
"""

from __future__ import annotations

import copy
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.api import Codec, CodedFrame, EncodeOptions, FitSettings, TrainingConditions, TrainingOutput
from codec.container import INTER, INTRA, Packet, StreamHeader
from codec.frames import Frame, VideoFormat

FAMILY = "fittable"
PLACE = "tests.infra.fittable_codec:FittableCodec"
_CLIP = 3  # frames that a filter is tried on
_NO_FILTER, _LEFT, _BEFORE = range(3)  # plain, or the difference to the left neighbour or to the frame before

_SITE = f'''
import sys
from importlib.machinery import PathFinder

class Register:
    def find_spec(self, name, path=None, target=None):
        if name != "codec.api":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.CODECS["{FAMILY}"] = "{PLACE}"

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Register())
'''


def announce(folder: Path) -> str:
    """A PYTHONPATH with which every Python process knows this codec, as soon as it loads any."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE)
    return os.pathsep.join([str(folder), str(Path(__file__).parent.parent.parent)])


def order(what: str, width: int, qp: int, times: int = 1) -> Path:
    """Tell the codec to "die" (kill -9 its process), "wait" (while the file is there), "fail" (raise an error), or
    "lie" (about its reconstruction) when it is fitted to a video of that width at that QP, so many times."""
    path = Path(os.environ["FIT_ORDERS"]) / f"{what}-{width}-{qp}"
    path.write_text(str(times))
    return path


def _ordered(what: str, fmt: VideoFormat, qp: int) -> bool:
    path = Path(os.environ.get("FIT_ORDERS", "")) / f"{what}-{fmt.width}-{qp}"
    if not path.is_file() or (left := int(path.read_text())) == 0:
        return False
    path.write_text(str(left - 1))
    return True


@dataclass
class FittableConfig:
    segment_frames: int = 1


class FittableCodec(Codec):
    """Each payload is the filter's number and the deflated planes; only a fitted codec uses another than none."""

    family = FAMILY
    config_class = FittableConfig

    def __init__(self, config: FittableConfig | None = None) -> None:
        super().__init__(config or FittableConfig())
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.filter = _NO_FILTER
        self.lies = False

    def forward(self, luma: Tensor, chroma: Tensor, qp: Tensor, conditions: TrainingConditions) -> TrainingOutput:
        raise NotImplementedError

    def complexity(self) -> dict[str, float]:
        return {}

    def fit(
        self,
        frames: Sequence[Frame],
        fmt: VideoFormat,
        options: EncodeOptions,
        settings: FitSettings,
        on_step: Callable[[int, float], None] | None = None,
    ) -> Codec:
        """Tries one filter a step on a clip from the video's middle, and takes the best."""
        waiting = Path(os.environ.get("FIT_ORDERS", "")) / f"wait-{fmt.width}-{options.qp}"
        while waiting.is_file():
            time.sleep(0.05)
        if _ordered("die", fmt, options.qp):
            os.kill(os.getpid(), signal.SIGKILL)
        if _ordered("fail", fmt, options.qp):
            raise RuntimeError("told to fail")
        middle = len(frames) // 2
        sizes: list[int] = []
        for step, self_filter in enumerate((_NO_FILTER, _LEFT, _BEFORE)[: settings.steps]):
            tried = copy.deepcopy(self)
            tried.filter = self_filter
            clip = frames[middle : middle + _CLIP]
            sizes.append(sum(len(c.payload) for c in tried.encode_frames(clip, fmt, options)))
            if on_step is not None:
                on_step(step, float(sizes[-1]))
        fitted = copy.deepcopy(self)
        fitted.filter = int(np.argmin(sizes))
        fitted.lies = _ordered("lie", fmt, options.qp)
        return fitted

    def encode_frames(self, frames: Iterable[Frame], fmt: VideoFormat, options: EncodeOptions) -> Iterator[CodedFrame]:
        before: NDArray[np.uint8] | None = None
        for frame in frames:
            planes = np.frombuffer(frame.to_bytes(), np.uint8)
            levels = ((planes.astype(np.int32) + _step(options.qp) // 2) // _step(options.qp)).astype(np.uint8)
            filtered = levels - _predicted(levels, before, self.filter)
            payload = bytes([self.filter]) + zlib.compress(filtered.tobytes(), 6)
            kind = INTRA if before is None else INTER
            shown = _shown(levels, options.qp, fmt)
            if self.lies:
                shown = Frame(shown.y ^ 1, shown.u, shown.v)
            yield CodedFrame(kind, options.qp, payload, 8.0 * len(payload), shown)
            before = levels

    def decode_frames(self, packets: Iterable[Packet], header: StreamHeader) -> Iterator[Frame]:
        before: NDArray[np.uint8] | None = None
        for packet in packets:
            chosen = packet.payload[0]
            values = np.frombuffer(zlib.decompress(packet.payload[1:]), np.uint8)
            if chosen == _LEFT:
                before = np.cumsum(values, dtype=np.uint8)
            else:
                before = values + _predicted(values, before, chosen)
            yield _shown(before, packet.qp, header.format)


def _step(qp: int) -> int:
    return max(1, round(2 ** ((63 - qp) / 12)))


def _predicted(levels: NDArray[np.uint8], before: NDArray[np.uint8] | None, chosen: int) -> NDArray[np.uint8]:
    if chosen == _LEFT:
        return np.concatenate([np.zeros(1, np.uint8), levels[:-1]])
    return before if chosen == _BEFORE and before is not None else np.zeros_like(levels)


def _shown(levels: NDArray[np.uint8], qp: int, fmt: VideoFormat) -> Frame:
    values = np.clip(levels.astype(np.int32) * _step(qp), 0, 255).astype(np.uint8)
    return Frame.from_bytes(values.tobytes(), fmt.width, fmt.height)
