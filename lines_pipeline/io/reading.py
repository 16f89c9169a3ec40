"""Reads blocks of tensors by file and offset, and notices files that changed under way."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lines_pipeline.core.errors import CheckpointError, EngineError
from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, ITEM_BYTES, TensorSpec
from lines_pipeline.io.checkpoint import Checkpoint, SourceFile, StoredTensor
from lines_pipeline.io.regions import inside, translated


class BlockReader:
    """Reads blocks for one task; keeps its files open."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}

    def block(self, stored: StoredTensor, start: int, stop: int, *, pinned: bool = False) -> torch.Tensor:
        """Return values ``start`` to ``stop`` of a flattened tensor, in the stored data type; ``pinned``: for a GPU."""
        if not stored.is_plain:
            values = self._unpacked(stored, start, stop) if stored.packed else self._region(stored, start, stop)
            return values.pin_memory() if pinned else values
        value = torch.empty(stop - start, dtype=getattr(torch, stored.spec.dtype), pin_memory=pinned)
        if stop > start:
            self.fill(stored, start, as_bytes(value))
        return value

    def _unpacked(self, stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        """Return values of a mask that is stored with 8 of them in a byte."""
        first = start // 8
        packed = StoredTensor(TensorSpec(stored.spec.name, "uint8", ()), stored.path, stored.offset)
        bits = np.unpackbits(self.block(packed, first, -(-stop // 8)).numpy(), bitorder="little")
        return torch.from_numpy(bits[start - 8 * first : stop - 8 * first].copy()).bool()

    def _region(self, stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        """Return values of a tensor's leading region in another shape: zero where the file has none."""
        assert stored.stored_shape is not None
        shape, stored_shape = stored.spec.shape, stored.stored_shape
        entries = np.arange(start, stop)
        known = inside(entries, shape, tuple(map(min, shape, stored_shape)))
        positions = translated(entries[known], shape, stored_shape)
        whole = StoredTensor(replace(stored.spec, shape=stored_shape), stored.path, stored.offset)
        values = torch.zeros(len(positions), dtype=getattr(torch, stored.spec.dtype))
        read_count = 0
        while read_count < len(positions):  # by stretches of the file, so that a block never needs much memory
            first = int(positions[read_count])
            stretch_end = int(np.searchsorted(positions, first + BLOCK_NUMEL))
            offsets = torch.from_numpy(positions[read_count:stretch_end] - first)
            values[read_count:stretch_end] = self.block(whole, first, int(positions[stretch_end - 1]) + 1)[offsets]
            read_count = stretch_end
        value = torch.zeros(stop - start, dtype=values.dtype)
        value[torch.from_numpy(known)] = values
        return value

    def fill(self, stored: StoredTensor, start: int, view: memoryview) -> None:
        """Fill a view of bytes with values from ``start`` on, as stored."""
        descriptor = self.descriptor(stored.path)
        offset = stored.offset + start * ITEM_BYTES[stored.spec.dtype]
        while view:
            try:
                count = os.preadv(descriptor, [view], offset)
            except OSError as error:
                raise _unreadable(stored.path, error) from error
            if not count:
                raise EngineError(
                    f"{stored.path}: cut short during the run, tensor '{stored.spec.name}' cannot be read"
                )
            view, offset = view[count:], offset + count

    def descriptor(self, path: str) -> int:
        """Return the descriptor of a file opened for reading."""
        if path not in self._descriptors:
            try:
                self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise _unreadable(path, error) from error
        return self._descriptors[path]

    def close(self) -> None:
        """Close every file."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def _unreadable(path: str, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read ({error.strerror})")


def as_bytes(value: torch.Tensor) -> memoryview:
    """Return the memory of a tensor of any type."""
    return memoryview(value.view(torch.uint8).numpy().data)


def read_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint in memory, in their stored types; tied ones under their first names alone."""
    reader = BlockReader()
    try:
        stored = checkpoint.tensors.items()
        return {
            name: reader.block(stored_tensor, 0, stored_tensor.spec.numel).view(stored_tensor.spec.shape)
            for name, stored_tensor in stored
        }
    finally:
        reader.close()


def check_unchanged(files: Iterable[SourceFile]) -> None:
    """Raise ``EngineError`` when a file is not what it was when it was opened."""
    for file in files:
        if SourceFile.of(Path(file.path)) != file:
            raise EngineError(f"{file.path}: changed while the run was using it; run again when it is complete")
