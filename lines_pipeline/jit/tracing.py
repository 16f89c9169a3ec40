"""Records what ops do with one block, as instructions for ``fusion``: no values, only where they come from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch

LANES = 256
"""Sums kept side by side where a block is added up."""

PIECE_NUMEL = 2**16
"""Values of a source that are read and used at a time; a block of it is hashed over all its pieces."""

GAP_BYTES = 1088
"""Room between rows of memory, which begin on multiples of it: a loop may read and write some beyond a row's end, and
rows a power of 2 apart would take each other's place in the first cache."""

AS_COMPUTED, BOOL, BFLOAT16, FLOAT16 = range(4)
STORED = {
    "float32": AS_COMPUTED,
    "float64": AS_COMPUTED,
    "bool": BOOL,
    "bfloat16": BFLOAT16,
    "float16": FLOAT16,
}
"""How loops take and leave values of each type; tensors of other types are not recorded."""

STORED_BYTES = {BOOL: 1, BFLOAT16: 2, FLOAT16: 2}
"""Bytes of a value; ``AS_COMPUTED`` takes those of the type that is computed with."""

NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}
"""Types that can be recorded."""


class Untraceable(Exception):
    """An op did something to a block that has no instruction; it is computed without recording then."""


class OpCode(IntEnum):
    """Instructions. From ``TOTAL`` on they reduce a block; those before give another one."""

    SUBTRACT = 0
    ADD = 1
    MULTIPLY = 2
    DIVIDE = 3
    MAXIMUM = 4
    EXCEEDS = 5
    SCALE = 6
    DIVIDE_BY = 7
    SHIFT = 8
    AT_LEAST = 9
    REACHES = 10
    ABS = 11
    SIGN = 12
    KEEP = 13
    COPY = 14
    ZERO = 15
    ADD_KEPT = 16
    ADD_AGREEING = 17
    TOTAL = 18
    COUNT = 19
    WITHIN = 20
    CHECK = 21


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
"""What gives NaN or Inf wherever an operand (of ``DIVIDE``: the first) has one."""


@dataclass(frozen=True, eq=False)
class TracedValue:
    """A block that an instruction makes, or a source; masks hold 0 and 1."""

    builder: TraceBuilder
    number: int
    is_mask: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The type it stands for."""
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
        """Magnitudes."""
        return self.builder.compute(OpCode.ABS, (self,))

    def sign(self) -> TracedValue:
        """1, 0 and -1."""
        return self.builder.compute(OpCode.SIGN, (self,))

    def clamp(self, *, min: float) -> TracedValue:
        """At least ``min``."""
        return self.builder.compute(OpCode.AT_LEAST, (self,), (min,))

    def _either(self, pairwise: OpCode, by_number: OpCode, other: TracedValue | float) -> TracedValue:
        if isinstance(other, TracedValue):
            return self.builder.compute(pairwise, (self, other))
        return self.builder.compute(by_number, (self,), (other,))

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
    """Where a reduction's result will be."""

    code: OpCode
    slot: int


@dataclass(frozen=True)
class Instruction:
    """What is done with registers, and with numbers."""

    code: OpCode
    outs: tuple[int, ...]
    """Registers made; of a reduction, its slot."""
    operands: tuple[int, ...]
    scalars: tuple[float, ...]


@dataclass(eq=False)
class TraceBuilder:
    """A recording, for blocks of one type; ``sources`` are numbered from 0."""

    dtype: torch.dtype
    sources: int
    _made: int = 0
    _instructions: list[Instruction] = field(default_factory=list)
    _known: dict[Any, tuple[int, ...]] = field(default_factory=dict)
    _slots: dict[OpCode, int] = field(default_factory=dict)
    _kinds: dict[int, int] = field(default_factory=dict)
    """How sources and what is kept are stored, by register."""

    def __post_init__(self) -> None:
        self._made = self.sources
        self._kinds.update(dict.fromkeys(range(self.sources), AS_COMPUTED))

    def source(self, number: int, stored: int = AS_COMPUTED) -> TracedValue:
        """A block that is given, stored as ``STORED`` tells."""
        self._kinds[number] = stored
        return TracedValue(self, number, stored == BOOL)

    def zeros(self, dtype: torch.dtype | None = None) -> TracedValue:
        """Zeros, or a mask that is set nowhere."""
        if dtype not in (None, self.dtype, torch.bool):
            raise Untraceable(f"zeros of {dtype}")
        return self.compute(OpCode.ZERO, (), is_mask=dtype == torch.bool)

    def compute(
        self, code: OpCode, operands: Sequence[TracedValue], scalars: tuple[float, ...] = (), *, is_mask: bool = False
    ) -> TracedValue:
        """Another block."""
        return TracedValue(self, self._compute(code, operands, scalars, 1)[0], is_mask)

    def compute_two(
        self, code: OpCode, operands: Sequence[TracedValue], scalars: tuple[float, ...]
    ) -> tuple[TracedValue, TracedValue]:
        """Two blocks, by one instruction."""
        first, second = self._compute(code, operands, scalars, 2)
        return TracedValue(self, first), TracedValue(self, second)

    def _compute(
        self, code: OpCode, operands: Sequence[TracedValue], scalars: tuple[float, ...], count: int
    ) -> tuple[int, ...]:
        """What was computed before is not computed again."""
        for operand, scalar in itertools.zip_longest(operands, scalars):
            if not isinstance(operand, TracedValue | None) or not isinstance(scalar, int | float | None):
                raise Untraceable(f"{code.name} of {operand} and {scalar}")
        signs = tuple(math.copysign(1.0, scalar) for scalar in scalars)
        key = (code, tuple(register.number for register in operands), scalars, signs)
        if key not in self._known:
            self._known[key] = self._append(code, key[1], scalars, count)
        return self._known[key]

    def _append(
        self, code: OpCode, operands: tuple[int, ...], scalars: tuple[float, ...], count: int
    ) -> tuple[int, ...]:
        outs = tuple(range(self._made, self._made + count))
        self._made += count
        self._instructions.append(Instruction(code, outs, operands, scalars))
        return outs

    def reduce(self, code: OpCode, value: TracedValue, scalars: tuple[float, ...] = ()) -> Reduced:
        """Something small."""
        slot = self._slots.get(code, 0)
        self._slots[code] = slot + 1
        self._instructions.append(Instruction(code, (slot,), (value.number,), scalars))
        return Reduced(code, slot)

    def told_finite(self) -> frozenset[int]:
        """Sources of which no NaN or Inf could be missed in some total: that is finite only where they are."""
        told: dict[int, frozenset[int]] = {number: frozenset([number]) for number in range(self.sources)}
        found: frozenset[int] = frozenset()
        for one in self._instructions:
            if one.code is OpCode.TOTAL:
                found |= told.get(one.operands[0], frozenset())
            elif one.code in _SPREADING:
                operands = one.operands[:1] if one.code is OpCode.DIVIDE else one.operands
                told[one.outs[0]] = frozenset().union(*(told.get(number, frozenset()) for number in operands))
        return found

    def store(self, value: TracedValue, stored: int = AS_COMPUTED) -> int:
        """Keep a block, stored as ``STORED`` tells; gives its number among those kept."""
        if value.number in self._kinds:
            value = TracedValue(self, self._append(OpCode.COPY, (value.number,), (), 1)[0])
        self._kinds[value.number] = stored
        return len(self._kinds) - self.sources - 1

    def kernel(self, capacity: int) -> Kernel:
        """The instructions, for blocks of at most ``capacity`` values."""
        item = np.dtype(NUMPY_TYPES[self.dtype]).itemsize
        rows: dict[int, Row] = {}
        size = 0
        for number, stored in self._kinds.items():
            numel = min(capacity, PIECE_NUMEL) if number < self.sources else capacity
            rows[number] = Row(size, stored, STORED_BYTES.get(stored, item))
            size += -(-numel * item // GAP_BYTES) * GAP_BYTES + GAP_BYTES
        scalars = [scalar for one in self._instructions for scalar in one.scalars]
        numbers = np.array(scalars, NUMPY_TYPES[self.dtype])
        return Kernel(self.sources, tuple(self._instructions), rows, numbers, size, dict(self._slots))


class Row(NamedTuple):
    """Where a source or what is kept is in memory."""

    offset: int
    """In bytes."""
    stored: int
    """As ``STORED`` tells."""
    item_bytes: int
    """Bytes of a value."""


@dataclass(frozen=True)
class Kernel:
    """Instructions, and where in memory the blocks lie that they take and leave."""

    sources: int
    instructions: tuple[Instruction, ...]
    rows: Mapping[int, Row]
    """By register, sources first: of these there is a piece in memory, of what is kept a block."""
    scalars: np.ndarray[Any, Any]
    """The numbers of all instructions, in order, in the type computed with."""
    memory_bytes: int
    slots: dict[OpCode, int]
    """How many results there are of each reduction."""

    @property
    def taken(self) -> tuple[Row, ...]:
        """Of the sources."""
        return tuple(self.rows.values())[: self.sources]

    @property
    def kept(self) -> tuple[Row, ...]:
        """Of the blocks kept."""
        return tuple(self.rows.values())[self.sources :]

    @property
    def most_slots(self) -> int:
        """Results there are of the reduction that has most; 1 at least."""
        return max(self.slots.values(), default=1)
