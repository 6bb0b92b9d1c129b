"""Linear prediction that learns by least squares as it goes, in whole numbers, compiled by numba.

A filter has weights w (65536ths), sums of products R of its taps with each other and p of its taps with what was to be
predicted. The weights that leave the least squared error solve R w = p; each sample takes one step of Gauss and Seidel
from where they were. Two filters see the same taps and differ in which samples they remember: the *line* forgets a
256th with each sample, along the scan; the *neighbourhood* remembers the row's last samples and, in blocks of columns,
the rows above.
"""

from __future__ import annotations

from codec.rans import inner

BLOCK = 16  # columns
WEIGHT_BITS = 16
_LARGEST_WEIGHT = 8 << WEIGHT_BITS
_DAMPING = 256
_LINE_FORGETS, _ROWS_FORGET = 8, 2  # a 2^-8th a sample, a quarter a row


@inner
def learn_sample(taps, target, importance, line, around):  # type: ignore[no-untyped-def]
    """One more sample for both filters; line and around are (R (n, n), p (n,), w (n,)) each."""
    (squares, products, _), (squares_around, products_around, _) = line, around
    n = len(taps)
    for i in range(n):
        tap = taps[i] * importance
        for j in range(n):
            product = tap * taps[j]
            squares[i, j] += product - (squares[i, j] >> _LINE_FORGETS)
            squares_around[i, j] += product
        products[i] += tap * target - (products[i] >> _LINE_FORGETS)
        products_around[i] += tap * target


@inner
def improve(model):  # type: ignore[no-untyped-def]
    """One step of Gauss and Seidel, damped."""
    squares, products, weights = model
    n = len(weights)
    for i in range(n):
        rest = products[i] << WEIGHT_BITS
        for j in range(n):
            rest -= squares[i, j] * weights[j]
        step = rest // (squares[i, i] + (squares[i, i] >> 6) + _DAMPING)
        weights[i] = min(max(weights[i] + step, -_LARGEST_WEIGHT), _LARGEST_WEIGHT)


@inner
def enter_block(block, squares, products, kept_squares, kept_products):  # type: ignore[no-untyped-def]
    """Add what the rows above knew of this block of columns and the next; kept: (blocks, 2, ...), see `leave_block`."""
    following = min(block + 1, len(kept_squares) - 1)
    n = len(products)
    for i in range(n):
        for j in range(n):
            squares[i, j] = (
                (squares[i, j] >> 1) + kept_squares[block, 0, i, j] + (kept_squares[following, 0, i, j] >> 1)
            )
            kept_squares[block, 1, i, j] = squares[i, j]
        products[i] = (products[i] >> 1) + kept_products[block, 0, i] + (kept_products[following, 0, i] >> 1)
        kept_products[block, 1, i] = products[i]


@inner
def leave_block(block, squares, products, kept_squares, kept_products):  # type: ignore[no-untyped-def]
    """Keep the block's own sums for the row below, in place 0; place 1 holds the sums that it was entered with."""
    n = len(products)
    for i in range(n):
        for j in range(n):
            own = squares[i, j] - kept_squares[block, 1, i, j]
            kept_squares[block, 0, i, j] += own - (kept_squares[block, 0, i, j] >> _ROWS_FORGET)
            squares[i, j] = own + (kept_squares[block, 1, i, j] >> 3)
        own = products[i] - kept_products[block, 1, i]
        kept_products[block, 0, i] += own - (kept_products[block, 0, i] >> _ROWS_FORGET)
        products[i] = own + (kept_products[block, 1, i] >> 3)
