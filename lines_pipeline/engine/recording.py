"""Blocks of large merges in main memory: what a job does with a tensor is recorded once, then run block by block."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import torch

from lines_pipeline.core.tensors import BLOCK_NUMEL, ITEM_BYTES
from lines_pipeline.engine.evaluation import Block, ProgramIndex, torch_dtype
from lines_pipeline.io.checkpoints import StoredTensor
from lines_pipeline.io.digests import block_digest
from lines_pipeline.io.reading import BlockReader, as_bytes
from lines_pipeline.ops import blocks
from lines_pipeline.ops.base import Measure
from lines_pipeline.ops.blocks.tape import LANES, Code, Reduced, Routine, Tape, Unrecordable

LOADED_BYTES, COMPILED_BYTES = 500_000_000, 4_000_000_000
"""What a pass has to read for recordings to pay: loading what is compiled takes half a second, compiling it several."""


@dataclass(frozen=True)
class Recording:
    """What a pass does with one tensor under one assumption about its guesses."""

    routine: Routine
    sources: tuple[str, ...]
    """Steps whose blocks it takes, in order."""
    width: int
    """Bytes of one value of all sources together, as stored."""
    hashed: tuple[str, ...]
    """Sources of which the digest is wanted."""
    checks: Mapping[str, Reduced]
    """By source: where the number of its values that are not finite will be."""
    observed: Mapping[int, tuple[Any, ...]]
    """By observation: its reductions."""
    stored: Mapping[int, int]
    """By write: which of the kept blocks is its value."""


class Recorder:
    """Makes the recordings of one job."""

    def __init__(self, index: ProgramIndex) -> None:
        self._index, self._program = index, index.program
        self._made: dict[tuple[str, int], Recording | None] = {}

    def recording(self, tensor: str, world: int = 0) -> Recording | None:
        """The recording for a tensor; None where it cannot be recorded, and is computed as it is read."""
        if (tensor, world) not in self._made:
            self._made[tensor, world] = self._record(tensor, world)
        return self._made[tensor, world]

    def measure(self, number: int) -> Measure:
        """What an observation measures."""
        return self._program.observations[number].measure

    def source(self, step: str, tensor: str) -> StoredTensor:
        """Where a source's tensor is stored."""
        return self._program.sources[step][tensor]

    def _record(self, tensor: str, world: int) -> Recording | None:
        types = {step: self._program.sources[step][tensor].spec for step in self._index.read(tensor)}
        computed = {spec.compute_dtype for spec in types.values() if spec.dtype != "bool"}
        recordable = all(spec.is_floating or spec.dtype == "bool" for spec in types.values())
        known_bad = any(tensor in self._program.nonfinite.get(step, ()) for step in types)
        if len(computed) != 1 or not recordable or known_bad:
            return None
        tape = Tape(torch_dtype(computed.pop()), len(types))
        masks = {step: spec.dtype == "bool" for step, spec in types.items()}
        given = {step: tape.source(n, is_mask=masks[step]) for n, step in enumerate(types)}
        hashed = tuple(step for step in types if step in self._program.hashed)
        largest = torch.finfo(tape.dtype).max
        checks = {step: tape.reduce(Code.CHECK, given[step], (largest,)) for step in hashed if not masks[step]}
        block = Block(self._index, tensor, {step: given[step] for step in self._index.sources(tensor)})
        try:
            observed = {number: block.reduced(number, world) for number in self._index.observed(tensor, world)}
            written = (number for number, write in enumerate(self._program.writes) if tensor in write.places)
            stored = {number: tape.store(block.written(number)) for number in written}
            routine = tape.routine(BLOCK_NUMEL)
        except (Unrecordable, TypeError):
            return None
        width = sum(ITEM_BYTES[spec.dtype] for spec in types.values())
        return Recording(routine, tuple(types), width, hashed, checks, observed, stored)


class Workspace(local):
    """A thread's memory for recordings, used again for all blocks and jobs."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, Any], np.ndarray[Any, Any]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """An array of this shape, with what was last in it; a larger one than before takes over the values."""
        key, size = (name, dtype), math.prod(shape)
        found = self._arrays.setdefault(key, np.empty(0, dtype))
        if found.size < size:
            self._arrays[key] = np.empty(size, dtype)
            self._arrays[key][: found.size] = found
        return self._arrays[key][:size].reshape(shape)


_workspace = Workspace()


_Results = dict[Code, list[Any]]
"""By kind of reduction, in the order of their slots."""


class RecordedBlock:
    """One block of a tensor that has a recording, read and run; the values are in memory that the next block takes."""

    def __init__(self, recorder: Recorder, reader: BlockReader, tensor: str, start: int, size: int) -> None:
        recording = recorder.recording(tensor)
        assert recording is not None
        self._recorder, self._reader, self._tensor = recorder, reader, tensor
        self._recording, self._start, self._size = recording, start, size
        self._type = recording.routine.scalars.dtype.type
        self._memory = _workspace.array("memory", (recording.routine.length,), self._type)
        """Rows of sources and of kept blocks, then strips; every world's routine has the same rows."""
        self._raw = _workspace.array("raw", (len(recording.sources), BLOCK_NUMEL), np.uint16)
        self._digests = _workspace.array("digests", (len(recording.sources),), np.uint64)
        self._narrow: dict[str, torch.Tensor] = {}
        self._reductions = {0: self._run(recording, self._files())}

    @property
    def nbytes(self) -> int:
        """Bytes read."""
        return self._size * self._recording.width

    def digests(self) -> dict[str, int]:
        """Of each source that is hashed, the digest of its block as stored."""
        found = dict(zip(self._recording.sources, self._digests.tolist(), strict=True))
        read_here = {step: block_digest(as_bytes(value)) for step, value in self._narrow.items()}
        return {step: (found | read_here)[step] for step in self._recording.hashed}

    def nonfinite(self) -> list[str]:
        """Sources that hold NaN or Inf, of those that are checked."""
        found = self._reductions[0][Code.CHECK]
        return [step for step, check in self._recording.checks.items() if found[check.slot]]

    def observed(self, number: int, world: int) -> Any:
        """The partial of an observation in one of its worlds."""
        recording = self._recorder.recording(self._tensor, world)
        assert recording is not None
        if world not in self._reductions:
            self._reductions[world] = self._run(recording, np.zeros((len(recording.sources), 4), np.int64))
        found = self._reductions[world]
        reduced = [found[one.code][one.slot] for one in recording.observed[number]]
        return self._recorder.measure(number).partial(*reduced)

    def written(self, number: int) -> torch.Tensor:
        """The value of a write."""
        offset = self._recording.routine.stored[self._recording.stored[number]]
        return torch.from_numpy(self._memory[offset : offset + self._size])

    def _source(self, step: str) -> StoredTensor:
        return self._recorder.source(step, self._tensor)

    def _row(self, source: int) -> np.ndarray[Any, Any]:
        return self._memory[source * BLOCK_NUMEL : source * BLOCK_NUMEL + self._size]

    def _files(self) -> np.ndarray[Any, Any]:
        """What the machine reads; types that it does not know are read here."""
        files = np.zeros((len(self._recording.sources), 4), np.int64)
        for number, step in enumerate(self._recording.sources):
            source = self._source(step)
            width = ITEM_BYTES[source.spec.dtype]
            if source.spec.dtype == "bfloat16" or width == self._memory.itemsize:
                descriptor, position = self._reader.descriptor(source.path), source.offset + self._start * width
                files[number] = descriptor, position, width, step in self._recording.hashed
            else:
                self._read(number, step)
        return files

    def _read(self, number: int, step: str) -> None:
        """Read a source here; what cannot be read has its error."""
        self._narrow[step] = self._reader.block(self._source(step), self._start, self._start + self._size)
        torch.from_numpy(self._row(number)).copy_(self._narrow[step])

    def _run(self, recording: Recording, files: np.ndarray[Any, Any]) -> _Results:
        routine = recording.routine
        self._memory = _workspace.array("memory", (routine.length,), self._type)
        slots = {code: routine.slots.get(code, 0) for code in (Code.TOTAL, Code.COUNT, Code.WITHIN, Code.CHECK)}
        sums = _workspace.array("sums", (slots[Code.TOTAL], LANES), np.float64)
        counts = _workspace.array("counts", (6, max(slots.values())), np.int64)
        found = _workspace.array("found", (slots[Code.WITHIN], BLOCK_NUMEL + 1), self._type)
        place = (self._memory, self._raw, sums, counts, found, files, self._digests, self._size)
        while (unread := _machine().run(routine.code, routine.places, routine.scalars, *place)) >= 0:
            self._read(unread, recording.sources[unread])
            files[unread] = 0
        set_or_not, *ends, bad = counts.tolist()
        brackets = [
            (below, at_low, found[slot, :inside].copy(), at_high)
            for slot, (below, at_low, inside, at_high) in enumerate(zip(*ends, strict=True))
            if slot < slots[Code.WITHIN]
        ]
        return {Code.TOTAL: sums[:, 0].tolist(), Code.COUNT: set_or_not, Code.CHECK: bad, Code.WITHIN: brackets}


def recordings_pay(nbytes: int) -> bool:
    """Whether a pass that reads so many bytes is faster recorded: smaller ones never wait for the compiler."""
    return nbytes >= (LOADED_BYTES if _is_compiled() else COMPILED_BYTES)


@cache
def _is_compiled() -> bool:
    """Whether Numba has compiled the machine before, as far as can be told without loading Numba."""
    source = Path(blocks.__file__).with_name("machine.py")
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    found = source.with_name("__pycache__").glob(f"machine.run-*.{python}.nbi")
    return any(index.stat().st_mtime >= source.stat().st_mtime for index in found)


@cache
def _machine() -> Any:
    """The compiled part; compiling takes seconds once a machine, loading it from Numba's cache half of one."""
    return import_module("lines_pipeline.ops.blocks.machine")


@cache
def load_machine() -> None:
    """Load the compiled part now, for the type that most models have, rather than within the first sweep."""
    if can_record():
        none, number = np.zeros((0, 8), np.int64), np.zeros(1, np.float32)
        sums, counts, found = np.zeros((0, LANES)), np.zeros((6, 0), np.int64), np.zeros((0, 1), np.float32)
        raw, files = np.zeros((0, 1), np.uint16), np.zeros((0, 4), np.int64)
        digests = np.zeros(0, np.uint64)
        _machine().run(none, none[:, :2].copy(), number, number, raw, sums, counts, found, files, digests, 0)


@cache
def can_record() -> bool:
    """Whether Numba is there to run recordings, and has a place for what it compiles."""
    try:
        return find_spec("numba") is not None and _machine() is not None
    except (ImportError, RuntimeError):  # no XXH3 for it to call, or no folder that it may write to
        return False
