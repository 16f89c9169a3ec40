"""Traces what the tasks of a stage do with a tensor, once for all of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, ITEM_BYTES
from lines_pipeline.executor.compilation import compile_error
from lines_pipeline.executor.interpreter import BlockEvaluator, PlanIndex, torch_dtype
from lines_pipeline.io.checkpoint import StoredTensor
from lines_pipeline.jit.boundary import CompilerFailure, Untraceable, boundary
from lines_pipeline.jit.compiling import CompiledKernel, compile_kernel
from lines_pipeline.jit.instructions import STORED, Kernel, OpCode, Row
from lines_pipeline.jit.tracing import TraceBuilder, TracedValue
from lines_pipeline.ops.base import AnyStatistic
from lines_pipeline.planner.tasks import Write, WriteTarget


@dataclass(frozen=True)
class Trace:
    """Holds what a stage does with one tensor under one assumption about its speculation."""

    kernel: Kernel
    sources: Mapping[str, StoredTensor]
    """By step, in the order of the kernel's sources."""
    hashed: frozenset[str]
    """Sources whose digest is wanted."""
    observed: Mapping[int, tuple[Any, ...]]
    """By observation: its reductions."""
    outputs: Sequence[tuple[WriteTarget, Row]]
    """Files that the kernel's launch writes, and the rows of their values."""
    converted: Mapping[int, Row]
    """By write whose value the interpreter converts and writes: its row."""

    @cached_property
    def compiled(self) -> CompiledKernel:
        """Return the kernel's machine code, compiled once a signature; raises ``CompilerFailure``."""
        return compile_kernel(self.kernel)

    @cached_property
    def width(self) -> int:
        """Return the bytes of one value of all sources together, as stored."""
        return sum(ITEM_BYTES[stored.spec.dtype] for stored in self.sources.values())


class Tracer:
    """Makes the traces of a stage for all tasks of a process, until a compiler fails."""

    def __init__(self, index: PlanIndex) -> None:
        self._index, self._stage_plan = index, index.stage_plan
        self._traces: dict[tuple[str, int], Trace | None] = {}
        self.failure = ""
        """Why the interpreter does all blocks from now on; empty while compilers work."""

    def give_up(self, failure: CompilerFailure) -> None:
        """Leave the stage to the interpreter; raise ``EngineError`` where the recipe asks for compiled loops."""
        if self._stage_plan.compile == "always":
            raise compile_error(failure) from failure
        self.failure = self.failure or str(failure)

    def trace(self, tensor: str, assumption: int = 0) -> Trace | None:
        """Return the trace of a tensor, None where the interpreter has to do it; raises ``CompilerFailure``."""
        if (tensor, assumption) not in self._traces:
            with boundary():
                self._traces[tensor, assumption] = self._trace(tensor, assumption)
        return self._traces[tensor, assumption]

    def statistic(self, number: int) -> AnyStatistic:
        """Return the statistic of an observation."""
        return self._stage_plan.observations[number].statistic

    def _trace(self, tensor: str, assumption: int) -> Trace | None:
        sources = {step: self._stage_plan.sources[step][tensor] for step in self._index.read(tensor)}
        computed = self._compute_dtype(tensor, sources)
        if computed is None:
            return None
        builder = TraceBuilder(computed, len(sources))
        traced = {
            step: builder.source(number, STORED[stored.spec.dtype])
            for number, (step, stored) in enumerate(sources.items())
        }
        hashed = self._index.hashed(tensor)
        block = BlockEvaluator(self._index, tensor, {step: traced[step] for step in self._index.sources(tensor)})
        numbers = self._index.observed(tensor, assumption)
        try:
            observed = {number: block.reduced(number, assumption) for number in numbers}
            outputs, converted = self._store(builder, block, tensor)
        except (Untraceable, TypeError):  # torch's functions raise the latter for what is no tensor
            return None
        _check_finite(builder, [traced[step] for step in sources if step in hashed])
        kernel = builder.kernel(BLOCK_NUMEL)
        rows = kernel.stored_rows
        written = [(to, rows[number]) for to, number in outputs]
        return Trace(kernel, sources, hashed, observed, written, {write: rows[n] for write, n in converted.items()})

    def _compute_dtype(self, tensor: str, sources: Mapping[str, StoredTensor]) -> torch.dtype | None:
        """Return the compute type of a tensor whose blocks a kernel can do; None for others."""
        plan, specs = self._stage_plan, [stored.spec for stored in sources.values()]
        computed = {spec.compute_dtype for spec in specs if spec.dtype != "bool"}
        plain = all(stored.spec.dtype in STORED and stored.is_plain for stored in sources.values())
        nonfinite = any(tensor in plan.nonfinite.get(step, ()) for step in sources)
        hashed_view = any(self._index.is_view(step, tensor) and step in plan.hashed for step in sources)
        padded = any(tensor in schema.regions for schema in plan.schemas.values())
        if len(computed) != 1 or not plain or nonfinite or hashed_view or padded:
            return None
        return torch_dtype(computed.pop())

    def _store(
        self, builder: TraceBuilder, block: BlockEvaluator, tensor: str
    ) -> tuple[list[tuple[WriteTarget, int]], dict[int, int]]:
        """Store the values that are written: number by target, or by write where the interpreter converts it."""
        outputs: list[tuple[WriteTarget, int]] = []
        converted: dict[int, int] = {}
        for number, write in enumerate(self._stage_plan.writes):
            if tensor not in write.positions:
                continue
            value = block.written(number)
            if _is_written_by_kernel(write, tensor, builder.dtype):
                outputs += ((to, builder.store(value, STORED[to.dtype])) for to in write.positions[tensor])
            else:
                converted[number] = builder.store(value)
        return outputs, converted


def _check_finite(builder: TraceBuilder, sources: Sequence[TracedValue]) -> None:
    """Count NaN and Inf in the sources that no total shows to be finite."""
    shown = builder.sources_in_totals()
    for source in sources:
        if not source.is_mask and source.number not in shown:
            builder.reduce(OpCode.CHECK, source, (torch.finfo(builder.dtype).max,))


def _is_written_by_kernel(write: Write, tensor: str, computed: torch.dtype) -> bool:
    """Return whether a value is stored in its compute type, or in a type that kernels round to."""
    known = {computed, torch.bfloat16, torch.float16} if computed is torch.float32 else {computed}
    return not write.packed and {torch_dtype(to.dtype) for to in write.positions[tensor]} <= known
