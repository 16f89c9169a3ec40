"""Runs a recording over blocks strip by strip, in registers that fit the processor's first caches.

Numba compiles all of it once a machine (about 7 s), and it works without Python's lock: it reads and hashes the blocks
of a span one after the other, piece by piece, runs the recording over them, and writes what is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from llvmlite import binding
from numba import njit, types
from xxhash import _xxhash  # type: ignore[attr-defined]

from lines_pipeline.ops.blocks import kernels, tape
from lines_pipeline.ops.blocks.kernels import Array, Instructions, Reductions, add_lanes, execute
from lines_pipeline.ops.blocks.tape import AS_COMPUTED, BFLOAT16, BOOL, PIECE_NUMEL


class Span(NamedTuple):
    """Neighbouring blocks, of ``capacity`` values each but for the last, ``size`` values together."""

    sources: Array
    """int64 [sources, 4]: descriptor, position of the first value in the file, how it is stored (as ``tape.STORED``
    tells), and whether to hash it. Where any is hashed, values have to be finite."""
    outputs: Array
    """int64 [outputs, 4]: descriptor, position of the first value in the file, how to store it (not ``BOOL``), and its
    offset in the memory."""
    size: int
    capacity: int


class Scratch(NamedTuple):
    """Memory of a thread that every block takes anew."""

    memory: Array
    """The type computed with [routine.length]."""
    narrow: Array
    """uint16 [capacity]: what is stored in fewer bytes than it is computed with."""
    lanes: Array
    """float64 [totals, LANES]."""
    filled: Array
    """int64 [brackets]: how much of each row of ``found`` is taken."""
    hashing: Array
    """uint8 [sources, STATE_BYTES]: the digests of a block's sources, as far as it is read."""


class Results(NamedTuple):
    """What blocks give."""

    totals: Array
    """float64 [blocks, totals]."""
    counts: Array
    """int64 [blocks, 6, slots]: counts; magnitudes below, on, between and on the upper end of brackets; values that are
    not finite."""
    found: Array
    """Magnitudes in brackets, [brackets, room], those of a block after those of the blocks before."""
    digests: Array
    """uint64 [blocks, sources]: XXH3 as stored."""


FINISHED, FULL, PLAINLY, UNWRITTEN = range(4)
"""Why a run ends: all is done; ``found`` has no room for another block; the next block cannot be read or is not finite,
or is stored narrow and has NaN in it, and is to be computed without the machine; it could not be written, and is in the
memory."""

_INFINITE, _TOO_LARGE, _SUBNORMAL = np.uint32(0x7F800000), np.uint32(0x47800000), np.uint32(0x38800000)
"""float32 as bits: Inf; 2 ** 16, which float16 has not; and 2 ** -14, the least that it has with all its digits."""

_pread = types.ExternalFunction("pread", types.intp(types.int32, types.uintp, types.uintp, types.int64))
_pwrite = types.ExternalFunction("pwrite", types.intp(types.int32, types.uintp, types.uintp, types.int64))

STATE_BYTES = 1024
"""Room for XXH3's state, which takes 576 bytes from an address on that 64 divides."""

binding.load_library_permanently(_xxhash.__file__)
_UPDATES = [name for name in ("XXH3_64bits_update_dispatch", "XXH3_64bits_update") if binding.address_of_symbol(name)]
"""How XXH3 takes more bytes, the fastest first: the first chooses its form by the processor."""
if not _UPDATES:
    raise ImportError("this build of xxhash has no XXH3 to call")
_begin_digest = types.ExternalFunction("XXH3_64bits_reset", types.int32(types.uintp))
_continue_digest = types.ExternalFunction(_UPDATES[0], types.int32(types.uintp, types.uintp, types.uintp))
_end_digest = types.ExternalFunction("XXH3_64bits_digest", types.uint64(types.uintp))


@njit(nogil=True)
def _read(instructions: Instructions, span: Span, scratch: Scratch, start: int, size: int) -> bool:
    for number in range(span.sources.shape[0]):
        row = instructions.places[number, 0]
        values = scratch.memory[row : row + size]
        if not _read_source(span.sources[number], values, scratch.narrow[:size], start, scratch.hashing[number]):
            return False
    return True


@njit(nogil=True)
def _read_source(source: Array, values: Array, narrow: Array, start: int, hashing: Array) -> Any:
    stored = source[2]
    if stored == AS_COMPUTED:
        return _fill(source, values, start, hashing)
    if stored == BOOL:
        flags = narrow.view(np.uint8)[: values.size]
        if not _fill(source, flags, start, hashing):
            return False
        for i in range(values.size):
            values[i] = flags[i]
        return True
    if not _fill(source, narrow, start, hashing):
        return False
    wide = values.view(np.uint32)
    if stored == BFLOAT16:
        for i in range(values.size):
            wide[i] = np.uint32(narrow[i]) << np.uint32(16)
        return True
    _widen_half(narrow, values, wide)
    return True


@njit(nogil=True)
def _widen_half(narrow: Array, values: Array, wide: Array) -> None:
    """float16 has its exponent 112 lower: a product settles numbers, subnormal ones too; Inf and NaN are spelt out."""
    for i in range(values.size):
        wide[i] = (np.uint32(narrow[i]) & np.uint32(0x7FFF)) << np.uint32(13)
    for i in range(values.size):
        values[i] = values[i] * values.dtype.type(2.0**112)
    for i in range(values.size):
        half = np.uint32(narrow[i])
        special = np.uint32(0x7F800000) if half & np.uint32(0x7C00) == np.uint32(0x7C00) else np.uint32(0)
        wide[i] = wide[i] | special | (half & np.uint32(0x8000)) << np.uint32(16)


@njit(nogil=True)
def _fill(source: Array, values: Array, start: int, hashing: Array) -> bool:
    if not _transfer(source, values, start, False):
        return False
    if source[3]:
        _continue_digest(_state(hashing), values.ctypes.data, values.nbytes)
    return True


@njit(nogil=True)
def _state(hashing: Array) -> Any:
    return (hashing.ctypes.data + 63) // 64 * 64


@njit(nogil=True)
def _begin_digests(span: Span, scratch: Scratch) -> None:
    for number in range(span.sources.shape[0]):
        if span.sources[number, 3]:
            _begin_digest(_state(scratch.hashing[number]))


@njit(nogil=True)
def _end_digests(span: Span, scratch: Scratch, digests: Array) -> None:
    for number in range(span.sources.shape[0]):
        if span.sources[number, 3]:
            digests[number] = _end_digest(_state(scratch.hashing[number]))


@njit(nogil=True)
def _transfer(file: Array, values: Array, start: int, writes: bool) -> bool:
    """Write values to their place in a file, or read them from there."""
    address, nbytes, done = values.ctypes.data, values.nbytes, 0
    position = file[1] + start * values.itemsize
    while done < nbytes:
        place = address + done, nbytes - done, position + done
        count = _pwrite(file[0], *place) if writes else _pread(file[0], *place)
        if count <= 0:
            return False
        done += count
    return True


@njit(nogil=True)
def _write(span: Span, scratch: Scratch, start: int, size: int) -> int:
    """Write a block; why that ends."""
    for number in range(span.outputs.shape[0]):
        output = span.outputs[number]
        values = scratch.memory[output[3] : output[3] + size]
        if output[2] == AS_COMPUTED:
            written = _transfer(output, values, start, True)
        else:
            if not _narrow(values, scratch.narrow, output[2]):
                return PLAINLY
            written = _transfer(output, scratch.narrow[:size], start, True)
        if not written:
            return UNWRITTEN
    return FINISHED


@njit(nogil=True)
def _narrow(values: Array, narrow: Array, stored: int) -> bool:
    """Round to the nearest, ties to even; whether there is no NaN, which has its bits from torch."""
    wide = values.view(np.uint32)
    largest = np.uint32(0)
    for i in range(values.size):
        bits = wide[i] & np.uint32(0x7FFFFFFF)
        sign = (wide[i] ^ bits) >> np.uint32(16)
        largest = max(largest, bits)
        if stored == BFLOAT16:
            up = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
            nearest = (bits + up) >> np.uint32(16)
        elif bits >= _TOO_LARGE:
            nearest = np.uint32(0x7C00)
        elif bits < _SUBNORMAL:  # multiples of 2 ** -24
            nearest = np.uint32(np.rint(abs(values[i]) * values.dtype.type(2.0**24)))
        else:
            up = np.uint32(0xFFF) + (bits >> np.uint32(13) & np.uint32(1))
            nearest = (bits - np.uint32(112 << 23) + up) >> np.uint32(13)
        narrow[i] = sign | nearest
    return bool(largest <= _INFINITE)


@njit(nogil=True)
def _is_checked(span: Span) -> bool:
    hashed = 0
    for number in range(span.sources.shape[0]):
        hashed += span.sources[number, 3]
    return hashed > 0


@njit(nogil=True)
def _is_finite(nonfinite: Array, totals: Array) -> bool:
    bad = 0
    for count in nonfinite:
        bad += count
    for total in totals:
        bad += not np.isfinite(total)
    return bad == 0


def _compiled(edition: int) -> Any:
    """``run``: Numba keeps what it compiled for as long as this file and ``edition`` stay the same."""

    @njit(nogil=True, cache=True)
    def run(instructions: Instructions, span: Span, scratch: Scratch, results: Results) -> tuple[int, int]:
        assert edition
        filled = scratch.filled
        filled[:] = 0
        checked = _is_checked(span)
        for block in range(results.counts.shape[0]):
            start = block * span.capacity
            size = min(span.capacity, span.size - start)
            for taken in filled:
                if taken + size >= results.found.shape[1]:
                    return block, FULL
            counts = results.counts[block]
            counts[:] = 0
            scratch.lanes[:] = 0.0
            reductions = Reductions(scratch.lanes, counts, results.found, filled)
            _begin_digests(span, scratch)
            for first in range(0, size, PIECE_NUMEL):
                length = min(PIECE_NUMEL, size - first)
                if not _read(instructions, span, scratch, start + first, length):
                    return block, PLAINLY
                execute(instructions, scratch.memory, reductions, first, length)
            _end_digests(span, scratch, results.digests[block])
            add_lanes(scratch.lanes)
            results.totals[block] = scratch.lanes[:, 0]
            if checked and not _is_finite(counts[5], results.totals[block]):
                return block, PLAINLY
            filled += counts[3, : filled.size]
            end = _write(span, scratch, start, size)
            if end != FINISHED:
                return block, end
        return results.counts.shape[0], FINISHED

    return run


_PARTS = [_UPDATES[0].encode(), *(Path(str(part.__file__)).read_bytes() for part in (kernels, tape))]
run = _compiled(crc32(b"".join(_PARTS)))
"""Do the blocks of a span as far as it goes: how many are done, and why it ends."""
