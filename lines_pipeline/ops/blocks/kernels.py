"""Instructions of recordings as loops, for Numba to compile: ``machine`` runs them over blocks.

Numbers are rounded after every instruction and no fast-math is allowed: bits are those of the plain forms. Dividing by
zero gives Inf or NaN as there (``error_model``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from lines_pipeline.ops.blocks.tape import LANES

Array = np.ndarray[Any, Any]

_RUN = 32
"""Entries that are compared together before any of them is looked at alone."""

_SUBTRACT, _ADD, _MULTIPLY, _DIVIDE, _MAXIMUM, _EXCEEDS = range(6)
_SCALE, _DIVIDE_BY, _SHIFT, _AT_LEAST, _REACHES, _ABS, _SIGN, _KEEP, _COPY, _ZERO = range(6, 16)
_ADD_KEPT, _ADD_AGREEING, _TOTAL, _COUNT, _WITHIN, _CHECK = range(16, 22)


class Instructions(NamedTuple):
    """The arrays of a ``Routine``."""

    code: Array
    places: Array
    scalars: Array


class Reductions(NamedTuple):
    """Where those of one block go."""

    lanes: Array
    """float64 [totals, LANES]: values of a block are added up side by side, ``add_lanes`` adds these."""
    counts: Array
    """int64 [6, slots]: counts; magnitudes below, on, between and on the upper end of brackets; values not finite."""
    found: Array
    """Magnitudes between the ends of brackets, [brackets, room]."""
    filled: Array
    """int64 [brackets]: entries of ``found`` that are taken already."""


@njit(nogil=True)
def execute(instructions: Instructions, memory: Array, reductions: Reductions, first: int, length: int) -> None:
    """Do the instructions over ``length`` values of a block, from the ``first`` on, whose sources are in ``memory``."""
    code, places, scalars = instructions
    for start in range(0, length, LANES):
        size = min(LANES, length - start)
        for at in range(code.shape[0]):
            op, s = code[at, 0], code[at, 1]
            x = _strip(memory, places, code[at, 4], first, start, size)
            if op >= _TOTAL:
                _reduce(op, code[at, 2], x, scalars[s:], reductions)
                continue
            z = _strip(memory, places, code[at, 2], first, start, size)
            if op >= _SCALE and op <= _ZERO:
                _alone(op, z, x, scalars[s])
                continue
            y = _strip(memory, places, code[at, 5], first, start, size)
            if op < _SCALE:
                _pairwise(op, z, x, y)
                continue
            also = _strip(memory, places, code[at, 3], first, start, size)
            value = _strip(memory, places, code[at, 6], first, start, size)
            if op == _ADD_KEPT:
                _add_kept(z, also, x, y, value, scalars[s], scalars[s + 1])
            else:
                direction = _strip(memory, places, code[at, 7], first, start, size)
                _add_agreeing(z, also, x, y, value, direction, scalars[s], scalars[s + 1])


@njit(nogil=True)
def add_lanes(sums: Array) -> None:
    """Leave the sums in the first lanes: pairwise, so that their order does not depend on the processor."""
    width = LANES // 2
    while width:
        for total in range(sums.shape[0]):
            for i in range(width):
                sums[total, i] += sums[total, width + i]
        width //= 2


@njit(nogil=True, inline="always")
def _strip(memory: Array, places: Array, operand: int, first: int, start: int, size: int) -> Array:
    at = places[operand, 0] + places[operand, 1] * start + places[operand, 2] * first
    return memory[at : at + size]


@njit(nogil=True)
def _reduce(op: int, out: int, x: Array, scalars: Array, reductions: Reductions) -> None:
    counts = reductions.counts[:, out]
    if op == _TOTAL:
        lanes = reductions.lanes[out]
        for i in range(x.shape[0]):
            lanes[i] += x[i]
    elif op == _COUNT:
        counts[0] += _nonzero(x)
    elif op == _WITHIN:
        _within(x, scalars[0], scalars[1], reductions.found[out, reductions.filled[out] :], counts)
    else:
        counts[5] += _nonfinite(x, scalars[0])


@njit(nogil=True, error_model="numpy")
def _pairwise(op: int, z: Array, x: Array, y: Array) -> None:
    if op == _SUBTRACT:
        for i in range(z.shape[0]):
            z[i] = x[i] - y[i]
    elif op == _ADD:
        for i in range(z.shape[0]):
            z[i] = x[i] + y[i]
    elif op == _MULTIPLY:
        for i in range(z.shape[0]):
            z[i] = x[i] * y[i]
    elif op == _DIVIDE:
        for i in range(z.shape[0]):
            z[i] = x[i] / y[i]
    elif op == _MAXIMUM:
        for i in range(z.shape[0]):
            z[i] = x[i] if x[i] > y[i] else y[i]
    else:
        for i in range(z.shape[0]):
            z[i] = x[i] > y[i]


@njit(nogil=True, error_model="numpy")
def _alone(op: int, z: Array, x: Array, number: Any) -> None:
    one, zero = x.dtype.type(1), x.dtype.type(0)
    if op == _SCALE:
        for i in range(z.shape[0]):
            z[i] = x[i] * number
    elif op == _DIVIDE_BY:
        for i in range(z.shape[0]):
            z[i] = x[i] / number
    elif op == _SHIFT:
        for i in range(z.shape[0]):
            z[i] = x[i] + number
    elif op == _AT_LEAST:
        for i in range(z.shape[0]):
            z[i] = x[i] if x[i] > number else number
    elif op == _REACHES:
        for i in range(z.shape[0]):
            z[i] = x[i] >= number
    elif op == _ABS:
        for i in range(z.shape[0]):
            z[i] = abs(x[i])
    elif op == _SIGN:
        for i in range(z.shape[0]):
            z[i] = (one if x[i] > zero else zero) - (one if x[i] < zero else zero)
    elif op == _COPY:
        for i in range(z.shape[0]):
            z[i] = x[i]
    elif op == _ZERO:
        for i in range(z.shape[0]):
            z[i] = zero
    else:
        for i in range(z.shape[0]):
            z[i] = x[i] if abs(x[i]) >= number else zero


@njit(nogil=True)
def _add_kept(z: Array, also: Array, total: Array, count: Array, value: Array, threshold: Any, weight: Any) -> None:
    one, zero = value.dtype.type(1), value.dtype.type(0)
    for i in range(z.shape[0]):
        entry = value[i]
        kept = abs(entry) >= threshold
        z[i] = total[i] + (entry if kept else zero) * weight
        also[i] = count[i] + (one if kept & (entry != zero) else zero)


@njit(nogil=True)
def _add_agreeing(
    z: Array, also: Array, total: Array, count: Array, value: Array, direction: Array, threshold: Any, weight: Any
) -> None:
    one, zero = value.dtype.type(1), value.dtype.type(0)
    for i in range(z.shape[0]):
        size = value[i] * weight * direction[i]
        agrees = (abs(value[i]) >= threshold) & (size > zero)
        z[i] = total[i] + (size if agrees else zero)
        also[i] = count[i] + (one if agrees else zero)


@njit(nogil=True)
def _nonzero(x: Array) -> Any:
    number, zero = np.int32(0), x.dtype.type(0)
    for i in range(x.shape[0]):
        number = np.int32(number + np.int32(x[i] != zero))
    return number


@njit(nogil=True)
def _nonfinite(x: Array, largest: Any) -> Any:
    number = np.int32(0)
    for i in range(x.shape[0]):
        number = np.int32(number + np.int32(not (abs(x[i]) <= largest)))
    return number


@njit(nogil=True)
def _within(x: Array, low: Any, high: Any, found: Array, counts: Array) -> None:
    """Add to ``counts`` how many magnitudes are below, on and between the ends and on the upper one; those between go
    to ``found``. Runs of which none is in the bracket are left after two comparisons."""
    whole = x.shape[0] // _RUN * _RUN
    total, number = np.int64(0), counts[3]
    for start in range(0, whole, _RUN):
        run = x[start : start + _RUN]
        below, reached = np.int32(0), np.int32(0)
        for i in range(_RUN):
            magnitude = abs(run[i])
            below = np.int32(below + np.int32(magnitude < low))
            reached = np.int32(reached + np.int32(magnitude <= high))
        total += below
        if reached == below:
            continue
        to_low, under_high = np.int32(0), np.int32(0)
        for i in range(_RUN):
            magnitude = abs(run[i])
            to_low = np.int32(to_low + np.int32(magnitude <= low))
            under_high = np.int32(under_high + np.int32(magnitude < high))
        counts[2] += to_low - below
        counts[4] += reached - under_high
        if under_high > to_low:
            for i in range(_RUN):
                magnitude = abs(run[i])
                found[number] = magnitude
                number += (magnitude > low) & (magnitude < high)
    for i in range(whole, x.shape[0]):
        magnitude = abs(x[i])
        total += magnitude < low
        counts[2] += magnitude == low
        counts[4] += magnitude == high
        found[number] = magnitude
        number += (magnitude > low) & (magnitude < high)
    counts[1] += total
    counts[3] = number
