"""Runs a compiled kernel over blocks of files: reads and hashes them piece by piece, computes, and writes.

Numba compiles this module's functions once a machine. They run without Python's lock.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from xxhash import _xxhash  # type: ignore[attr-defined]

from lines_pipeline.jit.instructions import LANES, PIECE_NUMEL
from lines_pipeline.jit.signature import INSIDE, NONFINITE, UNHELD

Array = np.ndarray[Any, Any]


class Span(NamedTuple):
    """Names blocks of one tensor, and where their sources and outputs lie."""

    sources: Array
    """int64 [sources, 5]: descriptor, position of the first value in the file, bytes of a value, offset of its row in
    memory, and whether to hash it. Where any is hashed, all values must be finite."""
    outputs: Array
    """int64 [outputs, 4]: descriptor, position of the first value in the file, bytes of a value, offset of its row in
    memory."""
    blocks: Array
    """int64 [blocks, 2]: the first value, and the number of values."""


class Scratch(NamedTuple):
    """Holds addresses and a thread's memory, which every block uses anew."""

    code: int
    """Address of the compiled kernel."""
    scalars: int
    """Address of the kernel's scalars."""
    memory: int
    """Address of the rows."""
    hashing: int
    """Address, a multiple of 64, of [sources, STATE_BYTES]: the states of the digests of a block's sources."""
    lanes: Array
    """float64 [totals, LANES]."""


class Results(NamedTuple):
    """Takes the results of blocks."""

    totals: Array
    """float64 [blocks, totals]."""
    counts: Array
    """int64 [blocks, COUNTS, slots]: the kernel's counts."""
    digests: Array
    """uint64 [blocks, sources]: XXH3 of the stored bytes."""
    bracketed: int
    """Address of the magnitudes inside brackets, [brackets, room], block after block."""
    room: int
    filled: Array
    """int64 [brackets]: how much of each row of ``bracketed`` is used."""


FINISHED, FULL, UNDONE, UNWRITTEN = range(4)
"""Why a run ends: all blocks are done; ``bracketed`` has no room for another block; the next block is for the
interpreter, since it cannot be read, is not finite, or has results that the stored type cannot hold; or it is computed,
but could not be written."""

_pread = types.ExternalFunction("pread", types.intp(types.int32, types.uintp, types.uintp, types.int64))
_pwrite = types.ExternalFunction("pwrite", types.intp(types.int32, types.uintp, types.uintp, types.int64))

STATE_BYTES = 640
"""Room for XXH3's state of 576 bytes, at an address that 64 divides."""

binding.load_library_permanently(_xxhash.__file__)
_UPDATES = [name for name in ("XXH3_64bits_update_dispatch", "XXH3_64bits_update") if binding.address_of_symbol(name)]
"""XXH3's functions that hash more bytes, the fastest first: that one chooses its form by the processor."""
if not _UPDATES:
    raise ImportError("this build of xxhash has no XXH3 to call")
_begin_digest = types.ExternalFunction("XXH3_64bits_reset", types.int32(types.uintp))
_continue_digest = types.ExternalFunction(_UPDATES[0], types.int32(types.uintp, types.uintp, types.uintp))
_end_digest = types.ExternalFunction("XXH3_64bits_digest", types.uint64(types.uintp))


@intrinsic
def _call(_: Any, address: Any, words: Any) -> Any:
    """Call the function at ``address`` with a tuple of words."""

    def generated(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        passed = cgutils.unpack_tuple(builder, given[1])
        function = ir.FunctionType(ir.VoidType(), [word.type for word in passed])
        builder.call(builder.inttoptr(given[0], function.as_pointer()), passed)
        return context.get_dummy_value()

    return types.void(address, words), generated


@njit(nogil=True)
def _compute(scratch: Scratch, counts: Array, results: Results, first: int, length: int) -> None:
    lanes, counted, filled = scratch.lanes.ctypes.data, counts.ctypes.data, results.filled.ctypes.data
    given = scratch.memory, scratch.scalars, lanes, counted, results.bracketed, filled, results.room, first, length
    _call(scratch.code, given)


@njit(nogil=True)
def _add_lanes(lanes: Array, totals: Array) -> None:
    """Add lanes up pairwise, an order that does not depend on the processor."""
    for total in range(lanes.shape[0]):
        width = LANES // 2
        while width:
            for i in range(width):
                lanes[total, i] += lanes[total, width + i]
            width //= 2
        totals[total] = lanes[total, 0]


@njit(nogil=True)
def _read(span: Span, scratch: Scratch, start: int, size: int) -> bool:
    """Read a piece of every source and hash it; return whether that went well."""
    for number in range(span.sources.shape[0]):
        descriptor, position, item, offset, hashed = span.sources[number]
        address, nbytes = scratch.memory + offset, size * item
        if not _transfer(descriptor, address, nbytes, position + start * item, False):
            return False
        if hashed:
            _continue_digest(scratch.hashing + number * STATE_BYTES, address, nbytes)
    return True


@njit(nogil=True)
def _write(span: Span, scratch: Scratch, start: int, size: int) -> bool:
    for number in range(span.outputs.shape[0]):
        descriptor, position, item, offset = span.outputs[number]
        if not _transfer(descriptor, scratch.memory + offset, size * item, position + start * item, True):
            return False
    return True


@njit(nogil=True)
def _transfer(descriptor: int, address: int, nbytes: int, position: int, writes: bool) -> bool:
    """Write bytes to their position in a file, or read them from there; return whether all were."""
    moved = 0
    while moved < nbytes:
        piece = address + moved, nbytes - moved, position + moved
        count = _pwrite(descriptor, *piece) if writes else _pread(descriptor, *piece)
        if count <= 0:
            return False
        moved += count
    return True


@njit(nogil=True)
def _begin_block(span: Span, scratch: Scratch, counts: Array) -> bool:
    """Set counts, lanes and digests to their beginning; return whether any source is hashed."""
    for row in range(counts.shape[0]):
        for slot in range(counts.shape[1]):
            counts[row, slot] = 0
    for total in range(scratch.lanes.shape[0]):
        for lane in range(LANES):
            scratch.lanes[total, lane] = 0.0
    hashed = False
    for number in range(span.sources.shape[0]):
        if span.sources[number, 4]:
            _begin_digest(scratch.hashing + number * STATE_BYTES)
            hashed = True
    return hashed


@njit(nogil=True)
def _end_digests(span: Span, scratch: Scratch, digests: Array) -> None:
    for number in range(span.sources.shape[0]):
        if span.sources[number, 4]:
            digests[number] = _end_digest(scratch.hashing + number * STATE_BYTES)


@njit(nogil=True)
def _is_sound(counts: Array, totals: Array, hashed: bool) -> bool:
    """Return whether results fit their stored types and, where a source is hashed, all sources are finite."""
    bad = 0
    for slot in range(counts.shape[1]):
        bad += counts[UNHELD, slot]
        if hashed:
            bad += counts[NONFINITE, slot]
    if hashed:
        for total in totals:
            bad += not np.isfinite(total)
    return bad == 0


def _compiled(edition: int) -> Any:
    """Return ``run``; Numba keeps its machine code for as long as this file and ``edition`` stay the same."""

    @njit(nogil=True, cache=True)
    def run(span: Span, scratch: Scratch, results: Results) -> tuple[int, int]:
        assert edition
        filled = results.filled
        for slot in range(filled.size):
            filled[slot] = 0
        for block in range(span.blocks.shape[0]):
            start, size = span.blocks[block]
            for taken in filled:
                if taken + size > results.room:
                    return block, FULL
            counts, totals = results.counts[block], results.totals[block]
            hashed = _begin_block(span, scratch, counts)
            for first in range(0, size, PIECE_NUMEL):
                length = min(PIECE_NUMEL, size - first)
                if not _read(span, scratch, start + first, length):
                    return block, UNDONE
                _compute(scratch, counts, results, first, length)
            _end_digests(span, scratch, results.digests[block])
            _add_lanes(scratch.lanes, totals)
            if not _is_sound(counts, totals, hashed):
                return block, UNDONE
            for slot in range(filled.size):
                filled[slot] += counts[INSIDE, slot]
            if not _write(span, scratch, start, size):
                return block, UNWRITTEN
        return span.blocks.shape[0], FINISHED

    return run


_CONSTANTS = (_UPDATES[0], INSIDE, NONFINITE, UNHELD, LANES, PIECE_NUMEL)
run = _compiled(crc32(repr(_CONSTANTS).encode()))
"""Do the blocks of a span, one after the other; return how many are done, and why the run ends."""
