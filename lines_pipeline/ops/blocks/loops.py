"""Compiled forms of the block functions: one pass over a block, without Python's lock.

Sums are taken entry by entry in the order of the calls, and no fast-math is allowed: bits are those of the plain forms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_RUN = 64
"""Entries that are compared together before any of them is looked at alone."""

Array = np.ndarray[Any, Any]


@njit(nogil=True, cache=True)
def add_kept(total: Array, value: Array, threshold: Any, weight: Any) -> None:
    zero = value.dtype.type(0)
    for i in range(value.shape[0]):
        entry = value[i]
        total[i] += entry * weight if abs(entry) >= threshold else zero


@njit(nogil=True, cache=True)
def add_agreeing(total: Array, count: Array, direction: Array, value: Array, threshold: Any, weight: Any) -> None:
    zero, one = value.dtype.type(0), value.dtype.type(1)
    for i in range(value.shape[0]):
        entry = value[i]
        size = entry * weight * direction[i]
        agrees = (abs(entry) >= threshold) & (size > zero)
        total[i] += size if agrees else zero
        count[i] += one if agrees else zero


@njit(nogil=True, cache=True)
def mark_kept(marks: Array, value: Array, threshold: Any) -> None:
    zero = value.dtype.type(0)
    for i in range(value.shape[0]):
        entry = value[i]
        marks[i] |= (abs(entry) >= threshold) & (entry != zero)


@njit(nogil=True, cache=True)
def within(value: Array, low: Any, high: Any) -> tuple[int, Array]:
    size = value.shape[0]
    whole = size // _RUN * _RUN
    below: Any = 0
    number: Any = 0
    hits = np.empty(whole // _RUN, np.bool_)
    for start in range(0, whole, _RUN):
        under, reached = np.int32(0), np.int32(0)
        for i in range(_RUN):
            magnitude = abs(value[start + i])
            under = np.int32(under + np.int32(magnitude < low))
            reached = np.int32(reached + np.int32(magnitude <= high))
        below += under
        number += reached - under
        hits[start // _RUN] = reached != under
    found = np.empty(number + size - whole + 1, value.dtype)
    number = 0
    for run in range(hits.shape[0]):
        if hits[run]:
            for i in range(_RUN):
                magnitude = abs(value[run * _RUN + i])
                found[number] = magnitude
                number += (magnitude >= low) & (magnitude <= high)
    for i in range(whole, size):
        magnitude = abs(value[i])
        below += magnitude < low
        found[number] = magnitude
        number += (magnitude >= low) & (magnitude <= high)
    return below, found[:number]
