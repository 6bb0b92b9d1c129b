"""A latent and its hyper-latent, symbol by symbol: to a packet, from one, or as training estimates them.

Encoder and decoder run `code_latent`; the two differ only in where symbols come from. Nothing here but the encoder's
proposals is made of floats that are not whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.count_tables import Tables
from codec.dcvc_fm_base.latent_prior import SPATIAL_STEPS, Expected, LatentPrior, as_activation, latent_of
from codec.dcvc_fm_base.spatial_order import four_steps
from codec.distributions import LearnedTables, ScaleTables, scale_bits
from codec.draws import ClipDraws
from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.exact.operations import full_precision
from codec.inter.context import STEP_UNITS
from codec.inter.scale_index import INDEX_UNITS, whole_index

_LARGEST_SYMBOL = 1 << 15  # an encoder cuts off what is beyond

Numbers = NDArray[np.int64]


class SymbolSource(Protocol):
    """Where symbols come from: the encoder's floats, which go into the packet, or the packet."""

    def exchange(self, numbers: Numbers, tables: Tables, proposal: Callable[[], Tensor]) -> Tensor:
        """Symbols for table numbers (n,), int64 (n,) on the CPU. proposal: real-valued symbols (n,), for encoders."""
        ...


@dataclass(frozen=True)
class Encoding:
    coder: SymbolEncoder

    def exchange(self, numbers: Numbers, tables: Tables, proposal: Callable[[], Tensor]) -> Tensor:
        wanted = torch.nan_to_num(proposal().flatten().cpu()).clamp(-_LARGEST_SYMBOL, _LARGEST_SYMBOL)
        symbols = torch.round(wanted).long() * torch.from_numpy(numbers > 0)
        self.coder.encode(symbols.int().numpy(), numbers, tables)
        return symbols


@dataclass(frozen=True)
class Decoding:
    coder: SymbolDecoder

    def exchange(self, numbers: Numbers, tables: Tables, proposal: Callable[[], Tensor]) -> Tensor:
        return torch.from_numpy(self.coder.decode(numbers, tables)).long()


@dataclass(frozen=True)
class Wanted:
    """What an encoder would like to code: hyper-latents (1, Z, h/4, w/4) and latent (1, C, h, w), float32."""

    hyper: Tensor
    latent: Tensor


class HyperTables(LearnedTables):
    """A learned table for each hyper-latent channel at each of the 64 QPs."""

    def __init__(self, channels: int, qps: int, reach: int) -> None:
        super().__init__(channels * qps, reach, [1.0] * (channels * qps))
        self.channels = channels

    def row(self, qp: Tensor) -> Tensor:
        """QPs (B,) int64 → rows (B, channels, 1, 1) int64."""
        channel = torch.arange(self.channels, device=qp.device)
        return (qp[:, None] * self.channels + channel)[:, :, None, None]


def code_hyper(
    source: SymbolSource,
    tables: HyperTables,
    qp: int,
    size: tuple[int, int],
    wanted: Wanted | None,
    device: torch.device,
) -> Tensor:
    """Hyper-latents of `size` (h, w): whole float32 (1, Z, h, w)."""
    rows = tables.row(torch.tensor([qp])).expand(1, tables.channels, *size)
    symbols = source.exchange(tables.number(rows).flatten().numpy(), tables.tables(), lambda: _given(wanted).hyper)
    return symbols.view(rows.shape).to(device, torch.float32)


@full_precision()
def code_latent(
    source: SymbolSource, prior: LatentPrior, tables: ScaleTables, expected: Expected, wanted: Wanted | None,
    gain: Callable[[Tensor], Tensor], step: Tensor,
) -> Tensor:  # fmt: skip
    """The decoded latent in sixteenths of its unit, whole float32 (1, C, h, w).

    gain: from the wanted latent, values in steps. step: in sixteenths, whole, broadcast over the latent.
    """
    batch, _, h, w = expected.params.shape
    channels = prior.channels
    decoded = expected.params.new_zeros(batch, channels, h * w)
    full = step.expand(batch, channels, h, w).flatten(2)
    target = gain(wanted.latent).flatten(2)[0] if wanted is not None else None
    for number, flat in enumerate(four_steps(channels, h, w, decoded.device)):
        indices, means = prior.scales_and_means(expected, number, as_activation(decoded.unflatten(2, (h, w))))
        index = whole_index(indices.flatten(2)[0].gather(1, flat)).cpu()
        mean = means.flatten(2)[0].gather(1, flat)

        def proposal(flat: Tensor = flat, mean: Tensor = mean) -> Tensor:
            assert target is not None
            return target.gather(1, flat) - mean / STEP_UNITS

        numbers = tables.number(index).flatten().numpy()
        symbols = source.exchange(numbers, tables.tables(), proposal).view(index.shape).to(mean)
        found = latent_of(symbols, mean, full[0].gather(1, flat))
        decoded = decoded.scatter(2, flat[None], found[None])
    return decoded.unflatten(2, (h, w))


def estimate_hyper(tables: HyperTables, qp: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
    """Training: hyper-latents rounded straight through, (B, Z, h, w), and their bits (B,)."""
    whole = hyper + (torch.round(hyper) - hyper).detach()
    return whole, tables.bits(whole, tables.row(qp)).sum((1, 2, 3))


def estimate_latent(
    prior: LatentPrior, tables: ScaleTables, expected: Expected, target: Tensor, step: Tensor, draws: ClipDraws
) -> tuple[Tensor, Tensor]:
    """Training: what `code_latent` gives, rounded straight through, and its bits (B,) with noise in rounding's place.

    target: the latent in steps (B, C, h, w). step: in sixteenths, broadcast. draws: where the noise comes from.
    """
    h, w = target.shape[2:]
    decoded = torch.zeros_like(target)
    bits = target.new_zeros(len(target))
    half = target.new_full((1,), 0.5)
    for number, flat in enumerate(four_steps(prior.channels, h, w, target.device)):
        indices, means = prior.scales_and_means(expected, number, as_activation(decoded))
        here = target.new_zeros(prior.channels, h * w).scatter(1, flat, 1.0).view(prior.channels, h, w)
        residual = target - means / STEP_UNITS
        # Only a quarter of the places counts: the rest would cost three times the work.
        counted, index = (_at(x, flat) for x in (residual, indices))
        noisy = counted + draws.draw(*flat.shape, device=target.device) - 0.5
        bits = bits + scale_bits(tables.family, noisy, index / INDEX_UNITS, half, half).sum((1, 2))
        symbols = residual + (torch.round(residual) - residual).detach()
        decoded = torch.where(here > 0, latent_of(symbols, means, step), decoded)
    assert number == SPATIAL_STEPS - 1
    return decoded, bits


def _at(x: Tensor, flat: Tensor) -> Tensor:
    return x.flatten(2).gather(2, flat.expand(len(x), -1, -1))


def _given(wanted: Wanted | None) -> Wanted:
    assert wanted is not None
    return wanted
