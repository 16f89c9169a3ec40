"""Replays recordings over blocks of tensors: one compiled call reads, hashes, computes and writes many of a tensor."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import torch

from lines_pipeline import jit
from lines_pipeline.core.errors import EngineError
from lines_pipeline.core.tensor_specs import BLOCK_NUMEL
from lines_pipeline.executor.prefetch import BlockPosition
from lines_pipeline.executor.tracing import Trace, Tracer
from lines_pipeline.io.writing import write_block
from lines_pipeline.jit.signature import AT_HIGH, AT_LOW, BELOW, COUNTED, COUNTS, INSIDE
from lines_pipeline.jit.tracing import LANES, OpCode, TraceBuilder

LOADED_BYTES, COMPILED_BYTES = 500_000_000, 2_000_000_000
"""What a pass has to read for recordings to pay: loading the machine takes half a second, compiling it some seconds."""

FOUND_NUMEL = 2 * BLOCK_NUMEL
"""Room for what one bracket finds in the blocks of a call; a call ends where another block might not fit."""

_LINE_BYTES = 64

Array = np.ndarray[Any, Any]
Reductions = Mapping[OpCode, Sequence[Any]]
"""What a block gave: by kind of reduction, in the order of their slots."""


class Workspace(local):
    """A thread's memory for replaying, used again for all tiles and jobs."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, Any], Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of this shape, with whatever was last in it."""
        key, size = (name, dtype), math.prod(shape)
        if key not in self._arrays or self._arrays[key].size < size:
            self._arrays[key] = _aligned(size, np.dtype(dtype))
        return self._arrays[key][:size].reshape(shape)


def _aligned(size: int, dtype: np.dtype[Any]) -> Array:
    """An empty array that begins on a line of the caches."""
    room = np.empty(size * dtype.itemsize + _LINE_BYTES, np.uint8)
    start = -room.ctypes.data % _LINE_BYTES
    return room[start : start + size * dtype.itemsize].view(dtype)


_workspace = Workspace()


class CompiledTasks:
    """Replays the recordings of one job; ``reading`` and ``writing`` give the descriptors of files by path."""

    def __init__(self, tracer: Tracer, reading: Callable[[str], int], writing: Callable[[str], int]) -> None:
        self.tracer, self._reading, self._writing = tracer, reading, writing

    def replay(self, positions: Sequence[BlockPosition]) -> list[CompiledBlock]:
        """Blocks of one tensor, from the first on as far as one call goes: none where the first is to be computed
        without recordings, because it cannot be recorded or read, or because its values are not finite."""
        trace = self.tracer.trace(positions[0][0])
        if trace is None:
            return []
        found = self._run(trace, positions[:1] if trace.kept else positions)  # kept in memory that the next one takes
        return [CompiledBlock(self, position, *given) for position, given in zip(positions, found, strict=False)]

    def again(self, position: BlockPosition, assumption: int) -> Reductions:
        """What a block gives in another of its worlds."""
        trace = self.tracer.trace(position[0], assumption)
        assert trace is not None
        read = {stored.path for stored in trace.sources.values()}
        assert read.isdisjoint(to.path for to, _ in trace.outputs)  # a pass that finishes drafts guesses nothing
        found = self._run(replace(trace, hashed=frozenset(), outputs=()), [position])
        if not found:
            raise EngineError(
                f"tensor '{position[0]}' cannot be read a second time: a file was cut short during the run"
            )
        return found[0][0]

    def _run(self, trace: Trace, positions: Sequence[BlockPosition]) -> list[tuple[Reductions, dict[str, int]]]:
        """Reductions and digests by source of the blocks that could be done."""
        blocks = np.array([(start, stop - start) for _, start, stop in positions], np.int64)
        done, why, results = _call(trace, _span(self._sources(trace), self._outputs(trace), blocks))
        if why == _runtime().UNWRITTEN:  # perhaps not for long; if it is, this raises the error
            self._write(trace, positions[done])
            done += 1
        digests = [
            {step: digest for step, digest in zip(trace.sources, found, strict=True) if step in trace.hashed}
            for found in results.digests[:done].tolist()
        ]
        return list(zip(_reductions(trace, results, done), digests, strict=True))

    def _sources(self, trace: Trace) -> Array:
        """Where the machine reads."""
        rows = [
            (self._reading(stored.path), stored.offset, row.item_bytes, row.offset, step in trace.hashed)
            for (step, stored), row in zip(trace.sources.items(), trace.kernel.taken, strict=True)
        ]
        return np.array(rows, np.int64).reshape(-1, 5)

    def _outputs(self, trace: Trace) -> Array:
        """Where it writes."""
        rows = [(self._writing(to.path), to.offset, row.item_bytes, row.offset) for to, row in trace.outputs]
        return np.array(rows, np.int64).reshape(-1, 4)

    def _write(self, trace: Trace, position: BlockPosition) -> None:
        """Write what the machine computed of a block."""
        _, start, stop = position
        for to, row in trace.outputs:
            value = _memory(trace)[row.offset : row.offset + (stop - start) * row.item_bytes]
            offset = to.offset + start * row.item_bytes
            write_block(to.path, self._writing(to.path), offset, torch.from_numpy(value))


@dataclass(frozen=True)
class CompiledBlock:
    """One block of a tensor that was replayed."""

    compiled: CompiledTasks
    position: BlockPosition
    reductions: Reductions
    digests: Mapping[str, int]
    """By source, of those that are hashed."""

    @property
    def nbytes(self) -> int:
        """Bytes read."""
        _, start, stop = self.position
        return (stop - start) * self._recording(0).width

    def observed(self, number: int, assumption: int) -> Any:
        """The partial of an observation in one of its worlds."""
        found = self.compiled.again(self.position, assumption) if assumption else self.reductions
        reduced = [found[one.code][one.slot] for one in self._recording(assumption).observed[number]]
        return self.compiled.tracer.statistic(number).partial(*reduced)

    def written(self, number: int) -> torch.Tensor | None:
        """The value of a write, in memory that the next block takes; None where it is written."""
        trace = self._recording(0)
        if number not in trace.kept:
            return None
        _, start, stop = self.position
        values = _memory(trace)[trace.kept[number] :].view(trace.kernel.scalars.dtype)
        return torch.from_numpy(values[: stop - start])

    def _recording(self, assumption: int) -> Trace:
        trace = self.compiled.tracer.trace(self.position[0], assumption)
        assert trace is not None
        return trace


def _span(sources: Array, outputs: Array, blocks: Array) -> Any:
    return _runtime().Span(sources, outputs, blocks)


def _call(trace: Trace, span: Any) -> tuple[int, int, Any]:
    """Run the machine: how many blocks are done, why it ends, and its ``Results``."""
    machine, kernel, array = _runtime(), trace.kernel, _workspace.array
    totals, brackets = (kernel.slots.get(code, 0) for code in (OpCode.TOTAL, OpCode.WITHIN))
    sources, count = len(trace.sources), len(span.blocks)
    scratch = machine.Scratch(
        trace.loop.address,
        kernel.scalars.ctypes.data,
        _memory(trace).ctypes.data,
        array("hashing", (sources, machine.STATE_BYTES), np.uint8).ctypes.data,
        array("lanes", (totals, LANES), np.float64),
    )
    results = machine.Results(
        array("totals", (count, totals), np.float64),
        array("counts", (count, COUNTS, kernel.most_slots), np.int64),
        array("digests", (count, sources), np.uint64),
        _found(trace).ctypes.data,
        FOUND_NUMEL,
        array("filled", (brackets,), np.int64),
    )
    return (*machine.run(span, scratch, results), results)


def _memory(trace: Trace) -> Array:
    """Where this thread's pieces and blocks of a recording lie: uint8."""
    return _workspace.array("memory", (trace.kernel.memory_bytes,), np.uint8)


def _found(trace: Trace) -> Array:
    """Where the magnitudes in each bracket go."""
    brackets = trace.kernel.slots.get(OpCode.WITHIN, 0)
    return _workspace.array("found", (brackets, FOUND_NUMEL), trace.kernel.scalars.dtype)


def _reductions(trace: Trace, results: Any, done: int) -> list[Reductions]:
    """The results of each block, apart from the memory that the next call takes."""
    totals, counts = results.totals[:done].tolist(), results.counts[:done].tolist()
    kept = [row[:taken].copy() for row, taken in zip(_found(trace), results.filled.tolist(), strict=True)]
    ends = [0] * len(kept)
    found: list[Reductions] = []
    for block in range(done):
        counted, between = counts[block], counts[block][INSIDE]
        starts, ends = ends, [end + inside for end, inside in zip(ends, between, strict=False)]
        inside = [row[start:end] for row, start, end in zip(kept, starts, ends, strict=True)]
        brackets = list(zip(counted[BELOW], counted[AT_LOW], inside, counted[AT_HIGH], strict=False))
        found.append({OpCode.TOTAL: totals[block], OpCode.COUNT: counted[COUNTED], OpCode.WITHIN: brackets})
    return found


def compiling_pays(nbytes: int) -> bool:
    """Whether a pass that reads so many bytes is faster recorded: smaller ones never wait for the compiler."""
    return nbytes >= (LOADED_BYTES if _is_compiled() else COMPILED_BYTES)


@cache
def _is_compiled() -> bool:
    """Whether Numba has compiled the machine before, as far as can be told without loading Numba."""
    folder = Path(jit.__file__).parent
    changed = (folder / "runtime.py").stat().st_mtime
    elsewhere = os.environ.get("NUMBA_CACHE_DIR")
    folders = Path(elsewhere).glob("jit_*") if elsewhere else [folder / "__pycache__"]
    name = f"runtime._compiled.locals.run-*.py{sys.version_info.major}{sys.version_info.minor}.nbi"
    return any(index.stat().st_mtime >= changed for found in folders for index in found.glob(name))


_EMPTY = Trace(TraceBuilder(torch.float32, 0).kernel(0), {}, frozenset(), {}, (), {})
"""Does nothing."""


@cache
def _runtime() -> Any:
    """The compiled part; compiling takes seconds once a machine, loading it from Numba's cache half of one."""
    return import_module("lines_pipeline.jit.runtime")


@cache
def load_runtime() -> None:
    """Load the compiled part now, rather than within the first sweep."""
    if can_compile():
        nothing = (np.zeros((0, columns), np.int64) for columns in (5, 4, 2))
        _call(_EMPTY, _span(*nothing))


@cache
def can_compile() -> bool:
    """Whether recordings can be compiled here, and Numba has a place for what it compiles."""
    try:
        return find_spec("numba") is not None and _runtime() is not None and _EMPTY.loop is not None
    except (ImportError, RuntimeError):  # no XXH3 to call, no folder to write to, or no code to be made
        return False
