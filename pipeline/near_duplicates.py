"""Near-duplicate clips of a whole store, by their perceptual hashes.

A clip goes where another source has one that looks the same: held-out clips stay before training ones, so that nothing
close to them is trained on, then the source with the smaller checksum. What goes follows from the store's clips alone,
not from the order they came in. Clips of one source are not compared: neighbours in a calm shot look alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.curation import NEAR_DUPLICATE

MOST_DIFFERENT_BITS = 7  # of 128
_BANDS = MOST_DIFFERENT_BITS + 1  # two hashes that differ by no more agree in at least one band


def near_duplicates(clips: pa.Table) -> NDArray[np.bool_]:
    """Which clips are to go. clips: columns phash, source_checksum, first_frame, split; clips without a hash stay."""
    gone = np.zeros(clips.num_rows, bool)
    hashed = np.flatnonzero(pc.fill_null(pc.equal(pc.utf8_length(clips["phash"]), 32), False).to_numpy())
    if len(hashed) == 0:
        return gone
    clips = clips.take(hashed)
    digits = "".join(clips["phash"].to_pylist())
    hashes, group = np.unique(
        np.frombuffer(bytes.fromhex(digits), np.uint16).reshape(-1, 8), axis=0, return_inverse=True
    )
    group = group.reshape(-1)
    sources = pc.rank(clips["source_checksum"], tiebreaker="dense").to_numpy()
    training = pc.equal(clips["split"], "train").to_numpy(zero_copy_only=False)
    order = np.lexsort((clips["first_frame"].to_numpy(), sources, training))
    close: dict[int, list[int]] = defaultdict(list)
    for first, second in _close_pairs(hashes):
        close[first].append(second)
        close[second].append(first)
    # Of the sources kept with a hash, two different ones are enough to know whether there is one of another source.
    kept: dict[int, set[int]] = defaultdict(set)
    alone = np.bincount(group) == 1
    for place in order:
        own = int(group[place])
        if alone[own] and own not in close:
            continue
        source = int(sources[place])
        if any(kept[other] - {source} for other in (own, *close.get(own, ()))):
            gone[hashed[place]] = True
        elif len(kept[own]) < 2:
            kept[own].add(source)
    return gone


def mark(clips: pa.Table) -> tuple[pa.Table, set[str]]:
    """The table with `dropped` as it ought to be, and the checksums of sources where it changed. clips: whole rows."""
    others = pc.fill_null(clips["dropped"], "")
    judged = pc.or_(pc.equal(others, ""), pc.equal(others, NEAR_DUPLICATE)).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(judged)
    gone = np.zeros(clips.num_rows, bool)
    gone[places] = near_duplicates(clips.take(places))
    wanted = pc.if_else(pa.array(gone), NEAR_DUPLICATE, pc.if_else(pa.array(judged), "", others))
    changed = clips.filter(pc.not_equal(wanted, others))["source_checksum"].unique().to_pylist()
    return clips.set_column(clips.schema.get_field_index("dropped"), "dropped", wanted), set(changed)


def _close_pairs(hashes: NDArray[np.uint16]) -> Iterable[tuple[int, int]]:
    """Pairs of different rows (N, 8) of which at most MOST_DIFFERENT_BITS differ, each once."""
    wide = hashes.view(np.uint64)
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        order = np.argsort(hashes[:, band], kind="stable")
        values, rows = hashes[order, band], wide[order]
        alive, step = np.arange(len(order)), 0
        while len(alive):
            step += 1
            alive = alive[alive + step < len(order)]
            alive = alive[values[alive] == values[alive + step]]
            distance = np.bitwise_count(rows[alive] ^ rows[alive + step]).sum(axis=1)
            for place in alive[distance <= MOST_DIFFERENT_BITS]:
                first, second = int(order[place]), int(order[place + step])
                pairs.add((min(first, second), max(first, second)))
    return pairs
