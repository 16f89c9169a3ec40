"""Writes the blocks of a task's results to their places, and notes what the stored types do not hold."""

from __future__ import annotations

import os

import numpy as np
import torch

from lines_pipeline.core.tensor_specs import ITEM_BYTES
from lines_pipeline.executor.block_reading import Resolved
from lines_pipeline.executor.interpreter import torch_dtype
from lines_pipeline.executor.non_finite import unheld
from lines_pipeline.executor.prefetch import BlockPosition
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.io.writing import write_block
from lines_pipeline.planner.tasks import Write


class OutputBlocks:
    """Writes the results of one task; ``result`` is told the bytes, and the values that cannot be stored."""

    def __init__(self, result: TaskResult) -> None:
        self._result = result
        self._descriptors: dict[str, int] = {}

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def descriptor(self, path: str) -> int:
        """Return the descriptor of a file, opened where it is not."""
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        return self._descriptors[path]

    def write(self, write: Write, value: torch.Tensor, position: BlockPosition, resolved: Resolved | None) -> None:
        """Write a block to all its places; what is ``resolved`` may hold NaN and Inf."""
        tensor, start, _ = position
        given = resolved.positions if resolved is not None else None
        for target in write.positions[tensor]:
            out = _packed(value) if write.packed else value.to(torch_dtype(target.dtype))
            lost = None if write.packed or write.is_partial else unheld(value, out, given)
            if lost is not None:
                self._result.unheld.setdefault((write.step, tensor, target.dtype), []).append((start, lost))
            offset = start // 8 if write.packed else start * out.element_size()
            write_block(target.path, self.descriptor(target.path), target.offset + offset, out)
            self._result.bytes_written += out.nbytes

    def count_written(self, write: Write, position: BlockPosition) -> None:
        """Count the bytes of a block that a kernel has written, and looked at."""
        tensor, start, stop = position
        for target in write.positions[tensor]:
            self._result.bytes_written += (stop - start) * ITEM_BYTES[target.dtype]


def restored(value: torch.Tensor, resolved: Resolved | None) -> torch.Tensor:
    """Return a block with the NaN and Inf that all sources have, where they have them."""
    if resolved is None or value.dtype is torch.bool:
        return value
    return torch.where(resolved.positions, resolved.original.to(value.dtype), value)


def _packed(mask: torch.Tensor) -> torch.Tensor:
    """Return eight entries a byte, the first in the lowest bit."""
    return torch.from_numpy(np.packbits(mask.bool().numpy(), bitorder="little"))
