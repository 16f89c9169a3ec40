"""What a worker does: read the blocks of a task's slices, evaluate, observe, write, and return small statistics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import torch

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, ITEM_BYTES
from lines_pipeline.executor.allocation import keep_freed_blocks, return_freed_blocks
from lines_pipeline.executor.compiled_tasks import CompiledBlock, CompiledTasks
from lines_pipeline.executor.devices import resolve_device
from lines_pipeline.executor.interpreter import (
    ACTUAL,
    BlockEvaluator,
    PlanIndex,
    holds_nonfinite,
    resolve_nonfinite,
    torch_dtype,
    widen,
)
from lines_pipeline.executor.non_finite import unheld
from lines_pipeline.executor.prefetch import BlockPosition, Staged, Stored, stage
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.executor.tracing import Tracer
from lines_pipeline.io.digests import block_digest
from lines_pipeline.io.reading import BlockReader, as_bytes
from lines_pipeline.io.writing import write_block
from lines_pipeline.jit.boundary import CompilerFailure, Untraceable
from lines_pipeline.jit.launch import load_runtime
from lines_pipeline.ops.base import AnyStatistic, Beside
from lines_pipeline.ops.kernels import Block
from lines_pipeline.ops.remarks import remarks
from lines_pipeline.planner.tasks import StagePlan, Task, TensorSlice, Write

GPU_BLOCKS = 16
"""Blocks that a GPU computes at once."""


def run_task(stage_plan: StagePlan, task: Task) -> TaskResult:
    """Do one task, in one thread: results depend on neither the worker nor the order."""
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
        """The partial of an observation in one of its worlds."""

    def written(self, number: int) -> torch.Tensor | None:
        """The value of a write; None where it is written already."""


@dataclass(frozen=True)
class _Resolved:
    """Where a block is not finite, alike in all sources, and a source's own values for these places."""

    positions: torch.Tensor
    original: torch.Tensor


class _TaskRunner:
    """The state of one task."""

    def __init__(self, stage_plan: StagePlan) -> None:
        self.result = TaskResult()
        self.is_interpreted = False
        """Whether the interpreter did any block."""
        self._index, self._tracer = _prepared(stage_plan)
        self._program, self._reader = self._index.stage_plan, BlockReader()
        self._outputs: dict[str, int] = {}
        self._digested: set[tuple[str, BlockPosition]] = set()
        """Blocks of whole tensors that are hashed: a base is read again with every expert."""
        self._latest: dict[int, Any] = {}
        """What the block in hand gave, by observation."""

    def close(self) -> None:
        if self._tracer is not None:
            self.result.compiler_failure = self._tracer.failure
        self._reader.close()
        while self._outputs:
            os.close(self._outputs.popitem()[1])

    def do(self, slices: Sequence[TensorSlice]) -> None:
        """Of each block: read and hash all sources, settle NaN and Inf, then observe and write."""
        if slices and slices[0].tensor in self._program.whole:
            self._merge_whole(slices[0])
            return
        positions = [position for tensor_slice in slices for position in self._blocks(tensor_slice)]
        if self._tracer is None:
            for staged in stage(self._program.device, positions, self._read):
                self._compute(staged)
            return
        compiled = CompiledTasks(self._tracer, self._reader.descriptor, self._output)
        for _, blocks in groupby(positions, itemgetter(0)):
            self._run_compiled(compiled, list(blocks))

    def _blocks(self, tensor_slice: TensorSlice) -> Iterator[BlockPosition]:
        """Where the blocks of a slice are; a GPU takes larger ones."""
        numel = BLOCK_NUMEL if self._program.device == "cpu" else GPU_BLOCKS * BLOCK_NUMEL
        for start in range(tensor_slice.start, tensor_slice.stop, numel):
            yield tensor_slice.tensor, start, min(start + numel, tensor_slice.stop)

    def _merge_whole(self, tensor_slice: TensorSlice) -> None:
        """Compute and write a tensor that an op has to see whole; its inputs are assembled from blocks, one by one."""
        tensor, positions = tensor_slice.tensor, list(self._blocks(tensor_slice))
        writes = [write for write in self._program.writes if tensor in write.positions]
        step = self._index.steps[writes[0].step]
        spec = self._program.schemas[step.id].tensors[tensor]
        resolved: dict[BlockPosition, _Resolved] = {}

        def assemble(source: str) -> torch.Tensor:
            value = torch.empty(spec.numel, dtype=torch_dtype(spec.compute_dtype), device=self._program.device)
            for position in positions:
                stored = self._read(position, self._index.sources_behind(source, tensor))
                moved = {name: part.to(self._program.device) for name, part in stored.items()}
                block, resolution = self._resolve(tensor, Staged(position, stored, moved))
                resolved.update({position: resolution} if resolution else {})
                value[position[1] : position[2]] = block.input_value(source, spec)
            return value

        named = self._program.schemas[step.id].beside

        def values(port: str) -> WholeValues:
            sources = step.value_inputs.get(port, ())
            if not step.op.inputs[port].beside:
                return WholeValues(sources, assemble)
            having = [source for source in sources if tensor in named.get(source, {})]
            return WholeValues(having, lambda source: self._beside(source, named[source][tensor]))

        inputs = {port: values(port) for port in step.op.inputs}
        stats = self._index.stats(step, tensor, ACTUAL)
        with remarks() as texts:
            result: Block = step.op.apply_at(step.params_of(spec.name), inputs, spec, stats, 0)
        self.result.remarks += [f"node '{step.node}': tensor '{self._index.name(tensor)}': {text}" for text in texts]
        merged = result.cpu()
        for position in positions:
            resolution = resolved.get(position)
            value = _restored(merged[position[1] : position[2]], resolution)
            for write in writes:
                self._write(write, value, position, resolution.positions if resolution else None)

    def _beside(self, source: str, key: str) -> Beside:
        """Read what a source has beside a tensor, in the compute type; ``CheckpointError`` for NaN and Inf in it."""
        stored, name = self._program.sources[source][key], self._index.name(key)
        value = self._reader.block(stored, 0, stored.spec.numel)
        self.result.bytes_read += value.nbytes
        value = widen(value.to(self._program.device), stored.spec)
        if holds_nonfinite(value):
            origin = self._program.schemas[source].origin
            raise CheckpointError(
                f"{origin}: '{name}' holds NaN or Inf: measure it on other inputs, or leave the tensor that it belongs "
                "to out with 'exclude' on the node that merges"
            )
        return Beside(name, value.view(stored.spec.shape))

    def _run_compiled(self, compiled: CompiledTasks, positions: Sequence[BlockPosition]) -> None:
        """Do blocks of a tensor by launches of its kernel; the interpreter does those that a launch leaves out."""
        while positions:
            blocks = self._launched(compiled, positions)
            for block in blocks:
                self._take(block)
                self._use(block, block.position, {}, None)
            if not blocks:
                stored = self._read(positions[0])
                self._compute(Staged(positions[0], stored, stored))
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

    def _compute(self, staged: Staged) -> None:
        self.is_interpreted = True
        block, resolved = self._resolve(staged.position[0], staged)
        self._use(block, staged.position, staged.stored, resolved)

    def _take(self, block: CompiledBlock) -> None:
        """Count what was read, and note its digests."""
        self.result.bytes_read += block.nbytes
        name = self._index.name(block.position[0])
        for step, digest in block.digests.items():
            self.result.digests.setdefault((step, name), []).append((block.position[1], digest))

    def _read(self, position: BlockPosition, sources: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """Read a block of the sources that are needed, or of ``sources``; hash what is read for the first time."""
        tensor, start, stop = position
        values: dict[str, torch.Tensor] = {}
        hashed = self._index.hashed(tensor)
        for step in self._index.read(tensor) if sources is None else sources:
            stored = self._program.sources[step][tensor]
            value = self._reader.block(stored, start, stop, pinned=self._program.device != "cpu")
            self.result.bytes_read += value.nbytes
            if step in hashed and (step, position) not in self._digested:
                self._digested.update([(step, position)] if sources is not None else ())
                self._hash(step, tensor, start, value)
            values[step] = value
        return values

    def _hash(self, step: str, tensor: str, start: int, value: torch.Tensor) -> None:
        name = self._index.name(tensor)
        digests = self.result.digests.setdefault((step, name), [])
        for offset in range(0, value.numel(), BLOCK_NUMEL):
            digests.append((start + offset, block_digest(as_bytes(value[offset : offset + BLOCK_NUMEL]))))
        if value.dtype.is_floating_point and holds_nonfinite(widen(value, self._spec(step, tensor))):
            self.result.nonfinite.add((step, name))

    def _spec(self, step: str, tensor: str) -> Any:
        return self._program.sources[step][tensor].spec

    def _resolve(self, tensor: str, staged: Staged) -> tuple[BlockEvaluator, _Resolved | None]:
        """The block of what was read, with zeros where all sources hold the same NaN or Inf."""
        sources = [source for source in self._index.sources(tensor) if source in staged.stored]
        floating = {s: staged.stored[s] for s in sources if staged.stored[s].dtype.is_floating_point}
        values = {s: widen(staged.moved[s], self._spec(s, tensor)) for s in sources}
        resolved: _Resolved | None = None
        if any(self._is_nonfinite(s, tensor, values[s]) for s in floating):
            positions = resolve_nonfinite(
                floating, self._index.name(tensor), {s: self._program.schemas[s].origin for s in floating}
            )
            resolved = _Resolved(positions, next(iter(floating.values())))
            values = {s: torch.where(positions.to(v.device), 0.0, v) if s in floating else v for s, v in values.items()}
        return BlockEvaluator(self._index, tensor, values, staged.position[1]), resolved

    def _is_nonfinite(self, step: str, tensor: str, value: torch.Tensor) -> bool:
        known = tensor in self._program.nonfinite.get(step, ())
        if step in self._program.hashed:  # a view is a part of what another slice hashes
            known = (
                known or (step, self._index.name(tensor)) in self.result.nonfinite or self._index.is_view(step, tensor)
            )
        return known and holds_nonfinite(value)

    def _use(self, block: _Values, position: BlockPosition, stored: Stored, resolved: _Resolved | None) -> None:
        tensor, start, stop = position
        self._latest.clear()
        for number in self._index.observed(tensor):
            self._observe(number, block, position)
        speculative = False
        for number, write in enumerate(self._program.writes):
            if tensor in write.positions:
                given = resolved.positions if resolved is not None else None
                self._write(write, self._output_value(number, block, tensor, stored, resolved), position, given)
                speculative = speculative or self._affects(write.speculation)
        if speculative:
            self.result.speculative.append(TensorSlice(tensor, start, stop))

    def _observe(self, number: int, block: _Values, position: BlockPosition) -> None:
        """Under every outcome that can make a difference on this block."""
        partials = [block.observed(number, 0)]
        for assumption in range(1, len(self._index.assumptions[number])):
            affects = self._affects(self._program.observations[number].speculation)
            partials.append(self._assumed(block, position, number, assumption) if affects else partials[0])
        self._latest[number] = partials[0]
        self.result.partials.setdefault((number, self._index.name(position[0])), []).append(
            (position[1], tuple(partials))
        )

    def _assumed(self, block: _Values, position: BlockPosition, number: int, assumption: int) -> Any:
        """Return the partial of an observation under an assumption, from the interpreter where a kernel has none."""
        try:
            return block.observed(number, assumption)
        except Untraceable:
            pass
        except CompilerFailure as failure:
            assert self._tracer is not None
            self._tracer.give_up(failure)
        tensor, start, stop = position
        stored = {step: self._program.sources[step][tensor] for step in self._index.sources(tensor)}
        values = {
            step: widen(self._reader.block(tensor_stored, start, stop), tensor_stored.spec)
            for step, tensor_stored in stored.items()
        }
        return BlockEvaluator(self._index, tensor, values, start).observed(number, assumption)

    def _affects(self, speculation: AnyStatistic | None) -> bool:
        """Whether the outcomes of what is assumed can make a difference on the block in hand."""
        if speculation is None:
            return False
        number = self._index.numbers[speculation]
        return number in self._latest and speculation.affects(self._latest[number])

    def _output_value(
        self,
        number: int,
        block: _Values,
        tensor: str,
        stored: Stored,
        resolved: _Resolved | None,
    ) -> torch.Tensor | None:
        schema = self._program.schemas[self._program.writes[number].step]
        if not schema.tensors[tensor].is_floating:
            return stored[schema.passthrough[tensor]]
        value = block.written(number)
        if value is None:
            return None
        return _restored(value.cpu(), resolved)

    def _write(
        self, write: Write, value: torch.Tensor | None, position: BlockPosition, given: torch.Tensor | None
    ) -> None:
        """Write a value to all its places; None is written already, and was looked at. ``given``: as for ``unheld``."""
        tensor, start, stop = position
        for target in write.positions[tensor]:
            if value is None:
                self.result.bytes_written += (stop - start) * ITEM_BYTES[target.dtype]
                continue
            out = _packed(value) if write.packed else value.to(torch_dtype(target.dtype))
            lost = None if write.packed or write.is_draft else unheld(value, out, given)
            if lost is not None:
                self.result.unheld.setdefault((write.step, tensor, target.dtype), []).append((start, lost))
            offset = start // 8 if write.packed else start * out.element_size()
            write_block(target.path, self._output(target.path), target.offset + offset, out)
            self.result.bytes_written += out.nbytes

    def _output(self, path: str) -> int:
        if path not in self._outputs:
            self._outputs[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        return self._outputs[path]


class WholeValues(Sequence[Any]):
    """The values of a port on a whole tensor: each is assembled from its blocks when it is taken, and not kept."""

    def __init__(self, steps: Sequence[str], assemble: Callable[[str], Any]) -> None:
        self._steps, self._assemble = steps, assemble

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: Any) -> Any:
        return self._assemble(self._steps[index])


def _restored(value: torch.Tensor, resolved: _Resolved | None) -> torch.Tensor:
    """Return a block with the NaN and Inf that all sources have, where they have them."""
    if resolved is None or value.dtype is torch.bool:
        return value
    return torch.where(resolved.positions, resolved.original.to(value.dtype), value)


def _packed(mask: torch.Tensor) -> torch.Tensor:
    """8 entries a byte, the first in the lowest bit."""
    return torch.from_numpy(np.packbits(mask.bool().numpy(), bitorder="little"))
