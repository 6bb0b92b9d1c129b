"""Fitting InnVC to one video: gradient steps on what its stream can say about the model, and on the field's encoder.

The same forward pass and objective as training, on clips of the one video at the one QP. What changes is sent
(`adaptation`) or is the encoder's own affair (the network that proposes the field). Bits of the changes count in the
objective, shared out over the video's frames; changes that do not pay in the end are dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.api import FitSettings, TrainingConditions
from codec.distributions import scale_bits
from codec.errors import UsageError
from codec.frames import Frame, VideoFormat
from codec.innvc.adaptation import LARGEST_CHANGE, change_count, set_changes
from codec.innvc.quantization import step_size
from codec.streams import EncodeOptions

if TYPE_CHECKING:
    from codec.innvc.model import InnVC

_CHANGE_RATE = 50.0  # the changes' learning rate, in settings.learning_rate
_CHANGE_INDEX = 9.0  # scale index that a change's bits are reckoned with: a scale of 0.18
_PRICE = 7.5  # bits that a squared quantization step of error is worth
_TRIALS = 6  # batches that decide whether the changes pay
_CACHED_FRAMES = 512


def fit(
    codec: InnVC,
    frames: Sequence[Frame],
    fmt: VideoFormat,
    options: EncodeOptions,
    settings: FitSettings,
    on_step: Callable[[int, float], None] | None,
) -> InnVC:
    """See `Codec.fit`."""
    if not len(frames):
        raise UsageError("can't fit to a video without frames")
    fitted = copy.deepcopy(codec)
    fitted.fitted_from = codec.model_hash()
    fitted.requires_grad_(False)
    fitted.field_encoder.requires_grad_(True)
    changes = torch.zeros(change_count(fitted), requires_grad=True)
    optimizer = torch.optim.Adam([
        {"params": [changes], "lr": _CHANGE_RATE * settings.learning_rate},
        {"params": list(fitted.field_encoder.parameters()), "lr": settings.learning_rate},
    ])  # fmt: skip
    rates = [group["lr"] for group in optimizer.param_groups]
    clips = _Clips(frames, fmt, settings)
    generator = np.random.default_rng(settings.seed)
    for step in range(settings.steps):
        share = 0.5 + 0.5 * np.cos(np.pi * step / settings.steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (0.05 + 0.95 * share)
        set_changes(fitted, changes.to(next(fitted.parameters()).device))
        loss = _loss(fitted, clips.draw(generator), options, len(frames), fmt) + _change_cost(changes, frames, fmt)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            changes.clamp_(-LARGEST_CHANGE, LARGEST_CHANGE)
        if on_step is not None:
            on_step(step, float(loss.detach()))
    whole = changes.detach().round()
    fitted.requires_grad_(False)
    pays = bool(whole.any()) and _pays(codec, fitted, whole, clips, options, frames, fmt, settings.seed)
    set_changes(fitted, whole if pays else torch.zeros_like(whole))
    return fitted.eval()


class _Clips:
    """Random clips of one video, as training batches."""

    def __init__(self, frames: Sequence[Frame], fmt: VideoFormat, settings: FitSettings) -> None:
        self._frames, self._batch = frames, settings.batch_size
        self._length = min(settings.clip_frames, len(frames))
        self._height = min(settings.crop, -(-fmt.height // 16) * 16)
        self._width = min(settings.crop, -(-fmt.width // 16) * 16)
        self._format = fmt
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def draw(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Luma (B, T, 1, H, W) and chroma (B, T, 2, H/2, W/2) uint8."""
        clips = [self._clip(generator) for _ in range(self._batch)]
        return torch.stack([luma for luma, _ in clips]), torch.stack([chroma for _, chroma in clips])

    def _clip(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        first = int(generator.integers(len(self._frames) - self._length + 1))
        top = 2 * int(generator.integers(max(self._format.height - self._height, 0) // 2 + 1))
        left = 2 * int(generator.integers(max(self._format.width - self._width, 0) // 2 + 1))
        planes = [self._planes(first + t) for t in range(self._length)]
        luma = torch.stack([y[:, top : top + self._height, left : left + self._width] for y, _ in planes])
        half = top // 2, left // 2
        chroma = torch.stack([
            uv[:, half[0] : half[0] + self._height // 2, half[1] : half[1] + self._width // 2] for _, uv in planes
        ])  # fmt: skip
        return luma, chroma

    def _planes(self, number: int) -> tuple[Tensor, Tensor]:
        """A frame's planes, grown to what a clip needs at least by repeating their borders."""
        if number not in self._seen:
            if len(self._seen) >= _CACHED_FRAMES:
                self._seen.pop(next(iter(self._seen)))
            frame = self._frames[number]
            high, wide = max(self._height, self._format.height), max(self._width, self._format.width)
            luma = _grown([frame.y], high + high % 2, wide + wide % 2)
            chroma = _grown([frame.u, frame.v], (high + 1) // 2, (wide + 1) // 2)
            self._seen[number] = luma, chroma
        return self._seen[number]


def _grown(planes: list[np.ndarray], height: int, width: int) -> Tensor:
    stacked = torch.from_numpy(np.stack(planes)).float()[None]
    below, right = height - stacked.shape[2], width - stacked.shape[3]
    return F.pad(stacked, (0, right, 0, below), mode="replicate")[0].byte()


def _loss(codec: InnVC, clips: tuple[Tensor, Tensor], options: EncodeOptions, frames: int, fmt: VideoFormat) -> Tensor:
    """J in bits a luma pixel: intra and inter frames and the field weighted as they come in the stream."""
    device = next(codec.parameters()).device
    luma, chroma = clips[0].to(device), clips[1].to(device)
    qp = torch.full((len(luma),), options.qp, device=device)
    output = codec(luma, chroma, qp, TrainingConditions(codec.config.live_fraction, 0.0 if options.field else 1.0))
    price = _PRICE / float(step_size(qp[:1])[0]) ** 2
    shown = luma.shape[1]
    period = min(options.intra_period, frames) if options.intra_period > 0 else frames
    weights = torch.ones(1, device=device)
    if shown > 1:
        inter = (period - 1) / (shown - 1)
        weights = torch.tensor([1.0] + [inter] * (shown - 1), device=device) / period
    cost = (weights * (output.bits + price * output.sse)).sum(1) + output.field_bits / codec.config.segment_frames
    return torch.as_tensor(cost.mean() / (luma.shape[-1] * luma.shape[-2]))


def _change_cost(changes: Tensor, frames: Sequence[Frame], fmt: VideoFormat) -> Tensor:
    """Bits that the changes take, a luma pixel of the whole video."""
    through = changes + (changes.round() - changes).detach()
    half = torch.tensor(0.5)
    bits = scale_bits("laplace", through, torch.tensor(_CHANGE_INDEX), half, half).sum()
    return bits / (len(frames) * fmt.width * fmt.height)


@torch.no_grad()
def _pays(
    codec: InnVC, fitted: InnVC, changes: Tensor, clips: _Clips, options: EncodeOptions, frames: Sequence[Frame],
    fmt: VideoFormat, seed: int,
) -> bool:  # fmt: skip
    """Whether the fitted model with its changes' bits beats the given one on clips drawn anew."""
    set_changes(fitted, changes.to(next(fitted.parameters()).device))
    generator = np.random.default_rng((seed, 1))
    gain = 0.0
    for _ in range(_TRIALS):
        batch = clips.draw(generator)
        losses = [float(_loss(each, batch, options, len(frames), fmt)) for each in (codec, fitted)]
        gain += losses[0] - losses[1]
    return gain / _TRIALS > float(_change_cost(changes, frames, fmt))
