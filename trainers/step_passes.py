"""A rank's part of one step: forward and backward over its clips, a few at a time where the recipe says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from codec.api import Codec, TrainingConditions, TrainingOutput
from codec.draws import draws_from
from codec.errors import UsageError
from trainers.objective import METRICS, rate_distortion, step_metrics
from trainers.recipe import Recipe
from trainers.schedule import StepConditions, lambda_of, weight_of
from trainers.shares import StepDraws, passes_of


@dataclass(frozen=True)
class PassResult:
    """metrics: (8,) float32, this rank's part of the averages over the batch; luma and chroma: of the first pass."""

    metrics: Tensor
    luma: Tensor
    chroma: Tensor


class Passes:
    """Runs a rank's share of a batch, with the codec as `computing_as` set it up."""

    def __init__(self, codec: Codec, recipe: Recipe, share: slice, device: torch.device) -> None:
        self.codec, self.recipe, self.share, self.device = codec, recipe, share, device

    def run(self, luma: Tensor, chroma: Tensor, draws: StepDraws, now: StepConditions) -> PassResult:
        """Leaves the gradient of the batch's mean loss over these clips in the parameters.

        luma: (share, T, 1, H, W), chroma: (share, T, 2, H/2, W/2), uint8. Each clip counts 1 / batch_size, so the sum
        over all passes of all ranks is the batch's mean, however it is dealt out.
        """
        phase = now.phase
        conditions = TrainingConditions(
            mask_fraction=now.mask_fraction,
            field_dropout=phase.field_dropout,
            cascaded=phase.loss != "per-frame",
            picture_gradients=phase.loss == "pictures",
            recompute=self.recipe.recompute,
            motion_only=phase.loss == "motion",
        )
        metrics = torch.zeros(len(METRICS), dtype=torch.float64, device=self.device)
        shown: tuple[Tensor, Tensor] | None = None
        for part in passes_of(len(luma), self.recipe.micro_batch):
            places = slice(self.share.start + part.start, self.share.start + part.stop)
            qp = draws.qps[places].to(self.device)
            lambdas = lambda_of(qp, phase.lambda_range)
            weights = weight_of(lambdas, phase.lambda_range, phase.balance)
            clips = luma[part].to(self.device), chroma[part].to(self.device)
            with draws_from(draws.clip_seeds[places], draws.step_seed):
                output: TrainingOutput = self.codec(*clips, qp, conditions)
            pixels, segment = luma.shape[-2] * luma.shape[-1], self.recipe.segment_frames
            if output.motion_error is None:
                loss = rate_distortion(output, lambdas, weights, pixels, segment)
            else:
                loss = output.motion_error.mean()
            counts = len(qp) / self.recipe.batch_size
            (loss * counts).backward()
            metrics += step_metrics(loss, output, pixels, segment) * counts
            shown = shown or (output.luma.detach(), output.chroma.detach())
        assert shown is not None
        return PassResult(metrics.float(), *shown)


@contextmanager
def computing_as(recipe: Recipe, codec: Codec, device: torch.device) -> Iterator[None]:
    """Within it the codec computes in the recipe's precision, compiled where it says so.

    Both touch only modules of which nothing has to be exact: whole numbers would not survive bfloat16, and compiled
    code may reorder sums. Raises UsageError where the codec has no such modules.
    """
    with ExitStack() as undo:
        if recipe.compile:
            for module in free_modules(codec, "compile = true"):
                _replace(undo, module, torch.compile(module.forward))
        if recipe.precision == "bf16":
            for module in free_modules(codec, "precision = 'bf16'"):
                _replace(undo, module, _autocast(module.forward, device.type))
        yield


def _replace(undo: ExitStack, module: nn.Module, forward: Callable[..., Any]) -> None:
    undo.callback(setattr, module, "forward", module.forward)
    module.forward = forward


def free_modules(codec: Codec, purpose: str) -> list[nn.Module]:
    """Modules of which nothing has to be exact; raises UsageError naming `purpose` where there are none."""
    there = dict(codec.named_modules())
    found = [there[name] for name in codec.free_modules if name in there]
    if not found:
        raise UsageError(f"{purpose}: every network of this codec '{codec.family}' has to be exact; leave it out")
    return found


def _autocast(forward: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        with torch.autocast(kind, torch.bfloat16):
            return tree_map_only(Tensor, Tensor.float, forward(*inputs))

    return run
