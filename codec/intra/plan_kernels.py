"""The encoder's choice of a block's split and modes: an estimate picks a few, and these are coded for trial."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from codec.bit_mixing import chance
from codec.intra.block_kernels import (
    CHROMA_TREE,
    FRACTION_BITS,
    FROM_LUMA,
    MODES,
    UNTOLD,
    describe_chroma,
    describe_quarter,
    describe_whole,
    from_luma_places,
    interleaved,
    neighbour_modes,
    predict_chroma,
    predict_quarter,
    predict_whole,
    rebuild,
    split_places,
    tree_places,
)
from codec.intra.choice_kernels import choose_symbols
from codec.intra.coefficient_kernels import SPLIT, TREE, first_set, second_set
from codec.intra.prediction_kernels import predict_mode
from codec.intra.transform_kernels import forward_block
from codec.rans import inner

_TRIED = 5  # modes that are coded for trial


@njit
def _mode_costs(mixer, tree, left, up, costs, found):  # type: ignore[no-untyped-def]
    """Bits of each of the modes, found (33,)."""
    spent = np.zeros(64)
    first, second = first_set(TREE, tree, 0), second_set(TREE, 1 if left == up else 0)
    extra = 0.0
    if tree == CHROMA_TREE:
        from_luma_places(mixer.places, left, up)
        through = chance(mixer, 2, first_set(TREE, 3, 0), second)
        found[FROM_LUMA] = costs[through >> 4]
        extra = costs[(65536 - through) >> 4]
    for node in range(1, 32):
        tree_places(mixer.places, tree, node, left, up)
        one = chance(mixer, 3, first, second)
        spent[2 * node] = spent[node] + costs[(65536 - one) >> 4]
        spent[2 * node + 1] = spent[node] + costs[one >> 4]
    for mode in range(MODES):
        found[mode] = spent[MODES + mode] + extra


@njit
def _residual(source, top, left, size, predicted, tools):  # type: ignore[no-untyped-def]
    block = tools.block
    for y in range(size):
        for x in range(size):
            block[y * size + x] = np.int64(source[top + y, left + x] - predicted[y * size + x]) << FRACTION_BITS
    forward_block(block, size, tools.tables)


@njit
def _estimate(source, top, left, size, predicted, tools):  # type: ignore[no-untyped-def]
    """About what the residual costs, rate and distortion, from its Hadamard transform."""
    a = np.empty(64, np.int32)
    for y in range(size):
        for x in range(size):
            a[y * size + x] = source[top + y, left + x] - predicted[y * size + x]
    width, count = 1, size * size
    while width < count:
        for start in range(0, count, 2 * width):
            for i in range(start, start + width):
                one, other = a[i], a[i + width]
                a[i], a[i + width] = one + other, one - other
        width *= 2
    total = 0.0
    scale = 16.0 * (1 << FRACTION_BITS) / (tools.step[0] * size)
    for i in range(count):
        total += tools.prices[min(int(abs(a[i]) * scale), 4095)]
    return total


@inner
def _cheapest(estimates, count, chosen):  # type: ignore[no-untyped-def]
    """The first _TRIED of count estimates, cheapest first, into chosen."""
    for place in range(_TRIED):
        best = -1
        for mode in range(count):
            taken = False
            for before in range(place):
                taken = taken or chosen[before] == mode
            if not taken and (best < 0 or estimates[mode] < estimates[best]):
                best = mode
        chosen[place] = best


@inner
def _choose(mixer, tools, scan):  # type: ignore[no-untyped-def]
    return choose_symbols(
        mixer, tools.unit, tools.scans[scan], tools.scans[scan + 1], tools.block, tools.step[0], tools.costs,
        tools.found,
    )  # fmt: skip


@njit
def plan_luma(source, out, mixer, store, tools, by, bx):  # type: ignore[no-untyped-def]
    """Choose a luma block's split, modes and symbols; they are left in the store. Samples of out are scribbled on."""
    mode: Any
    luma, modes, band = store.luma, store.modes, tools.band
    predictions, bits, estimates = np.empty((MODES, 64), np.int64), np.empty(33), np.empty(33)
    chosen, best = np.empty(_TRIED, np.int64), np.zeros(64, np.int64)
    busy = split_places(mixer.places, store, by, bx, band)
    split_chance = chance(mixer, 3, first_set(SPLIT, 0, 0), second_set(SPLIT, busy))

    y, x = 8 * by, 8 * bx
    mean = predict_whole(out, by, bx, tools)
    left, up = neighbour_modes(store, 0, by, bx, 0)
    _mode_costs(mixer, 0, left, up, tools.costs, bits)
    for mode in range(MODES):
        predict_mode(tools.wide_modes[mode], tools.context, mean, 46, predictions[mode])
        estimates[mode] = bits[mode] + _estimate(source, y, x, 8, predictions[mode], tools)
    _cheapest(estimates, MODES, chosen)
    whole, whole_mode = 1e30, np.int64(0)
    for mode in chosen:
        _residual(source, y, x, 8, predictions[mode], tools)
        describe_whole(tools.unit, store, by, bx, mode, band)
        cost = bits[mode] + _choose(mixer, tools, 0)
        if cost < whole:
            whole, whole_mode = cost, mode
            best[:] = tools.found
    whole += tools.costs[(65536 - split_chance) >> 4]

    total = tools.costs[split_chance >> 4]
    symbols = np.zeros(16, np.int64)
    for sub in range(4):
        i, j = sub >> 1, sub & 1
        mean = predict_quarter(out, by, bx, sub, tools)
        left, up = neighbour_modes(store, 1, by, bx, sub)
        _mode_costs(mixer, 1, left, up, tools.costs, bits)
        for mode in range(MODES):
            predict_mode(tools.small_modes[mode], tools.context, mean, 21, predictions[mode])
            estimates[mode] = bits[mode] + _estimate(source, y + 4 * i, x + 4 * j, 4, predictions[mode], tools)
        _cheapest(estimates, MODES, chosen)
        cheapest, kept = 1e30, np.int64(0)
        for mode in chosen:
            _residual(source, y + 4 * i, x + 4 * j, 4, predictions[mode], tools)
            describe_quarter(tools.unit, store, by, bx, sub, mode, band)
            cost = bits[mode] + _choose(mixer, tools, 2)
            if cost < cheapest:
                cheapest, kept = cost, mode
                symbols[:] = tools.found[:16]
        total += cheapest
        if total >= whole:
            break
        modes[2 * by + i, 2 * bx + j] = kept
        rebuild(out, y + 4 * i, x + 4 * j, 4, predictions[kept], symbols, tools)
        for k in range(16):
            luma[by, bx, interleaved(k, i, j)] = symbols[k]
        store.ends[0, 2 * by + i, 2 * bx + j] = UNTOLD
    store.splits[by, bx] = 1 if total < whole else 0
    if total >= whole:
        for k in range(64):
            luma[by, bx, k] = best[k]
        modes[2 * by : 2 * by + 2, 2 * bx : 2 * bx + 2] = whole_mode


@njit
def plan_chroma(source, out, mixer, store, tools, by, bx):  # type: ignore[no-untyped-def]
    """The same for a block's U and V, which share a mode. Luma's samples must be those that the decoder has."""
    mode: Any
    chroma = store.chroma
    predictions, bits, estimates = np.empty((MODES + 1, 2, 16), np.int64), np.empty(33), np.empty(33)
    chosen, best = np.empty(_TRIED, np.int64), np.zeros((2, 16), np.int64)
    left, own = neighbour_modes(store, CHROMA_TREE, by, bx, 0)
    _mode_costs(mixer, CHROMA_TREE, left, own, tools.costs, bits)
    for mode in range(MODES + 1):
        estimates[mode] = bits[mode]
        for plane in range(2):
            predicted = predictions[mode, plane]
            predict_chroma(out, plane, by, bx, mode, tools, predicted)
            estimates[mode] += _estimate(source[1 + plane], 4 * by, 4 * bx, 4, predicted, tools)
    _cheapest(estimates, MODES + 1, chosen)
    cheapest = 1e30
    for mode in chosen:
        cost = bits[mode]
        for plane in range(2):
            _residual(source[1 + plane], 4 * by, 4 * bx, 4, predictions[mode, plane], tools)
            describe_chroma(tools.unit, store, by, bx, plane, mode, tools.band)
            cost += _choose(mixer, tools, 2)
            for k in range(16):
                chroma[plane, by, bx, k] = tools.found[k]
        if cost < cheapest:
            cheapest = cost
            store.chroma_modes[by, bx] = mode
            for k in range(16):
                best[0, k], best[1, k] = chroma[0, by, bx, k], chroma[1, by, bx, k]
    for k in range(16):
        chroma[0, by, bx, k], chroma[1, by, bx, k] = best[0, k], best[1, k]
