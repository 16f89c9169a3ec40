"""Reads the blocks of a task's sources: hashes what is read for the first time, and resolves NaN and Inf."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, TensorSpec
from lines_pipeline.executor.interpreter import (
    BlockEvaluator,
    PlanIndex,
    holds_nonfinite,
    resolve_nonfinite,
    widen,
)
from lines_pipeline.executor.prefetch import BlockPosition, Staged
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.io.digests import block_digest
from lines_pipeline.io.reading import BlockReader, as_bytes
from lines_pipeline.ops.base import Beside


@dataclass(frozen=True)
class Resolved:
    """Holds where a block is not finite, alike in all sources, and a source's own values for these places."""

    positions: torch.Tensor
    original: torch.Tensor


class SourceBlocks:
    """Reads the sources of one task; ``result`` is told the bytes, the digests and the tensors with NaN and Inf."""

    def __init__(self, index: PlanIndex, result: TaskResult) -> None:
        self._index, self._stage_plan, self._result = index, index.stage_plan, result
        self._reader = BlockReader()
        self._hashed_parts: set[tuple[str, BlockPosition]] = set()
        """Blocks of whole tensors that are hashed: a base is read again with every expert."""

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def descriptor(self, path: str) -> int:
        """Return the descriptor of a file, opened where it is not."""
        return self._reader.descriptor(path)

    def read(self, position: BlockPosition) -> dict[str, torch.Tensor]:
        """Read a block of all sources that are needed, and hash it."""
        values, hashed = {}, self._index.hashed(position[0])
        for source in self._index.read(position[0]):
            values[source] = self._stored(source, position)
            if source in hashed:
                self._hash(source, position, values[source])
        return values

    def read_part(self, position: BlockPosition, sources: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read a block of some sources, perhaps again; hash it where it is read for the first time."""
        values, hashed = {}, self._index.hashed(position[0])
        for source in sources:
            values[source] = self._stored(source, position)
            if source in hashed and (source, position) not in self._hashed_parts:
                self._hashed_parts.add((source, position))
                self._hash(source, position, values[source])
        return values

    def read_beside(self, source: str, key: str) -> Beside:
        """Read what a source has beside a tensor, in the compute type; ``CheckpointError`` for NaN and Inf in it."""
        spec, name = self._spec(source, key), self._index.name(key)
        value = widen(self._stored(source, (key, 0, spec.numel)).to(self._stage_plan.device), spec)
        if holds_nonfinite(value):
            origin = self._stage_plan.schemas[source].origin
            raise CheckpointError(
                f"{origin}: '{name}' holds NaN or Inf: measure it on other inputs, or leave the tensor that it belongs "
                "to out with 'exclude' on the node that merges"
            )
        return Beside(name, value.view(spec.shape))

    def evaluator_again(self, position: BlockPosition) -> BlockEvaluator:
        """Read a block once more that has been counted, hashed and found to be finite."""
        tensor, start, stop = position
        values = {}
        for source in self._index.sources(tensor):
            stored = self._stage_plan.sources[source][tensor]
            values[source] = widen(self._reader.block(stored, start, stop), stored.spec)
        return BlockEvaluator(self._index, tensor, values, start)

    def evaluator(self, staged: Staged) -> tuple[BlockEvaluator, Resolved | None]:
        """Return the block of what was read, with zeros where all sources hold the same NaN or Inf."""
        tensor, start, _ = staged.position
        sources = [source for source in self._index.sources(tensor) if source in staged.stored]
        floating = {s: staged.stored[s] for s in sources if staged.stored[s].dtype.is_floating_point}
        values = {s: widen(staged.moved[s], self._spec(s, tensor)) for s in sources}
        resolved: Resolved | None = None
        if any(self._is_nonfinite(s, tensor, values[s]) for s in floating):
            origins = {s: self._stage_plan.schemas[s].origin for s in floating}
            positions = resolve_nonfinite(floating, self._index.name(tensor), origins)
            resolved = Resolved(positions, next(iter(floating.values())))
            values = {s: torch.where(positions.to(v.device), 0.0, v) if s in floating else v for s, v in values.items()}
        return BlockEvaluator(self._index, tensor, values, start), resolved

    def _stored(self, source: str, position: BlockPosition) -> torch.Tensor:
        tensor, start, stop = position
        stored = self._stage_plan.sources[source][tensor]
        value = self._reader.block(stored, start, stop, pinned=self._stage_plan.device != "cpu")
        self._result.bytes_read += value.nbytes
        return value

    def _hash(self, source: str, position: BlockPosition, value: torch.Tensor) -> None:
        tensor, start, _ = position
        name = self._index.name(tensor)
        digests = self._result.digests.setdefault((source, name), [])
        for offset in range(0, value.numel(), BLOCK_NUMEL):
            digests.append((start + offset, block_digest(as_bytes(value[offset : offset + BLOCK_NUMEL]))))
        if value.dtype.is_floating_point and holds_nonfinite(widen(value, self._spec(source, tensor))):
            self._result.nonfinite.add((source, name))

    def _is_nonfinite(self, source: str, tensor: str, value: torch.Tensor) -> bool:
        suspect = tensor in self._stage_plan.nonfinite.get(source, ())
        if source in self._stage_plan.hashed:  # a view is a part of what another slice hashes
            read_here = (source, self._index.name(tensor)) in self._result.nonfinite
            suspect = suspect or read_here or self._index.is_view(source, tensor)
        return suspect and holds_nonfinite(value)

    def _spec(self, source: str, tensor: str) -> TensorSpec:
        return self._stage_plan.sources[source][tensor].spec
