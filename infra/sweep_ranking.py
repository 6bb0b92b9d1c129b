"""Which trial of a sweep is best: BD-rate over the same held-out clips, where the curves allow it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.bdrate import BdRate, Curve, bd_rate
from trainers.recipe import Recipe
from trainers.validation import ValidationResult, rd_cost

BY_BD_RATE = "BD-rate (PSNR-YUV) against trial 1"
BY_COST = "RD cost with trial 1's λ, since a BD-rate is refused"


@dataclass(frozen=True)
class RankedTrial:
    """A trial and its place, from 1. bd_rate: percent of bits beside trial 1 at equal PSNR-YUV, None where `refused`
    says why. rd_cost: with the λ of trial 1. bpp and psnr_yuv: means over the QPs."""

    rank: int
    number: int
    settings: tuple[str, ...]
    bd_rate: float | None
    refused: str | None
    rd_cost: float
    bpp: float
    psnr_yuv: float
    result: ValidationResult

    def figures(self) -> dict[str, float]:
        """What MLflow shows of it."""
        figures = {"sweep/rank": float(self.rank), "sweep/rd_cost": self.rd_cost}
        return figures if self.bd_rate is None else figures | {"sweep/bd_rate": self.bd_rate}

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def ranked(
    recipe: Recipe, trials: Mapping[int, tuple[tuple[str, ...], ValidationResult | None]]
) -> tuple[str, list[RankedTrial]]:
    """How the trials that have a result are ranked, and these, best first. `recipe` is trial 1's, which has one.

    By BD-rate where every trial has one: a mixture of measures would be no ranking. Else by RD cost, which is always
    defined, with the same λ for all of them.
    """
    results = {number: (settings, result) for number, (settings, result) in trials.items() if result is not None}
    anchor = results[min(trials)][1]
    found = []
    for number, (settings, result) in results.items():
        answer = BdRate(0.0, 0.0, None, None, None) if result is anchor else bd_rate(_curve(anchor), _curve(result))
        points = result.points
        found.append(
            RankedTrial(
                rank=0,
                number=number,
                settings=settings,
                bd_rate=answer.percent,
                refused=answer.refused,
                rd_cost=rd_cost(points, recipe.phases[-1].lambda_range),
                bpp=sum(point.bpp for point in points) / len(points),
                psnr_yuv=sum(point.psnr_yuv for point in points) / len(points),
                result=result,
            )
        )
    comparable = all(trial.bd_rate is not None for trial in found)
    found.sort(key=lambda trial: trial.bd_rate if comparable and trial.bd_rate is not None else trial.rd_cost)
    ranking = [dataclasses.replace(trial, rank=rank) for rank, trial in enumerate(found, start=1)]
    return (BY_BD_RATE if comparable else BY_COST), ranking


def _curve(result: ValidationResult) -> Curve:
    return Curve.of([point.bpp for point in result.points], [point.psnr_yuv for point in result.points])
