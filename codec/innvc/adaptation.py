"""What a stream may say about the model itself: small changes to the biases of its exact layers, for one video.

Biases of the prior network and the field's decoder steer how wide distributions are, how far means lean, and what the
recurrent state remembers. A few hundred bytes with the intra frame move a model towards one video; `fit` finds them.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy_coding import SymbolDecoder, SymbolEncoder
from codec.exact.layers import ExactConv2d

if TYPE_CHECKING:
    from codec.distributions import ScaleTables
    from codec.innvc.model import InnVC

LARGEST_CHANGE = 31
_SCALES = 32  # of 64: a table for the changes is chosen among these


def adaptable_layers(codec: InnVC) -> list[ExactConv2d]:
    """The layers whose biases a stream may change, in the order in which it does."""
    parts = (codec.prior, codec.field_decoder)
    return [m for part in parts for m in part.modules() if isinstance(m, ExactConv2d) and m.bias is not None]


def adapted(codec: InnVC, changes: NDArray[np.int32]) -> InnVC:
    """A copy of the codec with its biases changed: (n,) whole numbers for all adaptable layers in turn."""
    made = copy.deepcopy(codec)
    set_changes(made, torch.from_numpy(changes.astype(np.float32)))
    return made


def set_changes(codec: InnVC, changes: Tensor) -> None:
    """Give each layer its part of the changes (n,), float32."""
    layers = adaptable_layers(codec)
    sizes = [layer.weight.shape[0] for layer in layers]
    for layer, part in zip(layers, changes.split(sizes), strict=True):
        layer.change = part.to(layer.weight.device)


def changes_of(codec: InnVC) -> NDArray[np.int32] | None:
    """What the layers' biases are changed by, (n,) whole numbers; None where nothing is."""
    parts = [layer.change for layer in adaptable_layers(codec)]
    if not any(part is not None and bool(part.any()) for part in parts):
        return None
    found = torch.cat([part.detach() for part in parts if part is not None])
    return found.round().cpu().numpy().astype(np.int32)


def change_count(codec: InnVC) -> int:
    return sum(layer.weight.shape[0] for layer in adaptable_layers(codec))


def send_changes(coder: SymbolEncoder, changes: NDArray[np.int32] | None, tables: ScaleTables) -> None:
    """Code the changes, or that there are none, with the table that takes the fewest bits."""
    coder.encode_uniform(0 if changes is None else 1, 2)
    if changes is None:
        return
    best = min(range(1, _SCALES), key=lambda index: _bits(changes, index, tables))
    coder.encode_uniform(best, _SCALES)
    coder.encode(changes, _numbers(len(changes), best, tables), tables.tables())


def receive_changes(coder: SymbolDecoder, count: int, tables: ScaleTables) -> NDArray[np.int32] | None:
    """The changes (count,), or None where the stream has none."""
    if not coder.decode_uniform(2):
        return None
    index = max(coder.decode_uniform(_SCALES), 1)
    changes = coder.decode(_numbers(count, index, tables), tables.tables())
    return np.clip(changes, -LARGEST_CHANGE, LARGEST_CHANGE)


def _numbers(count: int, index: int, tables: ScaleTables) -> NDArray[np.int64]:
    return np.full(count, int(tables.number(np.array(index), 0)), np.int64)


def _bits(changes: NDArray[np.int32], index: int, tables: ScaleTables) -> float:
    trial = SymbolEncoder()
    trial.encode(changes, _numbers(len(changes), index, tables), tables.tables())
    return trial.estimated_bits
