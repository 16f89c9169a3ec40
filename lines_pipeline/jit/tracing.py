"""Traces what ops do with one block: given ``TracedValue``s in place of tensors, they build a kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lines_pipeline.jit.boundary import Untraceable
from lines_pipeline.jit.instructions import (
    AS_COMPUTED,
    BOOL,
    GAP_BYTES,
    NUMPY_TYPES,
    PIECE_NUMEL,
    STORED_BYTES,
    Instruction,
    Kernel,
    OpCode,
    Row,
)

_SPREADING = {
    OpCode.SUBTRACT,
    OpCode.ADD,
    OpCode.MULTIPLY,
    OpCode.DIVIDE,
    OpCode.SCALE,
    OpCode.SHIFT,
    OpCode.ABS,
    OpCode.COPY,
}
"""Operations whose result has NaN or Inf wherever an operand (of ``DIVIDE``: the first) has one."""


@dataclass(frozen=True, eq=False)
class TracedValue:
    """Stands for a block: a source, or what an instruction computes; masks hold 0 and 1."""

    builder: TraceBuilder
    number: int
    is_mask: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Return the data type of the block that it stands for."""
        return torch.bool if self.is_mask else self.builder.dtype

    def __sub__(self, other: TracedValue) -> TracedValue:
        return self.builder.compute(OpCode.SUBTRACT, (self, other))

    def __add__(self, other: TracedValue | float) -> TracedValue:
        return self._either(OpCode.ADD, OpCode.SHIFT, other)

    def __mul__(self, other: TracedValue | float) -> TracedValue:
        return self._either(OpCode.MULTIPLY, OpCode.SCALE, other)

    def __truediv__(self, other: TracedValue | float) -> TracedValue:
        return self._either(OpCode.DIVIDE, OpCode.DIVIDE_BY, other)

    def __gt__(self, other: TracedValue) -> TracedValue:
        return self.builder.compute(OpCode.EXCEEDS, (self, other), is_mask=True)

    def __ge__(self, other: float) -> TracedValue:
        return self.builder.compute(OpCode.REACHES, (self,), (other,), is_mask=True)

    def abs(self) -> TracedValue:
        """Trace the magnitudes."""
        return self.builder.compute(OpCode.ABS, (self,))

    def sign(self) -> TracedValue:
        """Trace the signs: 1, 0 and -1."""
        return self.builder.compute(OpCode.SIGN, (self,))

    def clamp(self, *, min: float) -> TracedValue:
        """Trace the larger of each entry and ``min``."""
        return self.builder.compute(OpCode.AT_LEAST, (self,), (min,))

    def _either(self, pairwise: OpCode, by_scalar: OpCode, other: TracedValue | float) -> TracedValue:
        if isinstance(other, TracedValue):
            return self.builder.compute(pairwise, (self, other))
        return self.builder.compute(by_scalar, (self,), (other,))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TracedValue):
            return self is other
        raise Untraceable("==")

    def __bool__(self) -> bool:
        raise Untraceable("a decision by values")

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        raise Untraceable(name)


@dataclass(frozen=True)
class Reduced:
    """Names the result of a reduction: its kind and its slot."""

    code: OpCode
    slot: int


@dataclass(eq=False)
class TraceBuilder:
    """Collects the instructions of a kernel that computes in one type; its ``sources`` are numbered from 0."""

    dtype: torch.dtype
    sources: int
    _count: int = 0
    """Number of values so far."""
    _instructions: list[Instruction] = field(default_factory=list)
    _computed: dict[Any, tuple[int, ...]] = field(default_factory=dict)
    """Values by the operation that computes them."""
    _slots: dict[OpCode, int] = field(default_factory=dict)
    _stored: dict[int, int] = field(default_factory=dict)
    """How sources and stored values are stored, by value."""

    def __post_init__(self) -> None:
        self._count = self.sources
        self._stored.update(dict.fromkeys(range(self.sources), AS_COMPUTED))

    def source(self, number: int, stored: int = AS_COMPUTED) -> TracedValue:
        """Return the value of a source that is stored as ``STORED`` has it."""
        self._stored[number] = stored
        return TracedValue(self, number, stored == BOOL)

    def zeros(self, dtype: torch.dtype | None = None) -> TracedValue:
        """Append a block of zeros, or a mask that is set nowhere; return its value."""
        if dtype not in (None, self.dtype, torch.bool):
            raise Untraceable(f"zeros of {dtype}")
        return self.compute(OpCode.ZERO, (), is_mask=dtype == torch.bool)

    def compute(
        self, code: OpCode, operands: Sequence[TracedValue], scalars: tuple[float, ...] = (), *, is_mask: bool = False
    ) -> TracedValue:
        """Append an operation; return its value."""
        return TracedValue(self, self._compute(code, operands, scalars, 1)[0], is_mask)

    def compute_two(
        self, code: OpCode, operands: Sequence[TracedValue], scalars: tuple[float, ...]
    ) -> tuple[TracedValue, TracedValue]:
        """Append an operation; return its two values."""
        first, second = self._compute(code, operands, scalars, 2)
        return TracedValue(self, first), TracedValue(self, second)

    def _compute(
        self, code: OpCode, operands: Sequence[TracedValue], scalars: tuple[float, ...], count: int
    ) -> tuple[int, ...]:
        """Append an operation unless it was appended before; return the numbers of its values."""
        for operand, scalar in itertools.zip_longest(operands, scalars):
            if not isinstance(operand, TracedValue | None) or not isinstance(scalar, int | float | None):
                raise Untraceable(f"{code.name} of {operand} and {scalar}")
        signs = tuple(math.copysign(1.0, scalar) for scalar in scalars)
        key = (code, tuple(operand.number for operand in operands), scalars, signs)
        if key not in self._computed:
            self._computed[key] = self._append(code, key[1], scalars, count)
        return self._computed[key]

    def _append(
        self, code: OpCode, operands: tuple[int, ...], scalars: tuple[float, ...], count: int
    ) -> tuple[int, ...]:
        outs = tuple(range(self._count, self._count + count))
        self._count += count
        self._instructions.append(Instruction(code, outs, operands, scalars))
        return outs

    def reduce(self, code: OpCode, value: TracedValue, scalars: tuple[float, ...] = ()) -> Reduced:
        """Append a reduction; return its slot."""
        slot = self._slots.get(code, 0)
        self._slots[code] = slot + 1
        self._instructions.append(Instruction(code, (slot,), (value.number,), scalars))
        return Reduced(code, slot)

    def sources_in_totals(self) -> frozenset[int]:
        """Return the sources that are finite wherever all totals are: these spread their NaN and Inf to some total."""
        reached: dict[int, frozenset[int]] = {number: frozenset([number]) for number in range(self.sources)}
        sources: frozenset[int] = frozenset()
        for instruction in self._instructions:
            if instruction.code is OpCode.TOTAL:
                sources |= reached.get(instruction.operands[0], frozenset())
            elif instruction.code in _SPREADING:
                operands = instruction.operands[:1] if instruction.code is OpCode.DIVIDE else instruction.operands
                reached[instruction.outs[0]] = frozenset().union(
                    *(reached.get(operand, frozenset()) for operand in operands)
                )
        return sources

    def store(self, value: TracedValue, stored: int = AS_COMPUTED) -> int:
        """Let the kernel store a value as ``STORED`` has it; return its number among the stored values."""
        if value.number in self._stored:
            value = TracedValue(self, self._append(OpCode.COPY, (value.number,), (), 1)[0])
        self._stored[value.number] = stored
        return len(self._stored) - self.sources - 1

    def kernel(self, capacity: int) -> Kernel:
        """Return the kernel, for blocks of at most ``capacity`` values."""
        item = np.dtype(NUMPY_TYPES[self.dtype]).itemsize
        rows: dict[int, Row] = {}
        size = 0
        for number, stored in self._stored.items():
            numel = min(capacity, PIECE_NUMEL) if number < self.sources else capacity
            rows[number] = Row(size, stored, STORED_BYTES.get(stored, item))
            size += -(-numel * item // GAP_BYTES) * GAP_BYTES + GAP_BYTES
        scalars = [scalar for instruction in self._instructions for scalar in instruction.scalars]
        array = np.array(scalars, NUMPY_TYPES[self.dtype])
        return Kernel(self.sources, tuple(self._instructions), rows, array, size, dict(self._slots))
