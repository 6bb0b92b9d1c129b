"""The encoder's choice of a block's symbols, by rate and distortion as things stand."""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.bit_mixing import chance
from codec.intra.coefficient_kernels import (
    END,
    SIZE,
    STAGES,
    TYPE,
    end_contexts,
    first_set,
    magnitude_contexts,
    second_set,
    to_stage,
)
from codec.rans import inner

# Bits that a squared step of error is worth. 7.5 is what the rest of the codec goes by; a symbol that is kept makes the
# ones after it dearer, which this choice does not see, and yet 9 does better (-0.9 % BD-rate over 7.5, 6.5: +1.5 %).
PRICE = 9.0


@inner
def choose_symbols(mixer, unit, scan, diagonals, coefficients, step, costs, symbols):  # type: ignore[no-untyped-def]
    """Quantize coefficients (size²,) by what they cost now: symbols (size²,); gives bits + price · squared steps.

    Coefficient after coefficient is the cheaper one of two magnitudes or zero; in the end the end is put where it is
    cheapest.
    """
    k: Any
    chosen: Any
    size, type_ = unit.kinds[SIZE], unit.kinds[TYPE]
    places = mixer.places
    count = size * size
    significant: Any = np.int64(0)  # beyond it nothing comes near a step
    error_after = 0.0
    for k in range(count):
        magnitude = abs(coefficients[scan[k]])
        if 2 * magnitude >= step:
            significant = k + 1
    for k in range(count):
        symbols[k] = 0
    for k in range(significant, count):
        ratio = coefficients[scan[k]] / step
        error_after += PRICE * ratio * ratio
    spent, run, last, lately, before = np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    current = np.int64(-1)
    total = 0.0  # of what is coded so far
    best, best_end = 1e30, np.int64(0)
    zeroed = 0.0  # what all before would cost if nothing of it was kept: for the truncation
    for k in range(significant):
        ratio = coefficients[scan[k]] / step
        zeroed += PRICE * ratio * ratio
    k = np.int64(0)
    while True:
        diagonal = diagonals[k] if k < count else np.int64(15)
        if k == count:
            if total < best:
                best, best_end = total, np.int64(count)
            break
        if diagonal != current:
            current = diagonal
            rest = end_contexts(places, unit, diagonal, spent, before + lately)
            before, lately = lately, np.int64(0)
            ends = chance(mixer, 6, first_set(END, type_, diagonal), second_set(END, rest))
            here = total + costs[ends >> 4] + zeroed + error_after
            if here < best:
                best, best_end = here, k
            if k >= significant:
                break
            total += costs[(65536 - ends) >> 4]
        at = scan[k]
        magnitude = abs(coefficients[at])
        ratio = magnitude / step
        around, local = magnitude_contexts(places, unit, symbols, at, spent, run, last)
        lower = magnitude // step
        upper = lower + 1
        chosen, bits = np.int64(0), 0.0
        chosen_cost = 1e30
        stage = np.int64(0)
        while stage <= upper:
            if stage < STAGES:
                to_stage(places, stage)
                first, second = first_set(stage, type_, diagonal), second_set(stage, (around + local) >> 1)
                more = chance(mixer, 9, first, second)
                if stage == 0 or stage >= lower:
                    off = ratio - stage
                    here = bits + costs[(65536 - more) >> 4] + (1.0 if stage else 0.0) + PRICE * off * off
                    if here < chosen_cost:
                        chosen_cost, chosen = here, stage
                if stage == 0 and 2 * magnitude < step:
                    break
                bits += costs[more >> 4]
                stage += 1
            else:
                # Beyond the single steps about what Exp-Golomb takes.
                for candidate in range(max(lower, STAGES), upper + 1):
                    off = ratio - candidate
                    here = bits + 2.0 + 2.0 * np.log2(candidate - STAGES + 1.0) + PRICE * off * off
                    if here < chosen_cost:
                        chosen_cost, chosen = here, np.int64(candidate)
                break
        total += chosen_cost
        zeroed -= PRICE * ratio * ratio
        symbols[at] = -chosen if coefficients[at] < 0 else chosen
        run = np.int64(0) if chosen else run + 1
        spent += min(chosen, 15)
        lately += min(chosen, 15)
        last = min(chosen, 127) * 2 + (last >> 2)
        k += 1
    for j in range(best_end, count):
        symbols[scan[j]] = 0
    return best
