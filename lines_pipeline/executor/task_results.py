"""What a task gives: partials of statistics, digests, and what it found on the way; never tensors of a model."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

from lines_pipeline.executor.non_finite import Unheld
from lines_pipeline.planner.tasks import TensorSlice


@dataclass
class TaskResult:
    """Partials by observation number and tensor, digests and non-finite tensors by source, each with its start."""

    partials: dict[tuple[int, str], list[tuple[int, Any]]] = field(default_factory=dict)
    digests: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)
    nonfinite: set[tuple[str, str]] = field(default_factory=set)
    bytes_read: int = 0
    bytes_written: int = 0
    speculative: list[TensorSlice] = field(default_factory=list)
    """Blocks of which a partial output was made under an assumption that makes a difference to them."""
    unheld: dict[tuple[str, str, str], list[tuple[int, Unheld]]] = field(default_factory=dict)
    """Values of results that cannot be stored, by step, tensor and stored type, each with its block's start."""
    remarks: list[str] = field(default_factory=list)
    """What ops tell of whole tensors."""
    compiler_failure: str = ""
    """Why the interpreter did what compiled kernels should have done."""

    def move_partials(self) -> None:
        """Copy what is kept to memory side by side.

        It was allocated between the values of blocks; left there, it keeps the memory of these from being used again.
        """
        self.partials = pickle.loads(pickle.dumps(self.partials))
