"""How far an 8x8 block is from its prediction, in vector instructions: what the motion search does most.

Numba's own loops over so few samples come out scalar, for it has to suppose that any index may count from the end.
So these are written in LLVM's vectors, which every processor has in some width; the order of all sums is laid down
here, so that all processors agree to the last bit. Where numba is told not to compile, `codec.block_prices` does the
same, much slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic as numba_intrinsic

from codec import block_prices
from codec.block_prices import KNOWN, MANTISSA, OCTAVE_PRICE, ONE, SIDE, ZERO_ENDS, ZERO_PRICE

_SHORT = ir.VectorType(ir.IntType(16), SIDE)
_WHOLE = ir.VectorType(ir.IntType(32), SIDE)
_FLOAT = ir.VectorType(ir.FloatType(), SIDE)
_config: Any = numba.config  # made of settings at run time, which its types do not know
Rows = list[Any]  # the eight rows of a block, a vector each


def _intrinsic(function: Any) -> Any:
    """numba's, or what stands in for it where nothing is compiled."""
    return getattr(block_prices, function.__name__) if _config.DISABLE_JIT else numba_intrinsic(function)


@_intrinsic
def block_differences(typing: Any, current: Any, y: Any, x: Any, plane: Any, top: Any, left: Any) -> Any:
    """Sum of absolute differences, int32, of 8x8 samples of two uint8 planes: at (y, x) of one, (top, left) of the
    other."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        ours = _block(context, builder, kinds[0], given[0], given[1:3])
        theirs = _block(context, builder, kinds[3], given[3], given[4:6])
        rows = [_magnitude(builder, builder.sub(a, b)) for a, b in zip(ours, theirs, strict=True)]
        total = _sum_of_lanes(builder, reduce(builder.add, rows), builder.add)
        return builder.zext(total, ir.IntType(32))

    return types.int32(current, types.int64, types.int64, plane, types.int64, types.int64), generate


@_intrinsic
def block_price(typing: Any, current: Any, y: Any, x: Any, plane: Any, top: Any, left: Any, scale: Any) -> Any:
    """About what coding the difference costs, rate and distortion together: float32 bits.

    scale: float32, one over eight times the step that its Hadamard transform will be quantized with.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        ours = _block(context, builder, kinds[0], given[0], given[1:3])
        theirs = _block(context, builder, kinds[3], given[3], given[4:6])
        return _price(builder, [builder.sub(a, b) for a, b in zip(ours, theirs, strict=True)], given[6])

    whole = types.int64
    return types.float32(current, whole, whole, plane, whole, whole, types.float32), generate


@_intrinsic
def pair_price(
    typing: Any, current: Any, y: Any, x: Any, plane: Any, top: Any, left: Any, other: Any, top_2: Any, left_2: Any,
    scale: Any,
) -> Any:  # fmt: skip
    """`block_price` of the mean of two predictions."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        ours = _block(context, builder, kinds[0], given[0], given[1:3])
        one = _block(context, builder, kinds[3], given[3], given[4:6])
        two = _block(context, builder, kinds[6], given[6], given[7:9])
        rows = []
        for a, b, c in zip(ours, one, two, strict=True):
            both = builder.add(builder.add(b, c), _same(_SHORT, 1))
            rows.append(builder.sub(a, builder.lshr(both, _same(_SHORT, 1))))
        return _price(builder, rows, given[9])

    whole = types.int64
    return types.float32(current, whole, whole, plane, whole, whole, other, whole, whole, types.float32), generate


def _same(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * SIDE)


def _block(context: Any, builder: Any, kind: Any, plane: Any, place: Sequence[Any]) -> Rows:
    """The 8x8 samples at a place (y, x) of a uint8 plane, a row after the other, as 16-bit vectors."""
    array = context.make_array(kind)(context, builder, plane)
    stride = builder.extract_value(array.strides, 0)
    first = builder.add(builder.mul(place[0], stride), place[1])
    rows = []
    for row in range(SIDE):
        at = builder.add(first, builder.mul(stride, ir.Constant(ir.IntType(64), row)))
        start = builder.bitcast(builder.gep(array.data, [at]), ir.VectorType(ir.IntType(8), SIDE).as_pointer())
        rows.append(builder.zext(builder.load(start, align=1), _SHORT))
    return rows


def _magnitude(builder: Any, values: Any) -> Any:
    negative = builder.icmp_signed("<", values, _same(_SHORT, 0))
    return builder.select(negative, builder.neg(values), values)


def _sum_of_lanes(builder: Any, values: Any, add: Callable[[Any, Any], Any]) -> Any:
    for apart in (4, 2, 1):
        order = ir.Constant(ir.VectorType(ir.IntType(32), SIDE), [lane ^ apart for lane in range(SIDE)])
        values = add(values, builder.shuffle_vector(values, values, order))
    return builder.extract_element(values, ir.Constant(ir.IntType(32), 0))


def _columns_transformed(builder: Any, rows: Rows) -> Rows:
    """Hadamard's transform of each column."""
    for apart in (4, 2, 1):
        rows = [
            builder.sub(rows[i ^ apart], row) if i & apart else builder.add(row, rows[i ^ apart])
            for i, row in enumerate(rows)
        ]
    return rows


def _transposed(builder: Any, rows: Rows) -> Rows:
    """Three times the rows are interleaved with those four below: each turns a place's six bits, row's and column's,
    by one."""
    order = [[lane // 2 + half + SIDE * (lane % 2) for lane in range(SIDE)] for half in (0, 4)]
    masks = [ir.Constant(ir.VectorType(ir.IntType(32), SIDE), lanes) for lanes in order]
    for _ in range(3):
        rows = [builder.shuffle_vector(rows[i], rows[i + 4], mask) for i in range(4) for mask in masks]
    return rows


def _price(builder: Any, rows: Rows, scale: Any) -> Any:
    """Bits of an 8x8 difference, 16-bit rows within ±255: its transform stays within 16 bits."""
    rows = _columns_transformed(builder, _transposed(builder, _columns_transformed(builder, rows)))
    scales = ir.Constant(_FLOAT, ir.Undefined)
    for lane in range(SIDE):
        scales = builder.insert_element(scales, scale, ir.Constant(ir.IntType(32), lane))
    prices = []
    for row in rows:
        whole = builder.zext(_magnitude(builder, row), _WHOLE)
        prices.append(_prices(builder, builder.fmul(builder.sitofp(whole, _FLOAT), scales)))
    while len(prices) > 1:
        prices = [builder.fadd(a, b) for a, b in zip(prices[::2], prices[1::2], strict=True)]
    return _sum_of_lanes(builder, prices[0], builder.fadd)


def _prices(builder: Any, steps: Any) -> Any:
    """Bits of coefficients of so many steps."""
    zero = builder.fmul(builder.fmul(steps, steps), _same(_FLOAT, ZERO_PRICE))
    # Their logarithm: the exponent, and a parabola through the mantissa, m in 1..2, right at both ends.
    bits = builder.bitcast(steps, _WHOLE)
    octave = builder.sitofp(builder.lshr(bits, _same(_WHOLE, MANTISSA)), _FLOAT)
    fraction = builder.or_(builder.and_(bits, _same(_WHOLE, (1 << MANTISSA) - 1)), _same(_WHOLE, ONE))
    m = builder.bitcast(fraction, _FLOAT)
    bend = builder.fmul(builder.fadd(builder.fmul(m, _same(_FLOAT, -1 / 3)), _same(_FLOAT, 2.0)), m)
    octaves = builder.fmul(builder.fadd(octave, bend), _same(_FLOAT, OCTAVE_PRICE))
    coded = builder.fadd(octaves, _same(_FLOAT, KNOWN))
    return builder.select(builder.fcmp_ordered("<", steps, _same(_FLOAT, ZERO_ENDS)), zero, coded)
