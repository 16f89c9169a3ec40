"""What is known of a tensor without reading it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
}
"""Size of one value in bytes, by data type (torch's names without the prefix)."""

BLOCK_NUMEL = 2**17
"""Values in the fixed blocks over which statistics and digests are taken, counted from a tensor's start."""


def block_count(numels: Iterable[int]) -> int:
    """Return the number of blocks of tensors with so many values each."""
    return sum(-(-numel // BLOCK_NUMEL) for numel in numels)


@dataclass(frozen=True)
class TensorSpec:
    """Name, data type (torch's name, as in ``ITEM_BYTES``) and shape of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Return the number of values; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the size of the stored values in bytes."""
        return self.numel * ITEM_BYTES[self.dtype]

    @property
    def is_floating(self) -> bool:
        """Return whether merges touch it: integer and bool tensors are copied from the base."""
        return self.dtype.startswith(("float", "bfloat"))

    @property
    def compute_dtype(self) -> str:
        """Return the data type a merge computes it in: float64 for float64, else float32."""
        return "float64" if self.dtype == "float64" else "float32"
