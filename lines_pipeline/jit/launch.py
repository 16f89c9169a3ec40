"""Launches compiled kernels over blocks of one tensor: one call reads, hashes, computes and writes many blocks."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import local
from typing import Any, NamedTuple

import numpy as np
import torch

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL
from lines_pipeline.jit.boundary import boundary
from lines_pipeline.jit.compiling import CompiledKernel, compile_kernel
from lines_pipeline.jit.instructions import LANES, Kernel, OpCode, Row
from lines_pipeline.jit.signature import AT_HIGH, AT_LOW, BELOW, COUNTED, COUNTS, INSIDE
from lines_pipeline.jit.tracing import TraceBuilder

BRACKET_NUMEL = 2 * BLOCK_NUMEL
"""Room for the magnitudes inside a bracket; a launch ends where those of another block might not fit."""

_LINE_BYTES = 64

Array = np.ndarray[Any, Any]
Reductions = Mapping[OpCode, Sequence[Any]]
"""Results of a block's reductions by kind, in the order of their slots."""


class Source(NamedTuple):
    """Tells where in a file a source begins, and whether its blocks are hashed."""

    descriptor: int
    offset: int
    hashed: bool


class Target(NamedTuple):
    """Tells where in a file the value of a row is written."""

    descriptor: int
    offset: int
    row: Row


@dataclass(frozen=True)
class Launched:
    """Holds the results of the blocks that a launch did, from the first on; the interpreter does the next one."""

    reductions: Sequence[Reductions]
    digests: Sequence[Sequence[int]]
    """By block and source: XXH3, where it is hashed."""
    unwritten: bool
    """Whether the last block is computed and stored in memory, but could not be written."""


class _Workspace(local):
    """Keeps a thread's arrays for its later launches."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, Any], Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array of this shape, with whatever was in it last."""
        key, size = (name, dtype), math.prod(shape)
        if key not in self._arrays or self._arrays[key].size < size:
            self._arrays[key] = _aligned(size, np.dtype(dtype))
        return self._arrays[key][:size].reshape(shape)


def _aligned(size: int, dtype: np.dtype[Any]) -> Array:
    """Return an empty array that begins on a line of the caches."""
    room = np.empty(size * dtype.itemsize + _LINE_BYTES, np.uint8)
    start = -room.ctypes.data % _LINE_BYTES
    return room[start : start + size * dtype.itemsize].view(dtype)


_workspace = _Workspace()


def launch(
    kernel: Kernel,
    compiled: CompiledKernel,
    *,
    sources: Sequence[Source],
    targets: Sequence[Target],
    blocks: Sequence[tuple[int, int]],
) -> Launched:
    """Run a kernel over blocks, given as first value and number of values; raises ``CompilerFailure``."""
    with boundary():
        rows = zip(sources, kernel.source_rows, strict=True)
        span = _runtime().Span(
            _table([(at.descriptor, at.offset, row.item_bytes, row.offset, at.hashed) for at, row in rows], 5),
            _table([(to.descriptor, to.offset, to.row.item_bytes, to.row.offset) for to in targets], 4),
            _table(blocks, 2),
        )
        scratch, results = _scratch(kernel, compiled), _results(kernel, len(blocks))
        finished, end = _runtime().run(span, scratch, results)
    unwritten = end == _runtime().UNWRITTEN  # beyond the boundary: what is written must not be done again
    finished += unwritten
    return Launched(_reductions(kernel, results, finished), results.digests[:finished].tolist(), unwritten)


def stored_bytes(kernel: Kernel, row: Row, numel: int) -> Array:
    """Return the bytes of a value that this thread's last launch stored, in memory that the next launch overwrites."""
    return _memory(kernel)[row.offset : row.offset + numel * row.item_bytes]


@cache
def load_runtime() -> None:
    """Load the runtime: half a second, or some seconds where Numba compiles it; raises ``CompilerFailure``."""
    launch(_EMPTY, compile_kernel(_EMPTY), sources=[], targets=[], blocks=[])


def is_runtime_compiled() -> bool:
    """Return whether Numba has compiled the runtime before, as far as its files tell: loading Numba takes a while."""
    folder = Path(__file__).parent
    changed = (folder / "runtime.py").stat().st_mtime
    name = f"runtime._compiled.locals.run-*.py{sys.version_info.major}{sys.version_info.minor}.nbi"
    elsewhere = os.environ.get("NUMBA_CACHE_DIR")
    folders = Path(elsewhere).glob("jit_*") if elsewhere else [folder / "__pycache__"]
    return any(index.stat().st_mtime >= changed for cache_folder in folders for index in cache_folder.glob(name))


_EMPTY = TraceBuilder(torch.float32, 0).kernel(0)
"""Does nothing."""


def _runtime() -> Any:
    return import_module("lines_pipeline.jit.runtime")


def _table(rows: Sequence[Sequence[int]], columns: int) -> Array:
    return np.array(rows, np.int64).reshape(-1, columns)


def _scratch(kernel: Kernel, compiled: CompiledKernel) -> Any:
    runtime, array = _runtime(), _workspace.array
    return runtime.Scratch(
        compiled.address,
        kernel.scalars.ctypes.data,
        _memory(kernel).ctypes.data,
        array("hashing", (kernel.sources, runtime.STATE_BYTES), np.uint8).ctypes.data,
        array("lanes", (kernel.slots.get(OpCode.TOTAL, 0), LANES), np.float64),
    )


def _results(kernel: Kernel, count: int) -> Any:
    array = _workspace.array
    return _runtime().Results(
        array("totals", (count, kernel.slots.get(OpCode.TOTAL, 0)), np.float64),
        array("counts", (count, COUNTS, kernel.most_slots), np.int64),
        array("digests", (count, kernel.sources), np.uint64),
        _bracketed(kernel).ctypes.data,
        BRACKET_NUMEL,
        array("filled", (kernel.slots.get(OpCode.WITHIN, 0),), np.int64),
    )


def _memory(kernel: Kernel) -> Array:
    """Return this thread's memory for the kernel's rows: uint8."""
    return _workspace.array("memory", (kernel.memory_bytes,), np.uint8)


def _bracketed(kernel: Kernel) -> Array:
    """Return this thread's room for the magnitudes inside each bracket."""
    return _workspace.array("bracketed", (kernel.slots.get(OpCode.WITHIN, 0), BRACKET_NUMEL), kernel.scalars.dtype)


def _reductions(kernel: Kernel, results: Any, finished: int) -> list[Reductions]:
    """Copy the results of each block out of memory that the next launch overwrites."""
    totals, counts = results.totals[:finished].tolist(), results.counts[:finished].tolist()
    kept = [row[:filled].copy() for row, filled in zip(_bracketed(kernel), results.filled.tolist(), strict=True)]
    ends = [0] * len(kept)
    reductions: list[Reductions] = []
    for block in range(finished):
        counted, between = counts[block], counts[block][INSIDE]
        starts, ends = ends, [end + inside for end, inside in zip(ends, between, strict=False)]
        inside = [row[start:end] for row, start, end in zip(kept, starts, ends, strict=True)]
        brackets = list(zip(counted[BELOW], counted[AT_LOW], inside, counted[AT_HIGH], strict=False))
        reductions.append({OpCode.TOTAL: totals[block], OpCode.COUNT: counted[COUNTED], OpCode.WITHIN: brackets})
    return reductions
