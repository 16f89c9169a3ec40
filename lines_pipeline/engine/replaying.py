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

from lines_pipeline.core.errors import EngineError
from lines_pipeline.core.tensors import BLOCK_NUMEL
from lines_pipeline.engine.recording import Recorder, Recording
from lines_pipeline.engine.staging import Place
from lines_pipeline.io.writing import write_block
from lines_pipeline.ops import blocks
from lines_pipeline.ops.blocks.form import AT_HIGH, AT_LOW, BELOW, COUNTED, COUNTS, INSIDE
from lines_pipeline.ops.blocks.tape import LANES, Code, Tape

LOADED_BYTES, COMPILED_BYTES = 500_000_000, 2_000_000_000
"""What a pass has to read for recordings to pay: loading the machine takes half a second, compiling it some seconds."""

FOUND_NUMEL = 2 * BLOCK_NUMEL
"""Room for what one bracket finds in the blocks of a call; a call ends where another block might not fit."""

_LINE_BYTES = 64

Array = np.ndarray[Any, Any]
Reductions = Mapping[Code, Sequence[Any]]
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


class Replayer:
    """Replays the recordings of one job; ``reading`` and ``writing`` give the descriptors of files by path."""

    def __init__(self, recorder: Recorder, reading: Callable[[str], int], writing: Callable[[str], int]) -> None:
        self.recorder, self._reading, self._writing = recorder, reading, writing

    def replay(self, places: Sequence[Place]) -> list[ReplayedBlock]:
        """Blocks of one tensor, from the first on as far as one call goes: none where the first is to be computed
        without recordings, because it cannot be recorded or read, or because its values are not finite."""
        recording = self.recorder.recording(places[0][0])
        if recording is None:
            return []
        found = self._run(recording, places[:1] if recording.kept else places)  # kept in memory that the next one takes
        return [ReplayedBlock(self, place, *given) for place, given in zip(places, found, strict=False)]

    def again(self, place: Place, world: int) -> Reductions:
        """What a block gives in another of its worlds."""
        recording = self.recorder.recording(place[0], world)
        assert recording is not None
        read = {stored.path for stored in recording.sources.values()}
        assert read.isdisjoint(to.path for to, _ in recording.outputs)  # a pass that finishes drafts guesses nothing
        found = self._run(replace(recording, hashed=frozenset(), outputs=()), [place])
        if not found:
            raise EngineError(f"tensor '{place[0]}' cannot be read a second time: a file was cut short during the run")
        return found[0][0]

    def _run(self, recording: Recording, places: Sequence[Place]) -> list[tuple[Reductions, dict[str, int]]]:
        """Reductions and digests by source of the blocks that could be done."""
        blocks = np.array([(start, stop - start) for _, start, stop in places], np.int64)
        done, why, results = _call(recording, _span(self._sources(recording), self._outputs(recording), blocks))
        if why == _machine().UNWRITTEN:  # perhaps not for long; if it is, this raises the error
            self._write(recording, places[done])
            done += 1
        digests = [
            {step: digest for step, digest in zip(recording.sources, found, strict=True) if step in recording.hashed}
            for found in results.digests[:done].tolist()
        ]
        return list(zip(_reductions(recording, results, done), digests, strict=True))

    def _sources(self, recording: Recording) -> Array:
        """Where the machine reads."""
        rows = [
            (self._reading(stored.path), stored.offset, row.item_bytes, row.offset, step in recording.hashed)
            for (step, stored), row in zip(recording.sources.items(), recording.routine.taken, strict=True)
        ]
        return np.array(rows, np.int64).reshape(-1, 5)

    def _outputs(self, recording: Recording) -> Array:
        """Where it writes."""
        rows = [(self._writing(to.path), to.offset, row.item_bytes, row.offset) for to, row in recording.outputs]
        return np.array(rows, np.int64).reshape(-1, 4)

    def _write(self, recording: Recording, place: Place) -> None:
        """Write what the machine computed of a block."""
        _, start, stop = place
        for to, row in recording.outputs:
            value = _memory(recording)[row.offset : row.offset + (stop - start) * row.item_bytes]
            position = to.offset + start * row.item_bytes
            write_block(to.path, self._writing(to.path), position, torch.from_numpy(value))


@dataclass(frozen=True)
class ReplayedBlock:
    """One block of a tensor that was replayed."""

    replayer: Replayer
    place: Place
    reductions: Reductions
    digests: Mapping[str, int]
    """By source, of those that are hashed."""

    @property
    def nbytes(self) -> int:
        """Bytes read."""
        _, start, stop = self.place
        return (stop - start) * self._recording(0).width

    def observed(self, number: int, world: int) -> Any:
        """The partial of an observation in one of its worlds."""
        found = self.replayer.again(self.place, world) if world else self.reductions
        reduced = [found[one.code][one.slot] for one in self._recording(world).observed[number]]
        return self.replayer.recorder.measure(number).partial(*reduced)

    def written(self, number: int) -> torch.Tensor | None:
        """The value of a write, in memory that the next block takes; None where it is written."""
        recording = self._recording(0)
        if number not in recording.kept:
            return None
        _, start, stop = self.place
        values = _memory(recording)[recording.kept[number] :].view(recording.routine.scalars.dtype)
        return torch.from_numpy(values[: stop - start])

    def _recording(self, world: int) -> Recording:
        recording = self.replayer.recorder.recording(self.place[0], world)
        assert recording is not None
        return recording


def _span(sources: Array, outputs: Array, blocks: Array) -> Any:
    return _machine().Span(sources, outputs, blocks)


def _call(recording: Recording, span: Any) -> tuple[int, int, Any]:
    """Run the machine: how many blocks are done, why it ends, and its ``Results``."""
    machine, routine, array = _machine(), recording.routine, _workspace.array
    totals, brackets = (routine.slots.get(code, 0) for code in (Code.TOTAL, Code.WITHIN))
    sources, count = len(recording.sources), len(span.blocks)
    scratch = machine.Scratch(
        recording.loop.address,
        routine.scalars.ctypes.data,
        _memory(recording).ctypes.data,
        array("hashing", (sources, machine.STATE_BYTES), np.uint8).ctypes.data,
        array("lanes", (totals, LANES), np.float64),
    )
    results = machine.Results(
        array("totals", (count, totals), np.float64),
        array("counts", (count, COUNTS, routine.most_slots), np.int64),
        array("digests", (count, sources), np.uint64),
        _found(recording).ctypes.data,
        FOUND_NUMEL,
        array("filled", (brackets,), np.int64),
    )
    return (*machine.run(span, scratch, results), results)


def _memory(recording: Recording) -> Array:
    """Where this thread's pieces and blocks of a recording lie: uint8."""
    return _workspace.array("memory", (recording.routine.memory_bytes,), np.uint8)


def _found(recording: Recording) -> Array:
    """Where the magnitudes in each bracket go."""
    brackets = recording.routine.slots.get(Code.WITHIN, 0)
    return _workspace.array("found", (brackets, FOUND_NUMEL), recording.routine.scalars.dtype)


def _reductions(recording: Recording, results: Any, done: int) -> list[Reductions]:
    """The results of each block, apart from the memory that the next call takes."""
    totals, counts = results.totals[:done].tolist(), results.counts[:done].tolist()
    kept = [row[:taken].copy() for row, taken in zip(_found(recording), results.filled.tolist(), strict=True)]
    ends = [0] * len(kept)
    found: list[Reductions] = []
    for block in range(done):
        counted, between = counts[block], counts[block][INSIDE]
        starts, ends = ends, [end + inside for end, inside in zip(ends, between, strict=False)]
        inside = [row[start:end] for row, start, end in zip(kept, starts, ends, strict=True)]
        brackets = list(zip(counted[BELOW], counted[AT_LOW], inside, counted[AT_HIGH], strict=False))
        found.append({Code.TOTAL: totals[block], Code.COUNT: counted[COUNTED], Code.WITHIN: brackets})
    return found


def recordings_pay(nbytes: int) -> bool:
    """Whether a pass that reads so many bytes is faster recorded: smaller ones never wait for the compiler."""
    return nbytes >= (LOADED_BYTES if _is_compiled() else COMPILED_BYTES)


@cache
def _is_compiled() -> bool:
    """Whether Numba has compiled the machine before, as far as can be told without loading Numba."""
    folder = Path(blocks.__file__).parent
    changed = (folder / "machine.py").stat().st_mtime
    elsewhere = os.environ.get("NUMBA_CACHE_DIR")
    folders = Path(elsewhere).glob("blocks_*") if elsewhere else [folder / "__pycache__"]
    name = f"machine._compiled.locals.run-*.py{sys.version_info.major}{sys.version_info.minor}.nbi"
    return any(index.stat().st_mtime >= changed for found in folders for index in found.glob(name))


_EMPTY = Recording(Tape(torch.float32, 0).routine(0), {}, frozenset(), {}, (), {})
"""Does nothing."""


@cache
def _machine() -> Any:
    """The compiled part; compiling takes seconds once a machine, loading it from Numba's cache half of one."""
    return import_module("lines_pipeline.ops.blocks.machine")


@cache
def load_machine() -> None:
    """Load the compiled part now, rather than within the first sweep."""
    if can_replay():
        nothing = (np.zeros((0, columns), np.int64) for columns in (5, 4, 2))
        _call(_EMPTY, _span(*nothing))


@cache
def can_replay() -> bool:
    """Whether recordings can be compiled here, and Numba has a place for what it compiles."""
    try:
        return find_spec("numba") is not None and _machine() is not None and _EMPTY.loop is not None
    except (ImportError, RuntimeError):  # no XXH3 to call, no folder to write to, or no code to be made
        return False
