"""Reads one block ahead of the computation, and brings it to the device that computes meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch

BlockPosition = tuple[str, int, int]
"""Tensor, first value, and the value after the last."""
Stored = Mapping[str, torch.Tensor]
"""A block by source, in the stored type."""
Read = Callable[[BlockPosition], Stored]


@dataclass(frozen=True)
class Staged:
    """A block of all sources: in main memory, and on the device that computes."""

    position: BlockPosition
    stored: Stored
    moved: Stored


class Copier(Protocol):
    """Brings blocks to a device."""

    def copy(self, stored: Stored) -> tuple[Stored, Any]:
        """Begin to copy, in the thread that reads; also gives what tells that the copies are there."""

    def arrived(self, staged: Staged, copied: Any) -> Staged:
        """Let the thread that computes go on when the copies are there."""


def stage(device: str, positions: Iterable[BlockPosition], read: Read) -> Iterator[Staged]:
    """Yield the blocks at ``positions`` in order.

    For a GPU, ``read`` fills pinned memory in a thread of its own, and a side stream copies it while the block before
    is computed. In main memory nothing is copied, and a block is read when its turn comes.
    """
    if device != "cpu":
        yield from read_ahead(SideStream(device), positions, read)
        return
    for position in positions:
        stored = read(position)
        yield Staged(position, stored, stored)


def read_ahead(copier: Copier, positions: Iterable[BlockPosition], read: Read) -> Iterator[Staged]:
    """Yield blocks in order; while one is used, the next is read and copied."""

    def load(position: BlockPosition) -> tuple[Staged, Any]:
        with torch.inference_mode():
            stored = read(position)
            moved, copied = copier.copy(stored)
            return Staged(position, stored, moved), copied

    upcoming: Future[tuple[Staged, Any]] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="stage") as pool:
        for position in positions:
            current, upcoming = upcoming, pool.submit(load, position)
            if current is not None:
                yield copier.arrived(*current.result())
        if upcoming is not None:
            yield copier.arrived(*upcoming.result())


class SideStream:
    """Copies on a stream of its own; the stream that computes waits for what it needs."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, stored: Stored) -> tuple[Stored, Any]:
        """Copy from pinned memory."""
        with torch.cuda.stream(self._stream):
            moved = {source: value.to(self._device, non_blocking=True) for source, value in stored.items()}
            return moved, self._stream.record_event()

    def arrived(self, staged: Staged, copied: Any) -> Staged:
        """Make the stream that computes wait for the copies, and keep their memory until it is done with them."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(copied)
        for value in staged.moved.values():
            value.record_stream(computing)
        return staged
