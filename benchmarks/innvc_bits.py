"""Where the bits of an InnVC stream go: coefficients channel by channel, field, vectors; for `innvc_figures`.

The decoder is watched while it decodes the file, so what is counted is what was sent, not what the encoder tried.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.atomic_files import write_json_atomically
from codec.container import END
from codec.count_tables import COUNT_BITS, Tables, escape_order

CARRYING = 0.99  # of the coefficients' bits


@dataclass
class Bits:
    """Bits of some frames. channels: of the coefficients, by place in order of importance. other: what is left of the
    payload, which in P frames are the vectors."""

    frames: int = 0
    payload: float = 0.0
    field: float = 0.0
    channels: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def coefficients(self) -> float:
        return sum(self.channels.values())

    @property
    def other(self) -> float:
        return self.payload - self.field - self.coefficients

    def add(self, more: Bits) -> None:
        self.frames += more.frames
        self.payload += more.payload
        self.field += more.field
        for channel, bits in more.channels.items():
            self.channels[channel] = self.channels.get(channel, 0.0) + bits

    def carrying_channels(self, share: float = CARRYING) -> int:
        """The fewest channels that together have `share` of the coefficients' bits."""
        ordered = np.sort(np.array([0.0, *self.channels.values()]))[::-1]
        return int(np.searchsorted(np.cumsum(ordered), share * ordered.sum() - 1e-9)) + 1 if ordered.sum() else 0

    def to_json(self) -> dict[str, Any]:
        return {"frames": self.frames, "payload": self.payload, "field": self.field, "channels": self.channels}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Bits:
        return Bits(**{**data, "channels": {int(channel): bits for channel, bits in data["channels"].items()}})


def stream_bits(model: str, stream: Path, kept: Path, frames: int | None = None) -> dict[str, Bits]:
    """Bits of the I and of the P frames of a .brl file of the InnVC model in folder `model`, of its first `frames`.

    kept: a JSON file that the answer is found in again. Raises as decoding does.
    """
    key = hashlib.sha256(stream.read_bytes() + str(frames).encode()).hexdigest()
    if kept.is_file() and (stored := json.loads(kept.read_text()))["key"] == key:
        return {kind: Bits.from_json(bits) for kind, bits in stored["bits"].items()}
    import torch

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
            found["I" if kind == "I" else "P"].add(Bits(1, payload, watched.field, watched.channels))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(kept, {"key": key, "bits": {kind: bits.to_json() for kind, bits in found.items()}})
    return found


class _Watched:
    """What the decoder has taken since `clear`: symbols of coefficients by channel, and all others, the field's."""

    def __init__(self) -> None:
        self.places: Any = None  # which coefficients are being asked for
        self.clear()

    def clear(self) -> None:
        self.field = 0.0
        self.channels: dict[int, float] = {}

    def add(self, bits: NDArray[np.float64]) -> None:
        if self.places is None:
            self.field += float(bits.sum())
            return
        start, stop = self.places.start, self.places.stop
        for channel, part in zip(range(start, stop), bits.reshape(stop - start, -1).sum(1), strict=True):
            self.channels[channel] = self.channels.get(channel, 0.0) + float(part)


@contextmanager
def _watching() -> Iterator[_Watched]:
    """Have the decoder of this process tell what it takes."""
    from codec.entropy_coding import SymbolDecoder
    from codec.innvc.frame_coding import Decoding, Places

    watched = _Watched()
    exchange, decode, decode_uniform = Decoding.exchange, SymbolDecoder.decode, SymbolDecoder.decode_uniform

    def watched_exchange(self: Decoding, *given: Any, **named: Any) -> Any:
        watched.places = next(part for part in (*given, *named.values()) if isinstance(part, Places))
        try:
            return exchange(self, *given, **named)
        finally:
            watched.places = None

    def watched_decode(self: SymbolDecoder, numbers: NDArray[np.int64], tables: Tables) -> NDArray[np.int32]:
        symbols = decode(self, numbers, tables)
        watched.add(symbol_bits(symbols, numbers, tables))
        return symbols

    def watched_uniform(self: SymbolDecoder, size: int) -> int:
        watched.field += float(np.log2(size))
        return decode_uniform(self, size)

    Decoding.exchange = watched_exchange  # type: ignore[method-assign]
    SymbolDecoder.decode, SymbolDecoder.decode_uniform = watched_decode, watched_uniform  # type: ignore[method-assign]
    try:
        yield watched
    finally:
        Decoding.exchange = exchange  # type: ignore[method-assign]
        SymbolDecoder.decode, SymbolDecoder.decode_uniform = decode, decode_uniform  # type: ignore[method-assign]


def symbol_bits(symbols: NDArray[np.int32], numbers: NDArray[np.int64], tables: Tables) -> NDArray[np.float64]:
    """What the coder charges for each symbol (n,) with the tables of `numbers` (n,): see `codec.entropy_coding`."""
    coded = numbers > 0
    number, magnitude = numbers[coded], np.abs(symbols[coded].astype(np.int64))
    reach = tables.reaches[number]
    beyond = magnitude - reach - 1
    entry = np.where(beyond >= 0, 2 * reach + 1, 2 * magnitude - (symbols[coded] > 0))
    bits = COUNT_BITS - np.log2(tables.entries[tables.starts[number] + entry] >> COUNT_BITS)
    for place in np.flatnonzero(beyond >= 0):
        order = escape_order(int(reach[place]))
        bits[place] += 2 + order + 2 * (((int(beyond[place]) + (1 << order)).bit_length() - 1) - order)
    charged = np.zeros(len(numbers))
    charged[coded] = bits
    return charged
