"""Runs a recording over a block strip by strip, in registers that fit the processor's first caches.

Numba compiles all of it once a machine (about 4 s), and it works without Python's lock. Numbers are rounded after
every instruction and no fast-math is allowed: bits are those of the plain forms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash
from llvmlite import binding
from numba import njit, types

from lines_pipeline.ops.blocks.tape import LANES, Code

_RUN = 32
"""Entries that are compared together before any of them is looked at alone."""

Array = np.ndarray[Any, Any]

_LANES = 2048
_SUBTRACT, _ADD, _MULTIPLY, _DIVIDE, _MAXIMUM, _EXCEEDS, _SCALE, _DIVIDE_BY, _SHIFT, _AT_LEAST = range(10)
_REACHES, _ABS, _SIGN, _KEEP, _COPY, _ZERO, _ADD_KEPT, _ADD_AGREEING = range(10, 18)
_TOTAL, _COUNT, _WITHIN, _CHECK = range(18, 22)
# Spelt out, and not taken from Code: Numba keeps compiled code for as long as this file stays the same.
assert _LANES == LANES and all(globals()[f"_{code.name}"] == code for code in Code)


_BRAIN = 2
"""Bytes of a bfloat16, the only type that is widened here."""

_pread = types.ExternalFunction("pread", types.intp(types.int32, types.uintp, types.uintp, types.int64))

binding.load_library_permanently(xxhash._xxhash.__file__)
if binding.address_of_symbol("XXH3_64bits") is None:
    raise ImportError("this build of xxhash has no XXH3_64bits to call")
_digest = types.ExternalFunction("XXH3_64bits", types.uint64(types.uintp, types.uintp))


@njit(nogil=True, cache=True)
def run(
    code: Array,
    places: Array,
    scalars: Array,
    memory: Array,
    raw: Array,
    sums: Array,
    counts: Array,
    found: Array,
    files: Array,
    digests: Array,
    size: int,
) -> int:
    """Read and hash sources, and run ``code`` (see ``Routine``) over a block of ``size`` values; gives the source that cannot be
    read, or -1.

    ``files`` int64 [sources, 4] tells of each source the descriptor, the position of the block in the file, the
    bytes of a value there: as many as computed with, 2 for bfloat16 (kept in ``raw`` uint16 [sources, size]), or 0
    where it is in ``memory`` already; and whether to hash what is read. ``sums`` float64 [totals, LANES], ``counts``
    int64 [6, slots] (by row: counts; magnitudes below, on, between and on the upper end of brackets; values that are
    not finite), ``found`` [brackets, size + 1] and ``digests`` uint64 [sources] (XXH3) take the results.
    """
    sums[:] = 0.0
    counts[:] = 0
    for source in range(files.shape[0]):
        row = places[source, 0]
        if not _read(files[source], memory[row : row + size], raw[source], digests[source : source + 1]):
            return source
    _execute(code, places, scalars, memory, sums, counts, found, size)
    _add_lanes(sums)
    return -1


@njit(nogil=True, cache=True)
def _read(file: Array, values: Array, raw: Array, digest: Array) -> Any:
    if file[2] != _BRAIN:
        return file[2] == 0 or _fill(file, values, digest)
    narrow = raw[: values.size]
    if not _fill(file, narrow, digest):
        return False
    wide = values.view(np.uint32)
    for i in range(values.size):
        wide[i] = np.uint32(narrow[i]) << np.uint32(16)
    return True


@njit(nogil=True, cache=True)
def _fill(file: Array, values: Array, digest: Array) -> bool:
    address, nbytes, done = values.ctypes.data, values.nbytes, 0
    while done < nbytes:
        count = _pread(file[0], address + done, nbytes - done, file[1] + done)
        if count <= 0:
            return False
        done += count
    if file[3]:
        digest[0] = _digest(address, nbytes)
    return True


@njit(nogil=True, cache=True)
def _execute(
    code: Array, places: Array, scalars: Array, memory: Array, sums: Array, counts: Array, found: Array, length: int
) -> None:
    for start in range(0, length, _LANES):
        size = min(_LANES, length - start)
        for at in range(code.shape[0]):
            op, s = code[at, 0], code[at, 1]
            x = _strip(memory, places, code[at, 4], start, size)
            if op >= _TOTAL:
                _reduce(op, code[at, 2], x, scalars[s:], sums, counts, found)
                continue
            z = _strip(memory, places, code[at, 2], start, size)
            if op >= _SCALE and op <= _ZERO:
                _alone(op, z, x, scalars[s])
                continue
            y = _strip(memory, places, code[at, 5], start, size)
            if op < _SCALE:
                _pairwise(op, z, x, y)
                continue
            also = _strip(memory, places, code[at, 3], start, size)
            value = _strip(memory, places, code[at, 6], start, size)
            if op == _ADD_KEPT:
                _add_kept(z, also, x, y, value, scalars[s], scalars[s + 1])
            else:
                direction = _strip(memory, places, code[at, 7], start, size)
                _add_agreeing(z, also, x, y, value, direction, scalars[s], scalars[s + 1])


@njit(nogil=True, cache=True)
def _add_lanes(sums: Array) -> None:
    width = _LANES // 2
    while width:
        for total in range(sums.shape[0]):
            for i in range(width):
                sums[total, i] += sums[total, width + i]
        width //= 2


@njit(nogil=True, cache=True, inline="always")
def _strip(memory: Array, places: Array, operand: int, start: int, size: int) -> Array:
    first = places[operand, 0] + places[operand, 1] * start
    return memory[first : first + size]


@njit(nogil=True, cache=True)
def _reduce(op: int, out: int, x: Array, scalars: Array, sums: Array, counts: Array, found: Array) -> None:
    if op == _TOTAL:
        lanes = sums[out]
        for i in range(x.shape[0]):
            lanes[i] += x[i]
    elif op == _COUNT:
        counts[0, out] += _nonzero(x)
    elif op == _WITHIN:
        _within(x, scalars[0], scalars[1], found[out], counts[:, out])
    else:
        counts[5, out] += _nonfinite(x, scalars[0])


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _add_kept(z: Array, also: Array, total: Array, count: Array, value: Array, threshold: Any, weight: Any) -> None:
    one, zero = value.dtype.type(1), value.dtype.type(0)
    for i in range(z.shape[0]):
        entry = value[i]
        kept = abs(entry) >= threshold
        z[i] = total[i] + (entry if kept else zero) * weight
        also[i] = count[i] + (one if kept & (entry != zero) else zero)


@njit(nogil=True, cache=True)
def _add_agreeing(
    z: Array, also: Array, total: Array, count: Array, value: Array, direction: Array, threshold: Any, weight: Any
) -> None:
    one, zero = value.dtype.type(1), value.dtype.type(0)
    for i in range(z.shape[0]):
        size = value[i] * weight * direction[i]
        agrees = (abs(value[i]) >= threshold) & (size > zero)
        z[i] = total[i] + (size if agrees else zero)
        also[i] = count[i] + (one if agrees else zero)


@njit(nogil=True, cache=True)
def _nonzero(x: Array) -> Any:
    number, zero = np.int32(0), x.dtype.type(0)
    for i in range(x.shape[0]):
        number = np.int32(number + np.int32(x[i] != zero))
    return number


@njit(nogil=True, cache=True)
def _nonfinite(x: Array, largest: Any) -> Any:
    number = np.int32(0)
    for i in range(x.shape[0]):
        number = np.int32(number + np.int32(not (abs(x[i]) <= largest)))
    return number


@njit(nogil=True, cache=True)
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
