"""Large merges in main memory: what a job does with a tensor is recorded once, then replayed over its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, ITEM_BYTES
from lines_pipeline.executor.interpreter import BlockEvaluator, PlanIndex, torch_dtype
from lines_pipeline.io.checkpoint import StoredTensor
from lines_pipeline.jit.tracing import STORED, Kernel, OpCode, Row, TraceBuilder, TracedValue, Untraceable
from lines_pipeline.ops.base import AnyStatistic
from lines_pipeline.planner.tasks import Write, WriteTarget

if TYPE_CHECKING:
    from lines_pipeline.jit.compiling import CompiledKernel


@dataclass(frozen=True)
class Trace:
    """What a pass does with one tensor under one assumption about its guesses."""

    kernel: Kernel
    sources: Mapping[str, StoredTensor]
    """By step, in order: the blocks that it takes."""
    hashed: frozenset[str]
    """Sources of which the digest is wanted."""
    observed: Mapping[int, tuple[Any, ...]]
    """By observation: its reductions."""
    outputs: Sequence[tuple[WriteTarget, Row]]
    """What the machine writes: where to, and where in memory the value is."""
    kept: Mapping[int, int]
    """By write that is converted first: where in memory its value is."""

    @cached_property
    def loop(self) -> CompiledKernel:
        """The routine, compiled: takes some hundredths of a second when it is the first of its form."""
        from lines_pipeline.jit.compiling import compile_kernel  # takes a while, for what small merges never need

        return compile_kernel(self.kernel)

    @cached_property
    def width(self) -> int:
        """Bytes of one value of all sources together, as stored."""
        return sum(ITEM_BYTES[stored.spec.dtype] for stored in self.sources.values())


class Tracer:
    """Makes the recordings of one program, for all its jobs in a process."""

    def __init__(self, index: PlanIndex) -> None:
        self._index, self._program = index, index.stage_plan
        self._made: dict[tuple[str, int], Trace | None] = {}

    def trace(self, tensor: str, assumption: int = 0) -> Trace | None:
        """The recording for a tensor; None where it cannot be recorded, and is computed as it is read."""
        if (tensor, assumption) not in self._made:
            self._made[tensor, assumption] = self._record(tensor, assumption)
        return self._made[tensor, assumption]

    def statistic(self, number: int) -> AnyStatistic:
        """What an observation measures."""
        return self._program.observations[number].statistic

    def _record(self, tensor: str, assumption: int) -> Trace | None:
        sources = {step: self._program.sources[step][tensor] for step in self._index.read(tensor)}
        types = {step: stored.spec for step, stored in sources.items()}
        computed = {spec.compute_dtype for spec in types.values() if spec.dtype != "bool"}
        recordable = all(spec.dtype in STORED for spec in types.values())
        known_bad = any(tensor in self._program.nonfinite.get(step, ()) for step in types)
        known_bad = known_bad or any(self._index.is_view(s, tensor) and s in self._program.hashed for s in types)
        recordable = recordable and all(stored.is_plain for stored in sources.values())
        recordable = recordable and not any(tensor in layout.regions for layout in self._program.schemas.values())
        if len(computed) != 1 or not recordable or known_bad:
            return None
        builder = TraceBuilder(torch_dtype(computed.pop()), len(types))
        given = {step: builder.source(number, STORED[types[step].dtype]) for number, step in enumerate(types)}
        hashed = self._index.hashed(tensor)
        block = BlockEvaluator(self._index, tensor, {step: given[step] for step in self._index.sources(tensor)})
        try:
            observed = {
                number: block.reduced(number, assumption) for number in self._index.observed(tensor, assumption)
            }
            outputs, kept = self._store(builder, block, tensor)
            _check_finite(builder, [given[step] for step in types if step in hashed])
            kernel = builder.kernel(BLOCK_NUMEL)
        except (Untraceable, TypeError):
            return None
        written = [(to, kernel.kept[position]) for to, position in outputs]
        offsets = {number: kernel.kept[position].offset for number, position in kept.items()}
        return Trace(kernel, sources, hashed, observed, written, offsets)

    def _store(
        self, builder: TraceBuilder, block: BlockEvaluator, tensor: str
    ) -> tuple[list[tuple[WriteTarget, int]], dict[int, int]]:
        """Keep what is written: by place, and by write where it is converted first."""
        outputs: list[tuple[WriteTarget, int]] = []
        kept: dict[int, int] = {}
        for number, write in enumerate(self._program.writes):
            if tensor not in write.positions:
                continue
            value = block.written(number)
            if _is_stored_by_machine(write, tensor, builder.dtype):
                outputs += ((to, builder.store(value, STORED[to.dtype])) for to in write.positions[tensor])
            else:
                kept[number] = builder.store(value)
        return outputs, kept


def _check_finite(builder: TraceBuilder, sources: Sequence[TracedValue]) -> None:
    """Count NaN and Inf in sources where no total tells of them."""
    told = builder.told_finite()
    for source in sources:
        if not source.is_mask and source.number not in told:
            builder.reduce(OpCode.CHECK, source, (torch.finfo(builder.dtype).max,))


def _is_stored_by_machine(write: Write, tensor: str, computed: torch.dtype) -> bool:
    """Whether a value goes to its files without being converted first, or by rounding float32 alone."""
    known = {computed, torch.bfloat16, torch.float16} if computed is torch.float32 else {computed}
    return not write.packed and {torch_dtype(to.dtype) for to in write.positions[tensor]} <= known
