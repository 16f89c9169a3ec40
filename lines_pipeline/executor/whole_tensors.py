"""Computes tensors that an op has to see whole, from blocks of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lines_pipeline.executor.block_reading import Resolved, SourceBlocks
from lines_pipeline.executor.interpreter import ACTUAL, PlanIndex, torch_dtype
from lines_pipeline.executor.prefetch import BlockPosition, Staged
from lines_pipeline.graph.graph import Step
from lines_pipeline.ops.kernels import Block
from lines_pipeline.ops.remarks import remarks


class WholeValues(Sequence[Any]):
    """The values of a port on a whole tensor: each is assembled from its blocks when it is taken, and not kept."""

    def __init__(self, steps: Sequence[str], assemble: Callable[[str], Any]) -> None:
        self._steps, self._assemble = steps, assemble

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: Any) -> Any:
        return self._assemble(self._steps[index])


class WholeTensor:
    """Merges one tensor of a step whole; ``resolved`` holds the NaN and Inf of its inputs by block, once merged."""

    def __init__(
        self, index: PlanIndex, sources: SourceBlocks, step: Step, tensor: str, positions: Sequence[BlockPosition]
    ) -> None:
        self._index, self._sources, self._step, self._tensor = index, sources, step, tensor
        self._positions = positions
        self._spec = index.stage_plan.schemas[step.id].tensors[tensor]
        self._device = index.stage_plan.device
        self.resolved: dict[BlockPosition, Resolved] = {}

    def merged(self) -> tuple[torch.Tensor, list[str]]:
        """Return the tensor in main memory, 1-D, and what the op remarks on it."""
        inputs = {port: self._values(port) for port in self._step.op.inputs}
        stats = self._index.stats(self._step, self._tensor, ACTUAL)
        params = self._step.params_of(self._spec.name)
        with remarks() as texts:
            result: Block = self._step.op.apply_at(params, inputs, self._spec, stats, 0)
        lead = f"node '{self._step.node}': tensor '{self._index.name(self._tensor)}'"
        return result.cpu(), [f"{lead}: {text}" for text in texts]

    def _values(self, port: str) -> WholeValues:
        steps = self._step.value_inputs.get(port, ())
        if not self._step.op.inputs[port].beside:
            return WholeValues(steps, self._assembled)
        keys = self._index.stage_plan.schemas[self._step.id].beside
        having = [step for step in steps if self._tensor in keys.get(step, {})]
        return WholeValues(having, lambda step: self._sources.read_beside(step, keys[step][self._tensor]))

    def _assembled(self, step: str) -> torch.Tensor:
        value = torch.empty(self._spec.numel, dtype=torch_dtype(self._spec.compute_dtype), device=self._device)
        sources = self._index.sources_behind(step, self._tensor)
        for position in self._positions:
            stored = self._sources.read_part(position, sources)
            moved = {source: part.to(self._device) for source, part in stored.items()}
            block, resolved = self._sources.evaluator(Staged(position, stored, moved))
            if resolved is not None:
                self.resolved[position] = resolved
            value[position[1] : position[2]] = block.input_value(step, self._spec)
        return value
