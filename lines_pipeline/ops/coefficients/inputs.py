"""The inputs of tasks on a disk, so that any rows can be taken, and the order in which steps take them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lines_pipeline.core.errors import EvalError
from lines_pipeline.io.reading import as_bytes
from lines_pipeline.ops.drivers import TaskData

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs as the model takes them, and their labels [n]."""


@dataclass(frozen=True)
class TaskInputs:
    """All inputs of a task in a split's order, memory-mapped, with their labels."""

    task: str
    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def spooled(cls, data: TaskData, task: str, split: str, path: Path) -> TaskInputs:
        """Read a split once, batch by batch, into the file ``path``; ``EvalError`` where it has none, or no tensors."""
        labels: list[torch.Tensor] = []
        first: torch.Tensor | None = None
        with path.open("wb") as file:
            for batch, answers in data.batches(task, split):
                if not isinstance(batch, torch.Tensor):
                    raise EvalError(f"task '{task}': inputs are a {type(batch).__name__}, expected a tensor")
                first = batch[:1] if first is None else first
                if batch.shape[1:] != first.shape[1:] or batch.dtype != first.dtype:
                    raise EvalError(f"task '{task}': inputs differ in shape or type, expected rows of one shape")
                file.write(as_bytes(batch.detach().cpu().contiguous().reshape(-1)))
                labels.append(answers.detach().cpu())
        if first is None or not sum(map(len, labels)):
            raise EvalError(f"task '{task}' has no inputs in '{split}' to learn from")
        raw: np.memmap[Any, Any] = np.memmap(path, np.uint8, mode="c")
        values = torch.from_numpy(np.frombuffer(raw, np.uint8)).view(first.dtype).view(-1, *first.shape[1:])
        return cls(task, values, torch.cat(labels))

    def rows(self, taken: np.ndarray[Any, Any], device: str) -> Batch:
        """Return some rows on a device."""
        index = torch.from_numpy(taken)
        return self.inputs[index].to(device), self.labels[index].to(device)


@dataclass(frozen=True)
class Order:
    """Deals the rows of a task out in batches, round after round; the last batch of a round may be smaller."""

    batch: int
    seed: int | None
    """Of the draw of each round's order; None for the split's order."""

    def batches(self, count: int) -> int:
        """Return how many batches of so many rows make a round."""
        return -(-count // self.batch)

    def rows(self, inputs: TaskInputs, number: int) -> np.ndarray[Any, Any]:
        """Return the rows of a task's batch ``number``, counted over all rounds from 0."""
        around, place = divmod(number, self.batches(len(inputs)))
        order = np.arange(len(inputs)) if self.seed is None else self._drawn(inputs, around)
        return order[place * self.batch : (place + 1) * self.batch]

    def _drawn(self, inputs: TaskInputs, around: int) -> np.ndarray[Any, Any]:
        """Draw an order that depends on seed, task and round alone."""
        text = "\0".join((str(self.seed), inputs.task, str(around))).encode()
        key = hashlib.blake2b(text, digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=np.frombuffer(key, "<u8"))).permutation(len(inputs))
