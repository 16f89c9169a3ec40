"""The inner steps of trimming and electing, on one block; large merges in main memory run them as compiled loops.

Each function has a plain form and, in ``loops``, one that goes over the block once and lets other threads work
meanwhile. Both give the same bits. Which one runs is chosen by ``compiled``, and by whether Numba is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch.nn import functional

_compiled: ContextVar[bool] = ContextVar("compiled", default=False)
_FLOATS = (torch.float32, torch.float64)


@contextmanager
def compiled(wanted: bool) -> Iterator[None]:
    """Run the block functions of this thread as compiled loops, where they can be."""
    token = _compiled.set(wanted)
    try:
        yield
    finally:
        _compiled.reset(token)


def keep_from(value: torch.Tensor, threshold: float) -> torch.Tensor:
    """``value`` with entries of smaller magnitude than ``threshold`` set to zero; all of it where that is 0."""
    if threshold == 0.0:
        return value
    return functional.hardshrink(value, _below(threshold, value.dtype))


def add_kept(total: torch.Tensor, value: torch.Tensor, threshold: float, weight: float) -> None:
    """Add ``weight`` times the entries of ``value`` that reach ``threshold`` to ``total``, in place."""
    if _loops_apply(value):
        _loops().add_kept(total.numpy(), *_scalars(value, threshold, weight))
    else:
        total += _weighted(value, threshold, weight)


def add_agreeing(
    total: torch.Tensor,
    count: torch.Tensor,
    direction: torch.Tensor,
    value: torch.Tensor,
    *,
    threshold: float,
    weight: float,
) -> None:
    """Of what ``add_kept`` adds, add the magnitudes whose sign is ``direction`` (1 or -1), and count them, in place."""
    if _loops_apply(value):
        _loops().add_agreeing(total.numpy(), count.numpy(), direction.numpy(), *_scalars(value, threshold, weight))
    else:
        agreeing = _weighted(value, threshold, weight).mul(direction).clamp_(min=0)
        total += agreeing
        count += agreeing.sign_()


def mark_kept(marks: torch.Tensor, value: torch.Tensor, threshold: float) -> None:
    """Set the ``marks`` (bool) of entries that are not zero and reach ``threshold``, in place."""
    if _loops_apply(value):
        _loops().mark_kept(marks.numpy(), *_scalars(value, threshold))
    else:
        sizes, array = as_array(value.abs()), as_array(marks)
        array |= sizes >= threshold if threshold > 0.0 else sizes > 0.0


def within(value: torch.Tensor, low: float, high: float) -> tuple[int, np.ndarray[Any, Any]]:
    """How many magnitudes are below ``low`` (positive), and those from ``low`` to ``high``."""
    if _loops_apply(value):
        below, found = _loops().within(*_scalars(value, low, high))
        return int(below), found
    sizes = as_array(value.abs())
    reached = sizes >= low
    return value.numel() - count_set(reached), as_numpy(sizes[reached & (sizes <= high)])


def nonzero_count(value: torch.Tensor) -> int:
    """Entries that are not zero."""
    return count_set(as_array(value) != 0)


def as_array(value: torch.Tensor) -> Any:
    """A block as a NumPy array where it is in main memory: masks are made and counted several times faster there."""
    return value.numpy() if value.device.type == "cpu" else value


def as_numpy(values: Any) -> np.ndarray[Any, Any]:
    """An array in main memory, from what ``as_array`` gave."""
    return values if isinstance(values, np.ndarray) else values.numpy(force=True)


def count_set(mask: Any) -> int:
    """Set entries of a mask made from what ``as_array`` gave."""
    return int(np.count_nonzero(mask) if isinstance(mask, np.ndarray) else torch.count_nonzero(mask))


@cache
def _loops() -> Any:
    """The compiled forms; compiling takes seconds once a machine, loading them from Numba's cache 0.3 s."""
    return import_module("lines_pipeline.ops.blocks.loops")


@cache
def _installed() -> bool:
    return find_spec("numba") is not None


def _loops_apply(value: torch.Tensor) -> bool:
    return _compiled.get() and value.device.type == "cpu" and value.dtype in _FLOATS and _installed()


def _scalars(value: torch.Tensor, *numbers: float) -> tuple[Any, ...]:
    """The block, and numbers in its own type: a wider one would widen the sums."""
    array = value.numpy()
    return (array, *(array.dtype.type(number) for number in numbers))


def _weighted(value: torch.Tensor, threshold: float, weight: float) -> torch.Tensor:
    kept = keep_from(value, threshold)
    return kept if weight == 1.0 else kept * weight


def _below(threshold: float, dtype: torch.dtype) -> float:
    """The next smaller number: hardshrink keeps what is strictly larger, a trim keeps what is equal as well."""
    number = np.float64(threshold) if dtype == torch.float64 else np.float32(threshold)
    return float(np.nextafter(number, type(number)(0.0)))
