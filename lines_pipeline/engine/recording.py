"""Large merges in main memory: what a job does with a tensor is recorded once, then replayed over its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lines_pipeline.core.tensors import BLOCK_NUMEL, ITEM_BYTES
from lines_pipeline.engine.evaluation import Block, ProgramIndex, torch_dtype
from lines_pipeline.io.checkpoints import StoredTensor
from lines_pipeline.ops.base import Measure
from lines_pipeline.ops.blocks.tape import Code, Routine, Tape, Unrecordable
from lines_pipeline.planning.program import Destination

_WIDENED = ("bool", "bfloat16", "float16")
"""Types that the machine reads where it computes with another; of float8, tensors are not recorded."""


@dataclass(frozen=True)
class Recording:
    """What a pass does with one tensor under one assumption about its guesses."""

    routine: Routine
    dtype: torch.dtype
    """What is computed with."""
    sources: tuple[str, ...]
    """Steps whose blocks it takes, in order."""
    width: int
    """Bytes of one value of all sources together, as stored."""
    hashed: tuple[str, ...]
    """Sources of which the digest is wanted."""
    observed: Mapping[int, tuple[Any, ...]]
    """By observation: its reductions."""
    rows: Mapping[int, int]
    """By write: where in memory its value will be."""


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

    def destinations(self, number: int, tensor: str) -> tuple[Destination, ...]:
        """Where a write's tensor goes."""
        return self._program.writes[number].places[tensor]

    def is_packed(self, number: int) -> bool:
        """Whether a write stores 8 values a byte."""
        return self._program.writes[number].packed

    def _record(self, tensor: str, world: int) -> Recording | None:
        types = {step: self._program.sources[step][tensor].spec for step in self._index.read(tensor)}
        computed = {spec.compute_dtype for spec in types.values() if spec.dtype != "bool"}
        recordable = all(spec.dtype in (*_WIDENED, spec.compute_dtype) for spec in types.values())
        known_bad = any(tensor in self._program.nonfinite.get(step, ()) for step in types)
        if len(computed) != 1 or not recordable or known_bad:
            return None
        tape = Tape(torch_dtype(computed.pop()), len(types))
        masks = {step: spec.dtype == "bool" for step, spec in types.items()}
        given = {step: tape.source(n, is_mask=masks[step]) for n, step in enumerate(types)}
        hashed = tuple(step for step in types if step in self._program.hashed)
        block = Block(self._index, tensor, {step: given[step] for step in self._index.sources(tensor)})
        try:
            observed = {number: block.reduced(number, world) for number in self._index.observed(tensor, world)}
            written = (number for number, write in enumerate(self._program.writes) if tensor in write.places)
            kept = {number: tape.store(block.written(number)) for number in written}
            for number in {
                n for n, step in enumerate(types) if step in hashed and not masks[step]
            } - tape.told_finite():
                tape.reduce(Code.CHECK, tape.source(number), (torch.finfo(tape.dtype).max,))
            routine = tape.routine(BLOCK_NUMEL)
        except (Unrecordable, TypeError):
            return None
        width = sum(ITEM_BYTES[spec.dtype] for spec in types.values())
        rows = {number: routine.stored[row] for number, row in kept.items()}
        return Recording(routine, tape.dtype, tuple(types), width, hashed, observed, rows)
