"""Parameters and multiply-accumulates by part, counted while a frame passes through the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from codec.dcvc_fm_base.config import CELL
from codec.dcvc_fm_base.training_pass import inter_frame, intra_frame
from codec.exact.layers import ExactConv2d

if TYPE_CHECKING:
    from codec.dcvc_fm_base.model import DCVCFMBase

# Model, part, what modules' names begin with, whether a decoder runs it.
_PARTS = (
    ("intra", "encoder", ("intra.encoder_",), False),
    ("intra", "hyper-encoder", ("intra.hyper_encoder",), False),
    ("intra", "hyper-decoder (exact)", ("intra.prior.hyper", "intra.hyper_tables"), True),
    ("intra", "prior fusion (exact)", ("intra.prior.fusion",), True),
    ("intra", "spatial prior (exact)", ("intra.prior.adaptors", "intra.prior.spatial"), True),
    ("intra", "decoder", ("intra.decoder_",), True),
    ("intra", "U-Net, picture", ("intra.refine", "intra.picture"), True),
    ("inter", "motion estimation", ("inter.estimation",), False),
    ("inter", "motion encoder", ("inter.motion.encoder_", "inter.motion.hyper_encoder"), False),
    ("inter", "motion priors (exact)", ("inter.motion.prior", "inter.motion.hyper_tables"), True),
    ("inter", "motion decoder", ("inter.motion.decoder_", "inter.motion.flow"), True),
    ("inter", "adaptors, extractor",
     ("inter.contexts.adaptors", "inter.contexts.from_frame", "inter.contexts.extract_"), True),
    ("inter", "alignment", ("inter.contexts.alignment",), True),
    ("inter", "context fusion",
     ("inter.contexts.fuse_", "inter.contexts.quarter_to_half", "inter.contexts.half_to_full"), True),
    ("inter", "contextual encoder", ("inter.encoder",), False),
    ("inter", "hyper-encoder", ("inter.hyper_encoder",), False),
    ("inter", "hyper-decoder (exact)", ("inter.prior.hyper", "inter.hyper_tables"), True),
    ("inter", "temporal prior (exact)", ("inter.temporal_prior",), True),
    ("inter", "prior fusion (exact)", ("inter.prior.fusion",), True),
    ("inter", "spatial prior (exact)", ("inter.prior.adaptors", "inter.prior.spatial"), True),
    ("inter", "contextual decoder", ("inter.decoder",), True),
    ("inter", "reconstruction", ("inter.reconstruction",), True),
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """kmac: thousand multiply-accumulates of convolutions a luma pixel, in coding one frame. decodes: whether a decoder
    runs it."""

    model: str
    name: str
    parameters: int
    kmac: float
    decodes: bool


@torch.no_grad()
def measured_parts(codec: DCVCFMBase) -> list[Part]:
    """All parts of the model, the intra model's first; an inter frame is counted after another inter frame."""
    device = next(codec.parameters()).device
    frame, qp = torch.rand(1, 3, CELL, CELL, device=device, dtype=torch.float32), torch.tensor([32], device=device)
    with _counting(codec) as intra:
        _, memory, _ = intra_frame(codec, frame, qp)
    _, memory, _ = inter_frame(codec, frame, memory, qp, place=0, renews=True)
    with _counting(codec) as inter:
        inter_frame(codec, frame, memory, qp, place=0, renews=False)
    counted = {"intra": intra, "inter": inter}
    return [_part(codec, counted[model], model, name, begins, decodes) for model, name, begins, decodes in _PARTS]


def _part(
    codec: DCVCFMBase, counted: dict[str, int], model: str, name: str, begins: tuple[str, ...], decodes: bool
) -> Part:
    parameters = sum(p.numel() for key, p in codec.named_parameters() if _belongs(key, begins))
    macs = sum(n for key, n in counted.items() if _belongs(key, begins))
    return Part(model, name, parameters, macs / CELL**2 / 1000, decodes)


def _belongs(name: str, begins: tuple[str, ...]) -> bool:
    return any(name.startswith(b if b.endswith("_") else b + ".") or name == b for b in begins)


@contextmanager
def _counting(codec: nn.Module) -> Iterator[dict[str, int]]:
    """Multiply-accumulates by convolution while within."""
    counts: dict[str, int] = {}

    def hook(name: str, layer: Any) -> Any:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            counts[name] = counts.get(name, 0) + output.shape[2] * output.shape[3] * layer.weight.numel()

        return count

    layers = [(n, m) for n, m in codec.named_modules() if isinstance(m, nn.Conv2d | ExactConv2d)]
    handles = [layer.register_forward_hook(hook(name, layer)) for name, layer in layers]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
