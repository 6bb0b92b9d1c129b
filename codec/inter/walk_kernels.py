"""What a frame's walk does with whole maps, compiled by numba: the same numbers as the tensors of `context`,
`frame_coding` and `symbol_sources`, each in one pass.

Maps are (channels, places). Steps are (channels, places), or (channels, 1) where all places have the same.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64

from codec.rans import compiled, inner, read_only


@inner
def _floor_divide(x, y):  # type: ignore[no-untyped-def]
    # A quotient of doubles is rounded right, and never up to a whole number from so far below.
    return np.int64(np.floor(np.float64(x) / np.float64(y)))


@compiled(int32[:, :, ::1], int64[:, ::1], read_only(float32), float32[:, :, ::1])
def log_steps(values, steps, table, out):  # type: ignore[no-untyped-def]
    """out = table[16 · |values| / steps], see `context.log_steps`; values and out (m, channels, places)."""
    last = np.int64(len(table) - 1)
    for m in range(values.shape[0]):
        for c in range(values.shape[1]):
            row, into = values[m, c], out[m, c]
            for i in range(len(row)):
                step = steps[c, i if steps.shape[1] > 1 else 0]
                into[i] = table[min(_floor_divide(np.int64(abs(row[i])) * 16, step), last)]


@compiled(int32[:, :, ::1], int64[:, ::1], int64, float32[:, :, ::1])
def signed_units(values, steps, limit, out):  # type: ignore[no-untyped-def]
    """out = values / steps in sixteenths, rounded half up, within ±limit; values and out (m, channels, places)."""
    for m in range(values.shape[0]):
        for c in range(values.shape[1]):
            row, into = values[m, c], out[m, c]
            for i in range(len(row)):
                step = steps[c, i if steps.shape[1] > 1 else 0]
                found = _floor_divide(np.int64(row[i]) * 32 + step, 2 * step)
                into[i] = np.float32(min(max(found, -limit), limit))


@compiled(
    float32[:, ::1], float32[:, ::1], float32[:, :, ::1], float32[:, :, ::1], int64[:, ::1], int64[:, ::1]
)  # fmt: skip
def couple(known, gates, guesses, leanings, steps, out):  # type: ignore[no-untyped-def]
    """Means in the transform's units: what earlier groups say times a gate, and what guesses say times theirs.

    known, gates: (n, places), or empty where there is nothing to go by; guesses, leanings: (guesses, n, places), empty
    for an intra frame. See `prior.PriorNetwork.mean`.
    """
    for c in range(out.shape[0]):
        for i in range(out.shape[1]):
            total = np.int64(0)
            if len(known):
                gate = np.int64(min(max(gates[c, i], np.float32(0)), np.float32(64)))
                total = (np.int64(known[c, i]) * gate + 32) >> 6
            leaning = np.int64(0)
            for g in range(guesses.shape[0] if guesses.size else 0):
                leaning += np.int64(guesses[g, c, i]) * np.int64(leanings[g, c, i])
            total += (leaning + 32) >> 6
            out[c, i] = (total * steps[c, i if steps.shape[1] > 1 else 0] + 8) >> 4


@compiled(
    float32[:, ::1], int64, float32[:, ::1], int64[::1], int64[::1], int64, read_only(int64), int64[:, ::1],
    int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[:, ::1],
)  # fmt: skip
def look_up(heads, units, table, qps, trim, alive, number_of, means, flat, index, numbers, gathered):  # type: ignore[no-untyped-def]
    """Fill index, numbers, gathered (n, m) with the scale indices, their tables' numbers and the means of places flat.

    heads: (n, places), each worth `units` sixteenths of an index; table, qps, trim: see `walk_maps.QPBase`; channels
    from `alive` on have index 0; number_of: (64,).
    """
    for c in range(flat.shape[0]):
        for i in range(flat.shape[1]):
            at = flat[c, i]
            raw = np.int64(heads[c, at]) * units + np.int64(table[qps[at], c]) + trim[c]
            found = min(max((raw + 8) >> 4, 0), len(number_of) - 1) if c < alive else np.int64(0)
            index[c, i], numbers[c, i], gathered[c, i] = found, number_of[found], means[c, at]


@compiled(
    int32[:, ::1], int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[:, ::1], read_only(int32), read_only(int32),
    int32[:, ::1],
)  # fmt: skip
def quantize(target, steps, flat, means, index, dead_zones, roundings, symbols):  # type: ignore[no-untyped-def]
    """Fill symbols (n, m) for targets and steps at places flat, less means; see `ScaleTables.quantize`."""
    for c in range(flat.shape[0]):
        for i in range(flat.shape[1]):
            at, scale = flat[c, i], index[c, i]
            residual = np.int64(target[c, at]) - means[c, i]
            step = steps[c, at if steps.shape[1] > 1 else 0]
            symbols[c, i] = 0
            if scale > 0 and abs(residual) * 256 >= dead_zones[scale] * step:
                found = max(_floor_divide(abs(residual) * 256 + roundings[scale] * step, 256 * step), 1)
                symbols[c, i] = np.int32(found if residual > 0 else -found if residual < 0 else 0)


@compiled(
    int32[:, ::1], int64[:, ::1], int64[:, ::1], read_only(int64), int32[:, ::1], int64[:, ::1],
)  # fmt: skip
def take_in(found, numbers, flat, zeros, symbols, told):  # type: ignore[no-untyped-def]
    """Put symbols found (n, m) where they belong in symbols (n, places), and fill told (2, n) with what they say about
    their tables: see `frame_coding.surprise`."""
    for c in range(flat.shape[0]):
        excess, variance = np.int64(0), np.int64(0)
        for i in range(flat.shape[1]):
            symbol, number = found[c, i], numbers[c, i]
            symbols[c, flat[c, i]] = symbol
            likely = 65536 - zeros[number] if number > 0 else np.int64(0)
            excess += (np.int64(65536) if symbol else np.int64(0)) - likely
            variance += (likely * (65536 - likely)) >> 16
        told[0, c], told[1, c] = excess, variance


@compiled(int64[:, ::1], int32[:, ::1], read_only(int64), read_only(int64), int64[::1])
def count_magnitudes(numbers, symbols, starts, reaches, seen):  # type: ignore[no-untyped-def]
    """Add symbols (n, m) of tables `numbers` to `seen`; see `adaptive_tables`. Only the tables of `starts` learn."""
    for c in range(numbers.shape[0]):
        for i in range(numbers.shape[1]):
            number = numbers[c, i]
            if 0 < number < len(starts):
                seen[starts[number] + min(np.int64(abs(symbols[c, i])), reaches[number] + 1)] += 1


@compiled(int64[:, ::1], int32[:, ::1], int64[:, ::1], int64, int32[:, ::1])
def rebuild(means, symbols, steps, limit, out):  # type: ignore[no-untyped-def]
    """out = means + symbols · steps within ±limit, all (n, places)."""
    for c in range(out.shape[0]):
        for i in range(out.shape[1]):
            value = means[c, i] + symbols[c, i] * steps[c, i if steps.shape[1] > 1 else 0]
            out[c, i] = np.int32(min(max(value, -limit), limit))
