"""What ops and measures do with blocks beyond plain arithmetic, on tensors and on registers alike.

An op's ``apply`` is written once, in terms of these functions and of ``+ - * /``, ``>``, ``>=``, ``abs``, ``sign``,
``clamp(min=...)``. Given tensors, it computes at once (any device). Given the registers of a ``TraceBuilder``,
it is recorded, and the recording then runs over a block in one go (``machine``). Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from lines_pipeline.jit.tracing import LANES, OpCode, TracedValue

Value = Any
"""``torch.Tensor`` or ``TracedValue``."""


def zeros_like(value: Value, dtype: torch.dtype | None = None) -> Value:
    """A block of zeros; of another type where that is given."""
    return value.builder.zeros(dtype) if isinstance(value, TracedValue) else torch.zeros_like(value, dtype=dtype)


def all_set(value: Value) -> Value:
    """A mask that is set everywhere."""
    return value.abs() >= 0.0 if isinstance(value, TracedValue) else torch.ones_like(value, dtype=torch.bool)


def larger(one: Value, other: Value) -> Value:
    """The larger of each two entries; the second where they are equal."""
    if isinstance(one, TracedValue):
        return one.builder.compute(OpCode.MAXIMUM, (one, other))
    return torch.where(one > other, one, other)


def exceeds(value: Value, number: float) -> Value:
    """Where ``value`` is strictly larger than a number."""
    return value >= above(number, value.dtype)


def at_most(value: Value, number: float) -> Value:
    """``value``, or ``number`` where that is smaller."""
    return (value * -1.0).clamp(min=-number) * -1.0


def keep_from(value: Value, threshold: float) -> Value:
    """``value`` with entries of smaller magnitude than ``threshold`` set to zero; all of it where that is 0."""
    if threshold == 0.0:
        return value
    if isinstance(value, TracedValue):
        return value.builder.compute(OpCode.KEEP, (value,), (threshold,))
    return functional.hardshrink(value, _below(threshold, value.dtype))


def add_kept(total: Value, count: Value, value: Value, threshold: float, weight: float) -> tuple[Value, Value]:
    """``total`` plus ``weight`` times the entries of ``value`` that reach ``threshold``; ``count`` plus 1 where such an
    entry is not zero."""
    if isinstance(value, TracedValue):
        return value.builder.compute_two(OpCode.ADD_KEPT, (total, count, value), (threshold, weight))
    kept = keep_from(value, threshold)
    return total + _weighted(kept, weight), count + kept.abs().sign_()


def add_agreeing(
    total: Value, count: Value, value: Value, threshold: float, weight: float, *, direction: Value
) -> tuple[Value, Value]:
    """Of what ``add_kept`` adds, add the magnitudes whose sign is ``direction`` (1 or -1), and count these."""
    if isinstance(value, TracedValue):
        return value.builder.compute_two(OpCode.ADD_AGREEING, (total, count, value, direction), (threshold, weight))
    agreeing = (_weighted(keep_from(value, threshold), weight) * direction).clamp_(min=0)
    return total + agreeing, count + agreeing.sign()


def total(value: Value) -> Any:
    """Sum of a block: rows of ``LANES`` entries are added up in float64, then the lanes pairwise."""
    if isinstance(value, TracedValue):
        return value.builder.reduce(OpCode.TOTAL, value)
    if value.device.type != "cpu":
        return float(value.sum(dtype=torch.float64))
    array = value.numpy()
    whole = len(array) // LANES * LANES
    lanes = np.add.reduce(array[:whole].reshape(-1, LANES), axis=0, dtype=np.float64)
    lanes[: len(array) - whole] += array[whole:]
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return float(lanes[0])


def nonzero_count(value: Value) -> Any:
    """Entries that are set (of a mask) or not zero."""
    if isinstance(value, TracedValue):
        return value.builder.reduce(OpCode.COUNT, value)
    return int(np.count_nonzero(value.numpy()) if value.device.type == "cpu" else torch.count_nonzero(value))


def within(value: Value, low: float, high: float) -> Any:
    """How many magnitudes are below ``low`` and equal to it, those up to ``high``, and how many are equal to that.

    Where both ends are equal, magnitudes equal to them are counted twice.
    """
    if isinstance(value, TracedValue):
        return value.builder.reduce(OpCode.WITHIN, value, (low, high))
    sizes: Any = value.abs().numpy() if value.device.type == "cpu" else value.abs()
    low, high = (torch.tensor(end, dtype=value.dtype).item() for end in (low, high))
    found = sizes[(sizes > low) & (sizes < high)]
    found = found if isinstance(found, np.ndarray) else found.numpy(force=True)
    return int((sizes < low).sum()), int((sizes == low).sum()), found, int((sizes == high).sum())


def running_sum(values: Sequence[Value], weights: Sequence[float] | None = None) -> Value:
    """Sum of the (weighted) values from first to last, one rounding a step: the same on every device and thread."""
    scaled = [value if w == 1.0 else value * w for value, w in zip(values, weights or [1.0] * len(values), strict=True)]
    result = scaled[0]
    for value in scaled[1:]:
        result = result + value
    return result


def _weighted(kept: torch.Tensor, weight: float) -> torch.Tensor:
    return kept if weight == 1.0 else kept * weight


def above(number: float, dtype: torch.dtype) -> float:
    """The next larger number of a type."""
    exact = np.float64(number) if dtype == torch.float64 else np.float32(number)
    return float(np.nextafter(exact, type(exact)(np.inf)))


def _below(threshold: float, dtype: torch.dtype) -> float:
    """The next smaller number: hardshrink keeps what is strictly larger, a trim keeps what is equal as well."""
    number = np.float64(threshold) if dtype == torch.float64 else np.float32(threshold)
    return float(np.nextafter(number, type(number)(0.0)))
