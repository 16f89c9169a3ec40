"""Finds the entries of one tensor's leading region in a tensor of another shape."""

from __future__ import annotations

from typing import Any

import numpy as np

SourceMap = np.ndarray[Any, Any]
"""Indices into flattened tensors: int64."""


def inside(places: SourceMap, shape: tuple[int, ...], region: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return whether entries of a tensor of ``shape`` lie in its leading ``region``: boolean, one an entry."""
    found = np.ones(len(places), bool)
    for index, end, size in zip(np.unravel_index(places, shape), region, shape, strict=True):
        if end < size:
            found &= index < end
    return found


def translated(places: SourceMap, shape: tuple[int, ...], other: tuple[int, ...]) -> SourceMap:
    """Return the entries of a tensor of shape ``other`` at the same indices: all of them have to be inside it."""
    return np.ravel_multi_index(np.unravel_index(places, shape), other).astype(np.int64)
