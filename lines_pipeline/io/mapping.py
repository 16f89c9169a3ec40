"""Maps the tensors of a checkpoint into memory: each is read when it is used, and no copy of the model is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from lines_pipeline.core.tensor_specs import ITEM_BYTES
from lines_pipeline.io.checkpoint import Checkpoint, StoredTensor
from lines_pipeline.io.reading import BlockReader


class MappedTensors(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint by all their names, floating-point ones as float32.

    What a file has as float32 is a view of the file; all else is read, and converted, whenever it is taken.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        names = {name: name for name in checkpoint.tensors} | dict(checkpoint.aliases)
        self._stored = {name: checkpoint.tensors[first] for name, first in names.items()}
        self._files: dict[str, np.memmap[tuple[int], np.dtype[np.uint8]]] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self._stored[name]
        value = self._view(stored) if _is_viewed(stored) else _read(stored)
        return value.float() if value.is_floating_point() else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def _view(self, stored: StoredTensor) -> torch.Tensor:
        if stored.path not in self._files:  # private to this process: nothing that is done to a view reaches the file
            self._files[stored.path] = np.memmap(stored.path, np.uint8, mode="c")
        part = self._files[stored.path][stored.offset : stored.offset + stored.spec.nbytes]
        return torch.from_numpy(np.frombuffer(part, np.float32)).view(stored.spec.shape)


def _is_viewed(stored: StoredTensor) -> bool:
    """Return whether the bytes of a file are a tensor's own, at a place where numbers may lie."""
    plain = stored.is_plain and stored.spec.dtype == "float32" and stored.spec.numel > 0
    return plain and stored.offset % ITEM_BYTES["float32"] == 0


def _read(stored: StoredTensor) -> torch.Tensor:
    reader = BlockReader()
    try:
        return reader.block(stored, 0, stored.spec.numel).view(stored.spec.shape)
    finally:
        reader.close()
