"""Finds the entries of one tensor's leading region in a tensor of another shape."""

from __future__ import annotations

from typing import Any

import numpy as np

Positions = np.ndarray[Any, Any]
"""Indices into flattened tensors: int64."""


def inside(entries: Positions, shape: tuple[int, ...], region: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return whether entries of a tensor of ``shape`` lie in its leading ``region``: boolean, one an entry."""
    is_inside = np.ones(len(entries), bool)
    for index, end, size in zip(np.unravel_index(entries, shape), region, shape, strict=True):
        if end < size:
            is_inside &= index < end
    return is_inside


def translated(entries: Positions, shape: tuple[int, ...], other: tuple[int, ...]) -> Positions:
    """Return the entries of a tensor of shape ``other`` at the same indices: all of them have to be inside it."""
    return np.ravel_multi_index(np.unravel_index(entries, shape), other).astype(np.int64)
