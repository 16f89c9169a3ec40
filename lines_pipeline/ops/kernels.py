"""Operations of ops and statistics on blocks beyond plain arithmetic, for tensors and for traced values.

An op's ``apply`` uses these functions and ``+ - * /``, ``>``, ``>=``, ``abs``, ``sign``, ``clamp(min=...)``. Given
tensors, these compute on any device. Given traced values, they append instructions to a ``TraceBuilder``, and the
compiled kernel computes the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch.nn import functional

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.jit.instructions import LANES, OpCode
from lines_pipeline.jit.tracing import TracedValue


class Value(Protocol):
    """A block or a whole tensor: a ``torch.Tensor``, or the ``TracedValue`` that stands for one."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the compute type, or bool for a mask."""

    def __add__(self, other: Self | float, /) -> Self: ...
    def __sub__(self, other: Self, /) -> Self: ...
    def __mul__(self, other: Self | float, /) -> Self: ...
    def __truediv__(self, other: Self | float, /) -> Self: ...
    def __gt__(self, other: Self, /) -> Self: ...
    def __ge__(self, other: float, /) -> Self: ...
    def abs(self) -> Self:
        """Return the magnitudes."""

    def sign(self) -> Self:
        """Return 1, 0 or -1 of each entry."""

    def clamp(self, *, min: float) -> Self:
        """Return the entries, at least ``min``."""


Block = Any
"""A ``Value`` where tensors and traced values are told apart: in this module, and in what carries out ops."""


def zeros_like(value: Block, dtype: torch.dtype | None = None) -> Value:
    """Return a block of zeros, of another type where one is given."""
    return value.builder.zeros(dtype) if isinstance(value, TracedValue) else torch.zeros_like(value, dtype=dtype)


def all_set(value: Block) -> Value:
    """Return a mask that is set everywhere."""
    return value.abs() >= 0.0 if isinstance(value, TracedValue) else torch.ones_like(value, dtype=torch.bool)


def larger(first: Block, second: Block) -> Value:
    """Return the larger of each two entries; the second where they are equal."""
    if isinstance(first, TracedValue):
        return first.builder.compute(OpCode.MAXIMUM, (first, second))
    return torch.where(first > second, first, second)


def exceeds(value: Value, number: float) -> Value:
    """Return where ``value`` is strictly larger than a number."""
    return value >= above(number, value.dtype)


def at_most(value: Value, number: float) -> Value:
    """Return ``value``, or ``number`` where that is smaller."""
    return (value * -1.0).clamp(min=-number) * -1.0


def keep_from(value: Block, threshold: float) -> Value:
    """Return ``value`` with entries of smaller magnitude than ``threshold`` set to zero; all of it where that is 0."""
    if threshold == 0.0:
        return value
    if isinstance(value, TracedValue):
        return value.builder.compute(OpCode.KEEP, (value,), (threshold,))
    return functional.hardshrink(value, _below(threshold, value.dtype))


def add_kept(total: Block, count: Block, value: Block, threshold: float, weight: float) -> tuple[Value, Value]:
    """Add ``weight`` times the entries of ``value`` that reach ``threshold`` to ``total``, and 1 to ``count`` where
    such an entry is not zero; return both."""
    if isinstance(value, TracedValue):
        return value.builder.compute_two(OpCode.ADD_KEPT, (total, count, value), (threshold, weight))
    kept: Block = keep_from(value, threshold)
    return total + _weighted(kept, weight), count + kept.abs().sign_()


def add_agreeing(
    total: Block, count: Block, value: Block, threshold: float, weight: float, *, direction: Block
) -> tuple[Value, Value]:
    """Add up as ``add_kept`` does, but magnitudes, and of entries with the sign ``direction`` (1 or -1) alone."""
    if isinstance(value, TracedValue):
        return value.builder.compute_two(OpCode.ADD_AGREEING, (total, count, value, direction), (threshold, weight))
    kept: Block = keep_from(value, threshold)
    agreeing = (_weighted(kept, weight) * direction).clamp_(min=0)
    return total + agreeing, count + agreeing.sign()


def total(value: Block) -> Any:
    """Return the sum of a block: rows of ``LANES`` entries are added up in float64, then the lanes pairwise."""
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


def nonzero_count(value: Block) -> Any:
    """Return the number of entries that are set (of a mask) or not zero."""
    if isinstance(value, TracedValue):
        return value.builder.reduce(OpCode.COUNT, value)
    return int(np.count_nonzero(value.numpy()) if value.device.type == "cpu" else torch.count_nonzero(value))


def within(value: Block, low: float, high: float) -> Any:
    """Return the number of magnitudes below ``low`` and equal to it, those between, and the number equal to ``high``.

    Where both ends are equal, magnitudes equal to them are counted twice.
    """
    if isinstance(value, TracedValue):
        return value.builder.reduce(OpCode.WITHIN, value, (low, high))
    sizes: Any = value.abs().numpy() if value.device.type == "cpu" else value.abs()
    low, high = (torch.tensor(end, dtype=value.dtype).item() for end in (low, high))
    between = sizes[(sizes > low) & (sizes < high)]
    between = between if isinstance(between, np.ndarray) else between.numpy(force=True)
    return int((sizes < low).sum()), int((sizes == low).sum()), between, int((sizes == high).sum())


def running_sum(values: Sequence[Block], weights: Sequence[float] | None = None) -> Value:
    """Add up (weighted) values from first to last, one rounding a step: the same on every device and thread."""
    scaled = [value if w == 1.0 else value * w for value, w in zip(values, weights or [1.0] * len(values), strict=True)]
    result = scaled[0]
    for value in scaled[1:]:
        result = result + value
    return result


def or_one(sums: Value, terms: Sequence[float]) -> Value:
    """Return sums of some of the ``terms``; 1 where they are 0, up to what rounding to float32 leaves of that."""
    rounding = float(np.finfo(np.float32).eps) * len(terms) * sum(map(abs, terms))
    known = sums * (sums.abs() >= rounding)
    return known + (known.abs().sign() * -1.0 + 1.0)


def whole(value: Block, tensor: TensorSpec) -> torch.Tensor:
    """Return a whole tensor in its shape, for ops that decompose: such code does not run compiled."""
    return value.reshape(tensor.shape)


def _weighted(kept: torch.Tensor, weight: float) -> torch.Tensor:
    return kept if weight == 1.0 else kept * weight


def above(number: float, dtype: torch.dtype) -> float:
    """Return the next larger number of a type."""
    exact = np.float64(number) if dtype == torch.float64 else np.float32(number)
    return float(np.nextafter(exact, type(exact)(np.inf)))


def _below(threshold: float, dtype: torch.dtype) -> float:
    """Return the next smaller number: hardshrink keeps what is strictly larger, a trim keeps what is equal as well."""
    number = np.float64(threshold) if dtype == torch.float64 else np.float32(threshold)
    return float(np.nextafter(number, type(number)(0.0)))
