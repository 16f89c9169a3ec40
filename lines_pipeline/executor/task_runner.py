"""What a worker does: read the blocks of a task's slices, evaluate, observe, write, and return small statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import torch

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL
from lines_pipeline.executor.allocation import keep_freed_blocks, return_freed_blocks
from lines_pipeline.executor.block_reading import Resolved, SourceBlocks
from lines_pipeline.executor.block_writing import OutputBlocks, restored
from lines_pipeline.executor.compiled_tasks import CompiledBlock, CompiledTasks
from lines_pipeline.executor.devices import resolve_device
from lines_pipeline.executor.interpreter import PlanIndex
from lines_pipeline.executor.prefetch import BlockPosition, Staged, Stored, stage
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.executor.tracing import Tracer
from lines_pipeline.executor.whole_tensors import WholeTensor
from lines_pipeline.jit.boundary import CompilerFailure, Untraceable
from lines_pipeline.jit.launch import load_runtime
from lines_pipeline.ops.base import AnyStatistic
from lines_pipeline.planner.tasks import StagePlan, Task, TensorSlice

GPU_BLOCKS = 16
"""Blocks that a GPU computes at once."""


def run_task(stage_plan: StagePlan, task: Task) -> TaskResult:
    """Carry out one task in one thread: results depend on neither the worker nor the order."""
    torch.set_num_threads(1)
    keep_freed_blocks()
    worker = _TaskRunner(stage_plan)
    try:
        with torch.inference_mode():
            worker.do(task.slices)
    finally:
        worker.close()
    if worker.is_interpreted:
        worker.result.move_partials()
        return_freed_blocks()
    return worker.result


@lru_cache(maxsize=1)
def _prepared(stage_plan: StagePlan) -> tuple[PlanIndex, Tracer | None]:
    """Return what the tasks of a stage share in a process; the tracer where compiled kernels are to do their blocks."""
    index = PlanIndex(replace(stage_plan, device=resolve_device(stage_plan.device)))
    if stage_plan.compile == "never" or index.stage_plan.device != "cpu":
        return index, None
    tracer = Tracer(index)
    try:
        load_runtime()
    except CompilerFailure as failure:
        tracer.give_up(failure)
    return index, tracer


class _Values(Protocol):
    """One block with its sources read, whichever way it is computed."""

    def observed(self, number: int, assumption: int) -> Any:
        """Return the partial of an observation under one of its assumptions."""

    def written(self, number: int) -> torch.Tensor | None:
        """Return the value of a write; None where it is written already."""


class _TaskRunner:
    """Carries out one task."""

    def __init__(self, stage_plan: StagePlan) -> None:
        self.result = TaskResult()
        self.is_interpreted = False
        """Whether the interpreter did any block."""
        self._index, self._tracer = _prepared(stage_plan)
        self._stage_plan = self._index.stage_plan
        self._sources, self._outputs = SourceBlocks(self._index, self.result), OutputBlocks(self.result)
        self._latest: dict[int, Any] = {}
        """What the block in hand gave, by observation."""

    def close(self) -> None:
        if self._tracer is not None:
            self.result.compiler_failure = self._tracer.failure
        self._sources.close()
        self._outputs.close()

    def do(self, slices: Sequence[TensorSlice]) -> None:
        """Read and hash all sources of each block, resolve NaN and Inf, then observe and write."""
        if slices and slices[0].tensor in self._stage_plan.whole:
            self._merge_whole(slices[0])
            return
        positions = [position for tensor_slice in slices for position in self._blocks(tensor_slice)]
        if self._tracer is None:
            for staged in stage(self._stage_plan.device, positions, self._sources.read):
                self._interpret(staged)
            return
        compiled = CompiledTasks(self._tracer, self._sources.descriptor, self._outputs.descriptor)
        for _, blocks in groupby(positions, itemgetter(0)):
            self._run_compiled(compiled, list(blocks))

    def _blocks(self, tensor_slice: TensorSlice) -> Iterator[BlockPosition]:
        """Yield the positions of a slice's blocks; a GPU takes larger ones."""
        numel = BLOCK_NUMEL if self._stage_plan.device == "cpu" else GPU_BLOCKS * BLOCK_NUMEL
        for start in range(tensor_slice.start, tensor_slice.stop, numel):
            yield tensor_slice.tensor, start, min(start + numel, tensor_slice.stop)

    def _merge_whole(self, tensor_slice: TensorSlice) -> None:
        """Compute and write a tensor that an op has to see whole."""
        tensor, positions = tensor_slice.tensor, list(self._blocks(tensor_slice))
        writes = [write for write in self._stage_plan.writes if tensor in write.positions]
        whole = WholeTensor(self._index, self._sources, self._index.steps[writes[0].step], tensor, positions)
        merged, remarks = whole.merged()
        self.result.remarks += remarks
        for position in positions:
            resolved = whole.resolved.get(position)
            value = restored(merged[position[1] : position[2]], resolved)
            for write in writes:
                self._outputs.write(write, value, position, resolved)

    def _run_compiled(self, compiled: CompiledTasks, positions: Sequence[BlockPosition]) -> None:
        """Run blocks of a tensor by launches of its kernel; the interpreter does those that a launch leaves out."""
        while positions:
            blocks = self._launched(compiled, positions)
            for block in blocks:
                self._count(block)
                self._use(block, block.position, {}, None)
            if not blocks:
                stored = self._sources.read(positions[0])
                self._interpret(Staged(positions[0], stored, stored))
            positions = positions[len(blocks) or 1 :]

    def _launched(self, compiled: CompiledTasks, positions: Sequence[BlockPosition]) -> list[CompiledBlock]:
        """Return the blocks that a launch did; none once a compiler has failed."""
        if compiled.tracer.failure:
            return []
        try:
            return compiled.run(positions)
        except CompilerFailure as failure:
            compiled.tracer.give_up(failure)
            return []

    def _interpret(self, staged: Staged) -> None:
        self.is_interpreted = True
        block, resolved = self._sources.evaluator(staged)
        self._use(block, staged.position, staged.stored, resolved)

    def _count(self, block: CompiledBlock) -> None:
        """Count what a kernel read, and note its digests."""
        self.result.bytes_read += block.nbytes
        name = self._index.name(block.position[0])
        for step, digest in block.digests.items():
            self.result.digests.setdefault((step, name), []).append((block.position[1], digest))

    def _use(self, block: _Values, position: BlockPosition, stored: Stored, resolved: Resolved | None) -> None:
        """Observe a block and write it."""
        tensor, start, stop = position
        self._latest.clear()
        for number in self._index.observed(tensor):
            self._observe(number, block, position)
        speculative = False
        for number, write in enumerate(self._stage_plan.writes):
            if tensor in write.positions:
                value = self._output_value(number, block, tensor, stored, resolved)
                if value is None:
                    self._outputs.count_written(write, position)
                else:
                    self._outputs.write(write, value, position, resolved)
                speculative = speculative or self._affects(write.speculation)
        if speculative:
            self.result.speculative.append(TensorSlice(tensor, start, stop))

    def _output_value(
        self, number: int, block: _Values, tensor: str, stored: Stored, resolved: Resolved | None
    ) -> torch.Tensor | None:
        """Return the value of a write in main memory; None where a kernel has written it."""
        schema = self._stage_plan.schemas[self._stage_plan.writes[number].step]
        if not schema.tensors[tensor].is_floating:
            return stored[schema.passthrough[tensor]]
        value = block.written(number)
        return None if value is None else restored(value.cpu(), resolved)

    def _observe(self, number: int, block: _Values, position: BlockPosition) -> None:
        """Observe a block under every outcome that can make a difference to it."""
        partials = [block.observed(number, 0)]
        for assumption in range(1, len(self._index.assumptions[number])):
            affects = self._affects(self._stage_plan.observations[number].speculation)
            partials.append(self._assumed(block, position, number, assumption) if affects else partials[0])
        self._latest[number] = partials[0]
        key = number, self._index.name(position[0])
        self.result.partials.setdefault(key, []).append((position[1], tuple(partials)))

    def _assumed(self, block: _Values, position: BlockPosition, number: int, assumption: int) -> Any:
        """Return the partial of an observation under an assumption, from the interpreter where a kernel has none."""
        try:
            return block.observed(number, assumption)
        except Untraceable:
            pass
        except CompilerFailure as failure:
            assert self._tracer is not None
            self._tracer.give_up(failure)
        return self._sources.evaluator_again(position).observed(number, assumption)

    def _affects(self, speculation: AnyStatistic | None) -> bool:
        """Return whether the outcomes of what is assumed can make a difference on the block in hand."""
        if speculation is None:
            return False
        number = self._index.numbers[speculation]
        return number in self._latest and speculation.affects(self._latest[number])
