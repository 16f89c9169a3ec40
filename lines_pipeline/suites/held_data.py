"""Holds the data of tasks in memory while several models are evaluated on them: read once, where there is room."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

Data = TypeVar("Data")
Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and labels."""


@runtime_checkable
class HoldsData(Protocol):
    """A suite that can hold data between evaluations."""

    def hold_data(self, room: int) -> None:
        """Hold up to so many bytes of data from now on, as long as the suite is there."""


@dataclass
class HeldData:
    """Holds what fits into ``room`` bytes, which is nothing until a suite is told of some; what came first stays."""

    room: int = 0
    _held: dict[Hashable, Any] = field(default_factory=dict)

    def data(self, key: Hashable, read: Callable[[], Data], nbytes: Callable[[Data], int]) -> Data:
        """Return data that are held, or read them, and hold them where they fit."""
        if key not in self._held:
            read_data = read()
            self._keep(key, read_data, nbytes(read_data))
            return read_data
        held: Data = self._held[key]
        return held

    def batches(self, key: Hashable, read: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
        """Yield batches that are held, or read them one by one, and hold them where all of them fit."""
        if key in self._held:
            yield from self._held[key]
            return
        collected, size = list[Batch](), 0
        for batch in read():
            size += sum(tensor.nbytes for tensor in batch)
            if size <= self.room:
                collected.append(batch)
            else:
                collected.clear()
            yield batch
        self._keep(key, collected, size)

    def _keep(self, key: Hashable, value: Any, nbytes: int) -> None:
        if nbytes <= self.room:
            self._held[key] = value
            self.room -= nbytes
