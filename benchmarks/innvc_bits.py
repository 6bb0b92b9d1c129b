"""Where the bits of an InnVC stream go: coefficients channel by channel, vectors, field, gains; for `innvc_figures`.

The decoder is watched while it decodes the file, so what is counted is what was sent, not what the encoder tried.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.atomic_files import write_json_atomically
from codec.container import END
from codec.count_tables import Tables
from codec.entropy_coding import SymbolDecoder
from codec.inter.symbol_mixing import Half

CARRYING = 0.99  # of the coefficients' bits
# Part of a payload → what the decoder takes it with, in `codec.innvc.decoder`.
PAYLOAD_PARTS = {
    "vectors": "receive_motion",
    "field": "receive_field",
    "gains": "receive_gains",
    "filter": "receive_filter_changes",
    "intra": "decode_intra",
}


@dataclass
class Bits:
    """Bits of some frames. channels: of inter coefficients, by place in order of importance. parts: by name, of
    `PAYLOAD_PARTS`. other: what is left: the post filter's switches, and the last bits that round up to bytes."""

    frames: int = 0
    payload: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    channels: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def coefficients(self) -> float:
        return sum(self.channels.values())

    @property
    def other(self) -> float:
        return self.payload - sum(self.parts.values()) - self.coefficients

    def add(self, more: Bits) -> None:
        self.frames += more.frames
        self.payload += more.payload
        for mine, others in ((self.parts, more.parts), (self.channels, more.channels)):
            for name, bits in others.items():
                mine[name] = mine.get(name, 0.0) + bits  # type: ignore[index, attr-defined]

    def carrying_channels(self, share: float = CARRYING) -> int:
        """The fewest channels that together have `share` of the coefficients' bits."""
        ordered = np.sort(np.array([0.0, *self.channels.values()]))[::-1]
        return int(np.searchsorted(np.cumsum(ordered), share * ordered.sum() - 1e-9)) + 1 if ordered.sum() else 0

    def to_json(self) -> dict[str, Any]:
        return {"frames": self.frames, "payload": self.payload, "parts": self.parts, "channels": self.channels}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Bits:
        return Bits(**{**data, "channels": {int(channel): bits for channel, bits in data["channels"].items()}})


def stream_bits(model: str, stream: Path, kept: Path, frames: int | None = None) -> dict[str, Bits]:
    """Bits of the I and of the P frames of a .brl file of the InnVC model in folder `model`, of its first `frames`.

    kept: a JSON file that the answer is found in again. Raises as decoding does.
    """
    key = hashlib.sha256(stream.read_bytes() + f"{frames} {PAYLOAD_PARTS}".encode()).hexdigest()
    if kept.is_file() and (stored := json.loads(kept.read_text()))["key"] == key:
        return {kind: Bits.from_json(bits) for kind, bits in stored["bits"].items()}
    from codec.api import load_codec
    from codec.stream_reader import StreamReader

    torch.set_num_threads(1)
    codec = load_codec(model)
    with stream.open("rb") as source:
        packets = [(p.frame_type, 8 * len(p.payload)) for p in StreamReader(source).packets() if p.kind != END]
    found = {"I": Bits(), "P": Bits()}
    with stream.open("rb") as source, _watching() as watched:
        decoded = codec.decode(source, frames=frames)
        for kind, payload in packets[:frames]:
            watched.clear()
            next(decoded)
            found["I" if kind == "I" else "P"].add(Bits(1, payload, watched.parts, watched.channels))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(kept, {"key": key, "bits": {kind: bits.to_json() for kind, bits in found.items()}})
    return found


class _Watched:
    """What the decoder has taken since `clear`: inter coefficients' symbols by channel, and `PAYLOAD_PARTS`."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.parts: dict[str, float] = {}
        self.channels: dict[int, float] = {}


def _left(coder: SymbolDecoder) -> float:
    """Bits that are still to come: what the coder's state holds, and the words that it has not taken yet."""
    state, place = (int(part) for part in coder._state)
    return math.log2(max(state, 1)) + 16.0 * (len(coder._words) - place)


@contextmanager
def _watching() -> Iterator[_Watched]:
    """Have the decoder of this process tell what it takes."""
    from codec.innvc import decoder
    from codec.inter.symbol_mixing import SymbolMixing

    watched = _Watched()
    symbols, before_watching = SymbolMixing.decode, {name: getattr(decoder, name) for name in PAYLOAD_PARTS.values()}

    def watched_symbols(self: SymbolMixing, coder: SymbolDecoder, half: Half, tables: Tables) -> Tensor:
        # Symbols come channel by channel, so that one channel at a time is the same code.
        found = []
        for row in range(len(half.flat)):
            one = slice(row, row + 1)
            part = dataclasses.replace(
                half, start=half.start + row, flat=half.flat[one], index=half.index[one], numbers=half.numbers[one],
                means=half.means[one],
            )  # fmt: skip
            before = _left(coder)
            found.append(symbols(self, coder, part, tables))
            taken = before - _left(coder)
            watched.channels[part.start] = watched.channels.get(part.start, 0.0) + taken
        return torch.cat(found)

    def watching(part: str, receive: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            coder = next(one for one in given if isinstance(one, SymbolDecoder))
            before = _left(coder)
            found = receive(*given)
            watched.parts[part] = watched.parts.get(part, 0.0) + before - _left(coder)
            return found

        return run

    SymbolMixing.decode = watched_symbols  # type: ignore[method-assign]
    for part, name in PAYLOAD_PARTS.items():
        setattr(decoder, name, watching(part, before_watching[name]))
    try:
        yield watched
    finally:
        SymbolMixing.decode = symbols  # type: ignore[method-assign]
        for name, receive in before_watching.items():
            setattr(decoder, name, receive)
