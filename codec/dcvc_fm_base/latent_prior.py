"""What decides the probabilities of a latent: hyper-decoder, prior fusion, four-step spatial prior. All exact.

    hyper-latent ── two steps up, block ─┬─ prior fusion ── steps, scales, means ─┬─ of the first step
    temporal prior, previous latents ────┘                                        │
    latent decoded so far ─────────────────────────────── adaptor of the step ────┴─ blocks ── scales, means of the step

Heads say activations a within ±127: a step is 1 + a/16, at least 1/2; a scale index 24 + a/2; a mean a + a·|a|/16 in
sixteenths of a step, rounded down in magnitude: fine near zero, and up to 70 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codec.dcvc_fm_base.exact_blocks import ExactBlockA, ExactUp, WideExactConv, exact_chain
from codec.exact.operations import LIMIT
from codec.inter.context import STEP_UNITS, log_magnitude
from codec.inter.scale_index import HEAD_UNITS, INDEX_UNITS

SPATIAL_STEPS = 4
_FIRST_INDEX = 24  # of scales before training: 1.5 steps
_LEAST_STEP = STEP_UNITS // 2
_MEAN_BEND = 16
_HYPER_UNIT = 8  # one hyper-latent step as an activation
_LARGEST_LATENT = 1 << 17  # in sixteenths; whatever a stream claims, products stay below 2^53 and floats finite
_OCTAVE = 12  # of `codec.inter.context.log_magnitude`


@dataclass(frozen=True)
class Expected:
    """Before a latent's first symbol, whole float32: maps (B, maps, h, w), steps or scalings in sixteenths; params
    (B, maps + 2C, h, w), the fusion's outputs as they are, maps first."""

    maps: Tensor
    params: Tensor


class LatentPrior(nn.Module):
    """For a latent of C channels. maps: how many of the fusion's outputs are steps rather than scales and means.

    fused: channels of everything that the fusion sees, hyper-decoder's outputs included; at least those.
    """

    def __init__(
        self, channels: int, hyper: int, hyper_out: int, fused: int, width: int, maps: int, blocks: int
    ) -> None:
        super().__init__()
        self.channels, self.maps = channels, maps
        self.hyper = nn.Sequential(ExactUp(hyper, hyper), ExactUp(hyper, hyper), ExactBlockA(hyper, hyper_out))
        self.fusion = exact_chain([fused, *[width] * blocks, maps + 2 * channels], quiet=True)
        self.adaptors = nn.ModuleList(WideExactConv(maps + 3 * channels, width) for _ in range(SPATIAL_STEPS - 1))
        self.spatial = exact_chain([width, width, width, 2 * channels], quiet=True)

    def hyper_features(self, z: Tensor) -> Tensor:
        """Hyper-latents (B, Z, h/4, w/4), whole, with or without gradient → (B, hyper_out, h, w)."""
        return torch.as_tensor(self.hyper((z * _HYPER_UNIT).clamp(-LIMIT, LIMIT)))

    def begin(self, seen: Tensor) -> Expected:
        """seen: whole activations (B, fused, h, w)."""
        params = self.fusion(seen)
        return Expected((params[:, : self.maps] + STEP_UNITS).clamp_min(_LEAST_STEP), params)

    def scales_and_means(self, expected: Expected, step: int, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """Of all places, for those of one of the four steps: scale indices and means in sixteenths, (B, C, h, w) each.

        decoded: activations of the latent so far (B, C, h, w), zero where it is not known; see `as_activation`.
        """
        if step:
            found = self.spatial(self.adaptors[step - 1](torch.cat([expected.params, decoded], dim=1)))
        else:
            found = expected.params[:, self.maps :]
        scales, means = found.chunk(2, dim=1)
        return scales * HEAD_UNITS + _FIRST_INDEX * INDEX_UNITS, bent(means)


def bent(a: Tensor) -> Tensor:
    """Activations as means in sixteenths of a step: a + a·|a|/16, whole, with the slope of that curve."""
    curve = a * a.abs() / _MEAN_BEND
    whole = torch.trunc(curve)  # a² is below 2^14: exact
    return a + (curve + (whole - curve).detach() if curve.requires_grad else whole)


def latent_of(symbols: Tensor, means: Tensor, step: Tensor) -> Tensor:
    """A decoded latent in sixteenths of its unit, whole: symbols (real-valued carriers of whole numbers where they have
    a gradient), means in sixteenths of a step, steps in sixteenths."""
    steps = (symbols * STEP_UNITS + means).clamp(-_LARGEST_LATENT, _LARGEST_LATENT)
    # Whole below 2^25 and a power of two: in doubles nothing is lost.
    exact = steps.detach().double() * step.detach().double() / STEP_UNITS
    whole = torch.floor(exact + 0.5).float()
    if not (steps.requires_grad or step.requires_grad):
        return whole
    curve = steps * step / STEP_UNITS
    return curve + (whole - curve).detach()


def as_activation(latent: Tensor) -> Tensor:
    """A latent in sixteenths (any whole float32) as activations: sign · 12·log2(1 + |latent| / 16), rounded.

    With the logarithm's slope where the latent has a gradient.
    """
    plain = torch.round(latent.detach())
    # `log_magnitude` counts sixteenths itself.
    whole = log_magnitude(plain / STEP_UNITS) * plain.sign()
    if not latent.requires_grad:
        return whole
    curve = latent.sign() * _OCTAVE * torch.log2(1 + latent.abs() / STEP_UNITS)
    return curve + (whole - curve).detach()
