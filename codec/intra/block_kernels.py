"""An intra frame's blocks, both ways: what surrounds them, split, modes, symbols, and the samples they make."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from codec.bit_mixing import mixed_bit
from codec.intra.coefficient_kernels import (
    BAND,
    CHROMA,
    END_LEFT,
    END_UP,
    LUMA,
    MODE,
    MODE0,
    QUARTER,
    SIZE,
    SPLIT,
    TREE,
    TYPE,
    Unit,
    code_symbols,
    first_set,
    level,
    second_set,
)
from codec.intra.prediction_kernels import fill_context, predict_from_luma, predict_mode
from codec.intra.transform_kernels import inverse_block
from codec.rans import inner

FRACTION_BITS = 4  # of the transform's whole numbers
MODES = 32  # learned ones, of each size
FROM_LUMA = 32  # chroma's further mode
NONE = 33  # in the place of a mode beyond the picture
UNTOLD = 15  # diagonal of an end that was not told, or beyond the picture
TREES = 32 * 34 * 2 + 32 * 34 * 34  # contexts of one mode tree
SPLIT0 = MODE0 + 3 * TREES
CHROMA_TREE = 2


class Store(NamedTuple):
    """A frame as far as it is coded, in blocks of 8x8 luma samples.

    luma: (h, w, 64) int32 symbols, those of quarters interleaved: quarter (i, j)'s frequency (v, u) stands at
    (2v + i, 2u + j). chroma: (2, h, w, 16) int32. ends: (3, 2h, 2w) int64 diagonals where the blocks of Y, U, V end.
    modes: (2h, 2w) int64 of luma's quarters. chroma_modes, splits: (h, w) int64.
    """

    luma: Any
    chroma: Any
    ends: Any
    modes: Any
    chroma_modes: Any
    splits: Any


class Tools(NamedTuple):
    """What does not change within a plane, and room to work in; see `codec.intra.coding`. step: (1,), the block's."""

    scans: Any
    wide_modes: Any
    small_modes: Any
    tables: Any
    costs: Any
    prices: Any
    step: Any
    band: Any
    context: Any
    block: Any
    found: Any
    predicted: Any
    unit: Any


@inner
def tree_places(places, tree, node, left, up):  # type: ignore[no-untyped-def]
    """Contexts of one bit of a mode: at a node 1..31 of its tree, with the modes of two neighbours."""
    start = MODE0 + tree * TREES
    places[0] = start + node * 34 + left
    places[1] = start + 32 * 34 + node * 34 + up
    places[2] = start + 2 * 32 * 34 + (node * 34 + left) * 34 + up


@inner
def from_luma_places(places, left, up):  # type: ignore[no-untyped-def]
    places[0] = SPLIT0 + 2048 + (left == FROM_LUMA) * 2 + (up == FROM_LUMA)
    places[1] = SPLIT0 + 2056 + left * 34 + up


@inner
def split_places(places, store, by, bx, band):  # type: ignore[no-untyped-def]
    """Contexts of whether a block is split; gives how busy the blocks around are."""
    luma, splits = store.luma, store.splits
    near = np.int64(splits[by, bx - 1] if bx else 2) * 3 + (splits[by - 1, bx] if by else 2)
    busy = np.int64(0)
    for k in range(1, 64):
        busy += (abs(luma[by, bx - 1, k]) if bx else 0) + (abs(luma[by - 1, bx, k]) if by else 0)
    places[0] = SPLIT0 + near * 8 + band
    places[1] = SPLIT0 + 128 + near * 16 + level(busy)
    places[2] = SPLIT0 + 512 + band * 16 + level(busy)
    return level(busy)


@inner
def neighbour_modes(store, tree, by, bx, sub):  # type: ignore[no-untyped-def]
    """The two modes that a mode's bits hang on: left and upper block's; for chroma left one's and own luma's."""
    modes = store.modes
    if tree == CHROMA_TREE:
        return np.int64(store.chroma_modes[by, bx - 1]) if bx else np.int64(NONE), np.int64(modes[2 * by, 2 * bx])
    y4, x4 = 2 * by + (sub >> 1), 2 * bx + (sub & 1)
    left = np.int64(modes[y4, x4 - 1]) if x4 else np.int64(NONE)
    up = np.int64(modes[y4 - 1, x4]) if y4 else np.int64(NONE)
    return left, up


@inner
def _code_mode(coder, mixer, tree, left, up, wanted):  # type: ignore[no-untyped-def]
    places = mixer.places
    first, second = first_set(TREE, tree, 0), second_set(TREE, 1 if left == up else 0)
    if tree == CHROMA_TREE:
        from_luma_places(places, left, up)
        if mixed_bit(coder, mixer, 2, first_set(TREE, 3, 0), second, np.int64(wanted == FROM_LUMA)):
            return np.int64(FROM_LUMA)
    node = np.int64(1)
    for bit in range(4, -1, -1):
        tree_places(places, tree, node, left, up)
        node = 2 * node + mixed_bit(coder, mixer, 3, first, second, wanted >> bit & 1)
    return node - MODES


@inner
def _at(luma, y4, x4, k):  # type: ignore[no-untyped-def]
    """Symbol of frequency k of a quarter, on the grid of quarters; zero beyond the picture and where none is yet."""
    if y4 < 0 or x4 < 0 or x4 >= 2 * luma.shape[1]:
        return np.int64(0)
    return np.int64(luma[y4 >> 1, x4 >> 1, interleaved(k, y4 & 1, x4 & 1)])


@inner
def interleaved(k, i, j):  # type: ignore[no-untyped-def]
    """Where frequency k of quarter (i, j) stands among the block's 64."""
    return (2 * (k >> 2) + i) * 8 + 2 * (k & 3) + j


@inner
def _begin(unit, type_, size, mode, band, end_left, end_up):  # type: ignore[no-untyped-def]
    kinds = unit.kinds
    kinds[TYPE], kinds[SIZE], kinds[MODE], kinds[BAND] = type_, size, mode, band
    kinds[END_LEFT], kinds[END_UP] = end_left, end_up
    unit.rest[:] = 0


@inner
def _sum_rest(unit):  # type: ignore[no-untyped-def]
    for diagonal in range(14, -1, -1):
        unit.rest[diagonal] += unit.rest[diagonal + 1]


@inner
def _describe(unit, map_, by, bx, k, size):  # type: ignore[no-untyped-def]
    """Neighbours of frequency k in a map of blocks (h, w, size²): left, upper, and all summed up."""
    left = np.int64(map_[by, bx - 1, k]) if bx else np.int64(0)
    up = np.int64(map_[by - 1, bx, k]) if by else np.int64(0)
    total = 2 * abs(left) + 2 * abs(up)
    if bx and by:
        total += abs(map_[by - 1, bx - 1, k])
    if by and bx + 1 < map_.shape[1]:
        total += abs(map_[by - 1, bx + 1, k])
    unit.near[k, 0], unit.near[k, 1], unit.near[k, 2] = total, abs(left), abs(up)
    unit.rest[k // size + k % size] += abs(left) + abs(up)
    return left, up


@inner
def describe_whole(unit, store, by, bx, mode, band):  # type: ignore[no-untyped-def]
    """Fill unit for an 8x8 luma block."""
    luma, ends, splits = store.luma, store.ends, store.splits
    end_left = ends[0, 2 * by, 2 * bx - 1] if bx else UNTOLD
    _begin(unit, LUMA, 8, mode, band, end_left, ends[0, 2 * by - 1, 2 * bx] if by else UNTOLD)
    for k in range(64):
        left, up = _describe(unit, luma, by, bx, k, 8)
        higher = np.int64(0)
        if k & 7 < 7:
            higher += (abs(luma[by, bx - 1, k + 1]) if bx else 0) + (abs(luma[by - 1, bx, k + 1]) if by else 0)
        if k < 56:
            higher += (abs(luma[by, bx - 1, k + 8]) if bx else 0) + (abs(luma[by - 1, bx, k + 8]) if by else 0)
        unit.near[k, 3] = higher
        # A quarter's signs say nothing about a whole block's.
        unit.signs[k, 0] = np.sign(left) if bx and not splits[by, bx - 1] else 0
        unit.signs[k, 1] = np.sign(up) if by and not splits[by - 1, bx] else 0
        unit.signs[k, 2] = 0
    _sum_rest(unit)


@inner
def describe_quarter(unit, store, by, bx, sub, mode, band):  # type: ignore[no-untyped-def]
    """Fill unit for a 4x4 luma block."""
    luma, ends = store.luma, store.ends
    y4, x4 = 2 * by + (sub >> 1), 2 * bx + (sub & 1)
    end_left = ends[0, y4, x4 - 1] if x4 else UNTOLD
    _begin(unit, QUARTER, 4, mode, band, end_left, ends[0, y4 - 1, x4] if y4 else UNTOLD)
    for k in range(16):
        left, up = _at(luma, y4, x4 - 1, k), _at(luma, y4 - 1, x4, k)
        # The upper right one of the last quarter is not decoded, and zero.
        corners = abs(_at(luma, y4 - 1, x4 - 1, k)) + abs(_at(luma, y4 - 1, x4 + 1, k))
        higher = np.int64(0)
        if k & 3 < 3:
            higher += abs(_at(luma, y4, x4 - 1, k + 1)) + abs(_at(luma, y4 - 1, x4, k + 1))
        if k < 12:
            higher += abs(_at(luma, y4, x4 - 1, k + 4)) + abs(_at(luma, y4 - 1, x4, k + 4))
        unit.near[k, 0], unit.near[k, 1], unit.near[k, 2] = 2 * abs(left) + 2 * abs(up) + corners, abs(left), abs(up)
        unit.near[k, 3] = higher
        unit.signs[k, 0], unit.signs[k, 1], unit.signs[k, 2] = np.sign(left), np.sign(up), 0
        unit.rest[(k >> 2) + (k & 3)] += abs(left) + abs(up)
    _sum_rest(unit)


@inner
def describe_chroma(unit, store, by, bx, plane, mode, band):  # type: ignore[no-untyped-def]
    """Fill unit for a 4x4 block of U (plane 0) or V."""
    own, ends = store.chroma[plane], store.ends
    end_left = ends[1 + plane, by, bx - 1] if bx else UNTOLD
    _begin(unit, CHROMA + plane, 4, mode, band, end_left, ends[1 + plane, by - 1, bx] if by else UNTOLD)
    for k in range(16):
        left, up = _describe(unit, own, by, bx, k, 4)
        luma = np.int64(store.luma[by, bx, (k >> 2) * 8 + (k & 3)])
        if plane:
            other = np.int64(store.chroma[0, by, bx, k])
            unit.near[k, 3] = 3 * abs(other) + abs(luma)
            unit.signs[k, 2] = np.sign(other)
        else:
            unit.near[k, 3] = 2 * abs(luma)
            unit.signs[k, 2] = np.sign(luma)
        unit.signs[k, 0], unit.signs[k, 1] = np.sign(left), np.sign(up)
    _sum_rest(unit)


@njit
def rebuild(out, top, left, size, predicted, symbols, tools):  # type: ignore[no-untyped-def]
    """Samples of one block from its prediction and symbols."""
    block = tools.block
    live = False
    for k in range(size * size):
        block[k] = symbols[k] * tools.step[0]
        live = live or symbols[k] != 0
    if live:
        inverse_block(block, size, tools.tables)
    for y in range(size):
        for x in range(size):
            value = predicted[y * size + x] + ((block[y * size + x] + 8) >> FRACTION_BITS)
            out[top + y, left + x] = min(max(value, 0), 255)


@inner
def predict_whole(out, by, bx, tools):  # type: ignore[no-untyped-def]
    """Fill the context of an 8x8 luma block; gives its mean."""
    return fill_context(out, 8 * by, 8 * bx, 8, 8 * bx + 8 < out.shape[1], tools.context)


@inner
def predict_quarter(out, by, bx, sub, tools):  # type: ignore[no-untyped-def]
    """Fill the context of a 4x4 luma block; gives its mean."""
    known = sub == 0 or sub == 2 or (sub == 1 and 8 * bx + 8 < out.shape[1])
    return fill_context(out, 8 * by + 4 * (sub >> 1), 8 * bx + 4 * (sub & 1), 4, known, tools.context)


@inner
def predict_chroma(out, plane, by, bx, mode, tools, predicted):  # type: ignore[no-untyped-def]
    own = out[1 + plane]
    if mode == FROM_LUMA:
        predict_from_luma(out[0], own, 4 * by, 4 * bx, predicted)
        return
    mean = fill_context(own, 4 * by, 4 * bx, 4, 4 * bx + 4 < own.shape[1], tools.context)
    predict_mode(tools.small_modes[mode], tools.context, mean, 21, predicted)


@njit
def code_luma(out, coder, mixer, store, tools, by, bx):  # type: ignore[no-untyped-def]
    """Code what the store has for a luma block, or find it; rebuild its samples."""
    luma, ends, modes = store.luma, store.ends, store.modes
    unit, found, predicted, band = tools.unit, tools.found, tools.predicted, tools.band
    busy = split_places(mixer.places, store, by, bx, band)
    first, second = first_set(SPLIT, 0, 0), second_set(SPLIT, busy)
    split = mixed_bit(coder, mixer, 3, first, second, np.int64(store.splits[by, bx]))
    planned = luma[by, bx].copy()
    luma[by, bx] = 0
    store.splits[by, bx] = split
    if not split:
        left, up = neighbour_modes(store, 0, by, bx, 0)
        mode = _code_mode(coder, mixer, 0, left, up, np.int64(modes[2 * by, 2 * bx]))
        modes[2 * by : 2 * by + 2, 2 * bx : 2 * bx + 2] = mode
        mean = predict_whole(out, by, bx, tools)
        predict_mode(tools.wide_modes[mode], tools.context, mean, 46, predicted)
        describe_whole(unit, store, by, bx, mode, band)
        for k in range(64):
            found[k] = planned[k]
        end = code_symbols(coder, mixer, unit, tools.scans[0], tools.scans[1], found)
        ends[0, 2 * by : 2 * by + 2, 2 * bx : 2 * bx + 2] = end
        for k in range(64):
            luma[by, bx, k] = found[k]
        rebuild(out, 8 * by, 8 * bx, 8, predicted, found, tools)
        return
    for sub in range(4):
        i, j = sub >> 1, sub & 1
        left, up = neighbour_modes(store, 1, by, bx, sub)
        mode = _code_mode(coder, mixer, 1, left, up, np.int64(modes[2 * by + i, 2 * bx + j]))
        modes[2 * by + i, 2 * bx + j] = mode
        mean = predict_quarter(out, by, bx, sub, tools)
        predict_mode(tools.small_modes[mode], tools.context, mean, 21, predicted)
        describe_quarter(unit, store, by, bx, sub, mode, band)
        for k in range(16):
            found[k] = planned[interleaved(k, i, j)]
        ends[0, 2 * by + i, 2 * bx + j] = code_symbols(coder, mixer, unit, tools.scans[2], tools.scans[3], found)
        for k in range(16):
            luma[by, bx, interleaved(k, i, j)] = found[k]
        rebuild(out, 8 * by + 4 * i, 8 * bx + 4 * j, 4, predicted, found, tools)


@njit
def code_chroma(out, coder, mixer, store, tools, by, bx):  # type: ignore[no-untyped-def]
    """Code what the store has for a block's U and V, or find it; rebuild their samples."""
    unit, found, predicted = tools.unit, tools.found, tools.predicted
    left, own = neighbour_modes(store, CHROMA_TREE, by, bx, 0)
    mode = _code_mode(coder, mixer, CHROMA_TREE, left, own, np.int64(store.chroma_modes[by, bx]))
    store.chroma_modes[by, bx] = mode
    for plane in range(2):
        predict_chroma(out, plane, by, bx, mode, tools, predicted)
        for k in range(16):
            found[k] = store.chroma[plane, by, bx, k]
        describe_chroma(unit, store, by, bx, plane, mode, tools.band)
        end = code_symbols(coder, mixer, unit, tools.scans[2], tools.scans[3], found)
        store.ends[1 + plane, by, bx] = end
        for k in range(16):
            store.chroma[plane, by, bx, k] = found[k]
        rebuild(out[1 + plane], 4 * by, 4 * bx, 4, predicted, found, tools)


@njit
def new_unit():  # type: ignore[no-untyped-def]
    return Unit(np.zeros(6, np.int64), np.zeros((64, 4), np.int64), np.zeros((64, 3), np.int64), np.zeros(16, np.int64))
