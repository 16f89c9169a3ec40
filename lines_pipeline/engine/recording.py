"""Large merges in main memory: what a job does with a tensor is recorded once, then replayed over its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from lines_pipeline.core.tensors import BLOCK_NUMEL, ITEM_BYTES
from lines_pipeline.engine.evaluation import Block, ProgramIndex, torch_dtype
from lines_pipeline.io.checkpoints import StoredTensor
from lines_pipeline.ops.base import Measure
from lines_pipeline.ops.blocks.tape import STORED, Code, Register, Routine, Row, Tape, Unrecordable
from lines_pipeline.planning.program import Destination, Write

if TYPE_CHECKING:
    from lines_pipeline.ops.blocks.fusion import Loop


@dataclass(frozen=True)
class Recording:
    """What a pass does with one tensor under one assumption about its guesses."""

    routine: Routine
    sources: Mapping[str, StoredTensor]
    """By step, in order: the blocks that it takes."""
    hashed: frozenset[str]
    """Sources of which the digest is wanted."""
    observed: Mapping[int, tuple[Any, ...]]
    """By observation: its reductions."""
    outputs: Sequence[tuple[Destination, Row]]
    """What the machine writes: where to, and where in memory the value is."""
    kept: Mapping[int, int]
    """By write that is converted first: where in memory its value is."""

    @cached_property
    def loop(self) -> Loop:
        """The routine, compiled: takes some hundredths of a second when it is the first of its form."""
        from lines_pipeline.ops.blocks.fusion import fused  # takes a while, for what small merges never need

        return fused(self.routine)

    @cached_property
    def width(self) -> int:
        """Bytes of one value of all sources together, as stored."""
        return sum(ITEM_BYTES[stored.spec.dtype] for stored in self.sources.values())


class Recorder:
    """Makes the recordings of one program, for all its jobs in a process."""

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

    def _record(self, tensor: str, world: int) -> Recording | None:
        sources = {step: self._program.sources[step][tensor] for step in self._index.read(tensor)}
        types = {step: stored.spec for step, stored in sources.items()}
        computed = {spec.compute_dtype for spec in types.values() if spec.dtype != "bool"}
        recordable = all(spec.dtype in STORED for spec in types.values())
        known_bad = any(tensor in self._program.nonfinite.get(step, ()) for step in types)
        known_bad = known_bad or any(self._index.is_view(s, tensor) and s in self._program.hashed for s in types)
        recordable = recordable and all(stored.is_plain for stored in sources.values())
        recordable = recordable and not any(tensor in layout.regions for layout in self._program.layouts.values())
        if len(computed) != 1 or not recordable or known_bad:
            return None
        tape = Tape(torch_dtype(computed.pop()), len(types))
        given = {step: tape.source(number, STORED[types[step].dtype]) for number, step in enumerate(types)}
        hashed = self._index.hashed(tensor)
        block = Block(self._index, tensor, {step: given[step] for step in self._index.sources(tensor)})
        try:
            observed = {number: block.reduced(number, world) for number in self._index.observed(tensor, world)}
            outputs, kept = self._store(tape, block, tensor)
            _check_finite(tape, [given[step] for step in types if step in hashed])
            routine = tape.routine(BLOCK_NUMEL)
        except (Unrecordable, TypeError):
            return None
        written = [(to, routine.kept[place]) for to, place in outputs]
        offsets = {number: routine.kept[place].offset for number, place in kept.items()}
        return Recording(routine, sources, hashed, observed, written, offsets)

    def _store(self, tape: Tape, block: Block, tensor: str) -> tuple[list[tuple[Destination, int]], dict[int, int]]:
        """Keep what is written: by place, and by write where it is converted first."""
        outputs: list[tuple[Destination, int]] = []
        kept: dict[int, int] = {}
        for number, write in enumerate(self._program.writes):
            if tensor not in write.places:
                continue
            value = block.written(number)
            if _is_stored_by_machine(write, tensor, tape.dtype):
                outputs += ((to, tape.store(value, STORED[to.dtype])) for to in write.places[tensor])
            else:
                kept[number] = tape.store(value)
        return outputs, kept


def _check_finite(tape: Tape, sources: Sequence[Register]) -> None:
    """Count NaN and Inf in sources where no total tells of them."""
    told = tape.told_finite()
    for source in sources:
        if not source.is_mask and source.number not in told:
            tape.reduce(Code.CHECK, source, (torch.finfo(tape.dtype).max,))


def _is_stored_by_machine(write: Write, tensor: str, computed: torch.dtype) -> bool:
    """Whether a value goes to its files without being converted first, or by rounding float32 alone."""
    known = {computed, torch.bfloat16, torch.float16} if computed is torch.float32 else {computed}
    return not write.packed and {torch_dtype(to.dtype) for to in write.places[tensor]} <= known
