"""The distributions that symbols are coded with: Laplace or Gaussian of 64 scales, and learned tables; 16-bit counts.

A coder only ever sees whole counts. They are built once, when a model is made (`ScaleTables`) or its training ends
(`LearnedTables`), travel with the weights and are never computed anew: exp() differs between machines.
Table number 0 means "certainly zero": such a symbol is not coded at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.count_tables import COUNT_BITS, COUNT_TOTAL, Tables, escape_bits, whole_counts
from codec.exact.operations import floor_divide

Family = Literal["laplace", "gaussian"]
Numbers = TypeVar("Numbers", NDArray[np.int64], Tensor)

SCALE_COUNT = 64
SMALLEST_SCALE = 0.05  # in quantization steps; below it a symbol is as good as never other than zero
LARGEST_SCALE = 384.0
LOG2_STEP = math.log2(LARGEST_SCALE / SMALLEST_SCALE) / (SCALE_COUNT - 1)
_LARGEST_REACH = 2047
_WIDEST_DEAD_ZONE, _LEAST_ROUNDING = 1.0, 0.2
# Up to this index (a scale of 15) it matters where between whole numbers a mean lies; beyond, under 0.001 bit.
_FINE_SCALES = 40
_REACH_IN_SCALES = {"laplace": 10.0, "gaussian": 4.2}  # about; what `_useful_reach` comes to


def scale_of(index: int) -> float:
    """The scale of an index, in quantization steps: b of a Laplace, standard deviation of a Gaussian."""
    return SMALLEST_SCALE * 2 ** (LOG2_STEP * index)


def _upper_tail(family: Family, edges: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Mass above each edge of a distribution about zero."""
    if family == "gaussian":
        return 0.5 * torch.erfc(torch.from_numpy(edges / (scale * math.sqrt(2)))).numpy()
    below = 0.5 * np.exp(-np.abs(edges) / scale)
    return np.where(edges < 0, 1 - below, below)


@dataclass(frozen=True)
class Decisions:
    """How a quantizer decides, which the probability of a symbol hangs on: a residual r in steps becomes 0 below
    dead_zone, else max(1, floor(|r| + rounding)), with r's sign."""

    dead_zone: float
    rounding: float

    @staticmethod
    def plain(rounding: float) -> Decisions:
        """floor(|r| + rounding) everywhere; 0.5 is plain rounding."""
        return Decisions(1 - rounding, rounding)


def best_decisions(family: Family, index: int, price: float) -> Decisions:
    """What is cheapest for residuals of this scale where a squared step of error is worth `price` bits.

    Between 0 and 1 it is settled by the difference of their bits, further up by what one more costs there. Bits hang
    on the decisions in turn: a few rounds settle it.
    """
    found = Decisions.plain(0.5)
    for _ in range(20):
        likely = probabilities(family, index, found, 3)[0]
        bits = -np.log2(np.maximum(likely, 2.0**-24))
        dead_zone = 0.5 + max(bits[1] - bits[0], 0) / (2 * price)
        rounding = 0.5 - max(bits[5] - bits[3], 0) / (2 * price)
        found = Decisions(min(float(dead_zone), _WIDEST_DEAD_ZONE), max(float(rounding), _LEAST_ROUNDING))
    return found


def probabilities(
    family: Family, index: int, decisions: Decisions, reach: int, offsets: Sequence[float] = (0.0,)
) -> NDArray[np.float64]:
    """Ideal probabilities (offsets, 2·reach + 2) of the symbols 0, 1, -1, 2, -2 … ±reach and, last, of all beyond.

    The probability of a symbol is the mass that the quantizer sends to it. offsets: means, in steps.
    """
    edges = np.arange(1, reach + 2) - decisions.rounding
    edges[0] = decisions.dead_zone
    means = np.asarray(offsets, np.float64)[:, None]
    above = _upper_tail(family, edges - means, scale_of(index))  # each side from its own tail: no cancellation
    below = _upper_tail(family, edges + means, scale_of(index))
    found = np.empty((len(means), 2 * reach + 2))
    found[:, 0] = 1 - above[:, 0] - below[:, 0]
    found[:, 1:-1:2], found[:, 2:-1:2] = above[:, :-1] - above[:, 1:], below[:, :-1] - below[:, 1:]
    found[:, -1] = above[:, -1] + below[:, -1]
    return found


def _useful_reach(family: Family, index: int, decisions: Decisions, offsets: Sequence[float]) -> int:
    """The largest magnitude worth an entry: one that is due half a count. Rarer ones would each take a whole one."""
    most = max(1, min(_LARGEST_REACH, math.ceil(12 * scale_of(index))))
    likely = probabilities(family, index, decisions, most, offsets).max(0)
    due = np.flatnonzero(np.maximum(likely[1:-1:2], likely[2:-1:2]) * COUNT_TOTAL >= 0.5)
    return int(due[-1]) + 1 if len(due) else 1


class ScaleTables(nn.Module):
    """Tables of one family for 64 log-spaced scales, where wanted for means between whole numbers too.

    family: "laplace" or "gaussian". price: bits that a squared step of error is worth, by which the quantizer decides
    (see `best_decisions`); None for plain rounding. fractions: 1, or 16 for means in sixteenths of a step from -8/16 to
    7/16 (with plain rounding); the largest scales take no note of them.
    Buffers: counts (entries,) int32, table after table; reaches (tables,) int32; dead_zones and roundings (64,) int32,
    the quantizer's `Decisions` for each scale in 256ths.
    """

    counts: Tensor
    reaches: Tensor
    dead_zones: Tensor
    roundings: Tensor

    def __init__(self, family: Family, price: float | None = None, fractions: int = 1) -> None:
        super().__init__()
        if fractions > 1 and price is not None:
            raise ValueError("means between whole numbers need plain rounding")
        self.family, self.fractions = family, fractions
        plain = Decisions.plain(0.5)
        chosen = [plain if price is None else best_decisions(family, i, price) for i in range(SCALE_COUNT)]
        self.register_buffer("dead_zones", torch.tensor([round(d.dead_zone * 256) for d in chosen], dtype=torch.int32))
        self.register_buffer("roundings", torch.tensor([round(d.rounding * 256) for d in chosen], dtype=torch.int32))
        counts, reaches = [], []
        for index in range(1, SCALE_COUNT):
            offsets = self._offsets(index)
            decisions = self.decisions(index)
            reach = _useful_reach(family, index, decisions, offsets)
            counts.append(whole_counts(probabilities(family, index, decisions, reach, offsets)).reshape(-1))
            reaches += [reach] * len(offsets)
        self.register_buffer("counts", torch.from_numpy(np.concatenate(counts).astype(np.int32)))
        self.register_buffer("reaches", torch.tensor(reaches, dtype=torch.int32))
        self._tables: Tables | None = None

    def decisions(self, index: int) -> Decisions:
        """How the quantizer decides where this scale is expected."""
        return Decisions(int(self.dead_zones[index]) / 256, int(self.roundings[index]) / 256)

    def quantize(self, residual: Tensor, step: Tensor, scale_index: Tensor) -> Tensor:
        """Symbols, int32, of residuals in whole units and their step in the same; all three broadcast, int64."""
        magnitude = residual.abs().long()
        index = scale_index.clamp_min(1)
        dead_zone, rounding = self.dead_zones.long()[index], self.roundings.long()[index]
        coded = floor_divide(magnitude * 256 + rounding * step, 256 * step).clamp_min(1)
        found = torch.where(magnitude * 256 >= dead_zone * step, coded, 0) * residual.sign()
        return torch.where(scale_index > 0, found, 0).int()

    def _offsets(self, index: int) -> list[float]:
        """The means, in steps, that this scale has a table for each."""
        if index > _FINE_SCALES:
            return [0.0]
        return [(i - self.fractions // 2) / self.fractions for i in range(self.fractions)]

    def number(self, scale_index: Numbers, fraction: Numbers | int = 0) -> Numbers:
        """Table numbers for scale indices 0..63 and means in units of 1/fractions; NumPy or torch, int64, any shape.

        fraction: -fractions/2 .. fractions/2 - 1, and 0 without fractions.
        """
        fine: Any = (scale_index - 1) * self.fractions + fraction + (self.fractions // 2 + 1)
        wide: Any = scale_index + _FINE_SCALES * (self.fractions - 1)
        large = scale_index > _FINE_SCALES
        return (fine * ~large + wide * large) * (scale_index > 0)

    def tables(self) -> Tables:
        """What the coder reads. Raises BitreelError where the counts in the weights are not sound."""
        if self._tables is None:
            counts, reaches = self.counts.cpu().numpy(), self.reaches.cpu().numpy()
            ideal, place = [], 0
            for index in range(1, SCALE_COUNT):
                offsets = self._offsets(index)
                likely = probabilities(self.family, index, self.decisions(index), int(reaches[place]), offsets)
                # The model is the distribution with an escape: of all that is rarer than a count, one in 65536.
                ideal.append(-np.log2(np.maximum(likely, 1 / COUNT_TOTAL)).reshape(-1))
                place += len(offsets)
            self._tables = Tables.build(counts, reaches, np.concatenate(ideal))
        return self._tables

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Where a table ends was settled on the machine that made it; here it may have come out one entry off.
        for name in ("counts", "reaches", "dead_zones", "roundings"):
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(getattr(self, name)).new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._tables = None


class LearnedTables(nn.Module):
    """One learned table a row, for hyper-latents: any shape of distribution over -reach..reach, and an escape.

    start_scale: for each row, the Laplace scale that its table starts as.
    Parameter logits (rows, 2·reach + 2) float32, in the order of `probabilities`. Buffer counts (rows, 2·reach + 2)
    int32: follows the logits where they have changed since, whenever a state dict or `tables` is asked for;
    `load_state_dict` brings its own counts.
    """

    counts: Tensor

    def __init__(self, rows: int, reach: int, start_scale: Sequence[float]) -> None:
        super().__init__()
        if len(start_scale) != rows:
            raise ValueError(f"{rows} rows need as many scales to start from, not {len(start_scale)}")
        self.rows, self.reach = rows, reach
        magnitude = torch.tensor([(e + 1) // 2 for e in range(2 * reach + 2)], dtype=torch.float32)
        self.logits = nn.Parameter(-magnitude / torch.tensor(start_scale, dtype=torch.float32)[:, None])
        self.register_buffer("counts", torch.zeros(rows, 2 * reach + 2, dtype=torch.int32))
        self._counted: Tensor | None = None  # the logits that the counts stand for
        self._tables: Tables | None = None

    def bits(self, symbols: Tensor, rows: Tensor) -> Tensor:
        """Bits of each symbol, differentiable; shape of `symbols` and `rows` broadcast.

        symbols: real-valued carriers of whole numbers (a straight-through estimate). The value is that of the rounded
        symbol, the slope towards the symbol half the difference between its two neighbours' bits. rows: int64.
        """
        table = torch.log_softmax(self.logits.float(), dim=1) * (-1 / math.log(2))
        whole = symbols.detach().round()
        bits = self._look_up(table, whole, rows)
        with torch.no_grad():
            slope = (self._look_up(table, whole + 1, rows) - self._look_up(table, whole - 1, rows)) / 2
        return bits + slope * (symbols - symbols.detach())

    def _look_up(self, table: Tensor, whole: Tensor, rows: Tensor) -> Tensor:
        magnitude = whole.abs()
        entry = torch.where(magnitude > self.reach, 2 * self.reach + 1, 2 * magnitude - (whole > 0).float()).long()
        inside = table.reshape(-1)[rows * table.shape[1] + entry]
        return inside + escape_bits((magnitude - self.reach - 1), self.reach)

    def number(self, row: Numbers) -> Numbers:
        """Table numbers for rows; NumPy or torch, int64, any shape."""
        return row + 1

    def tables(self) -> Tables:
        """What the coder reads. Raises BitreelError where the counts in the weights are not sound."""
        self._follow_logits()
        if self._tables is None:
            ideal = torch.log_softmax(self.logits.detach().cpu().double(), dim=1).numpy() / -math.log(2)
            counts = self.counts.cpu().numpy().reshape(-1)
            self._tables = Tables.build(counts, np.full(self.rows, self.reach, np.int32), ideal.reshape(-1))
        return self._tables

    def _follow_logits(self) -> None:
        logits = self.logits.detach().cpu()
        if self._counted is not None and torch.equal(logits, self._counted):
            return
        likely = torch.softmax(logits.double(), dim=1).numpy()
        self.counts.copy_(torch.from_numpy(whole_counts(likely).astype(np.int32)))
        self._counted, self._tables = logits.clone(), None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._follow_logits()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._tables = None
        self._counted = self.logits.detach().cpu().clone() if prefix + "counts" in state_dict else None


def scale_bits(family: Family, symbols: Tensor, index: Tensor, dead_zone: Tensor, rounding: Tensor) -> Tensor:
    """Bits of symbols under a distribution of real-valued scale index, differentiable; all broadcast.

    symbols: whole numbers (their carriers may have gradients), less the mean's fraction with plain rounding.
    dead_zone, rounding: how the quantizer decided, see `Decisions`. An escape's cost counts where it is less.
    """
    scale = _real_scale(index)
    magnitude = symbols.abs()
    near = magnitude - torch.where(symbols.detach().abs() < 1.5, 1 - dead_zone, rounding)
    far = magnitude.detach() + 1 - rounding
    bits = _laplace_bits if family == "laplace" else _gaussian_bits
    ideal = bits(symbols, scale, near, far, dead_zone)
    # Tables end where an entry is due half a count. Behind: the escape's count, sign and Exp-Golomb bits of what
    # exceeds the reach, in units of an eighth of it.
    reach = scale * _REACH_IN_SCALES[family]
    unit = (reach / 8).clamp_min(1)
    beyond = (magnitude - reach).clamp_min(0)
    escaped = COUNT_BITS + 2 + torch.log2(unit) + 2 * torch.log2(1 + beyond / unit)
    return torch.minimum(ideal, escaped)


def _real_scale(index: Tensor) -> Tensor:
    clamped = index + (index.clamp(0, SCALE_COUNT - 1) - index).detach()  # the gradient passes the clamp
    return SMALLEST_SCALE * torch.exp2(LOG2_STEP * clamped)


def _laplace_bits(symbols: Tensor, scale: Tensor, near: Tensor, far: Tensor, dead_zone: Tensor) -> Tensor:
    """Tails are written in the log domain: differences of exponentials would give NaN gradients."""
    central = symbols.detach().abs() < 0.5
    inner = torch.where(central, symbols.abs(), 0.0)  # the branch not taken must be finite too
    zero = -torch.log2(-(torch.expm1(-(dead_zone - inner) / scale) + torch.expm1(-(dead_zone + inner) / scale)) / 2)
    width = torch.where(central, 1.0, far - near.detach())
    other = 1 + near / (scale * math.log(2)) - torch.log2(-torch.expm1(-width / scale))
    return torch.where(central, zero, other)


def _gaussian_bits(symbols: Tensor, scale: Tensor, near: Tensor, far: Tensor, dead_zone: Tensor) -> Tensor:
    central = symbols.detach().abs() < 0.5
    inner = torch.where(central, symbols.abs(), 0.0)
    near, far = torch.where(central, 0.5, near), torch.where(central, 1.5, far)
    root = math.sqrt(2)
    zero = (torch.erf((dead_zone - inner) / (scale * root)) + torch.erf((dead_zone + inner) / (scale * root))) / 2
    first, second = torch.special.log_ndtr(-near / scale), torch.special.log_ndtr(-far / scale)
    other = first + torch.log(-torch.expm1(second - first))
    return torch.where(central, -torch.log2(zero), other * (-1 / math.log(2)))
