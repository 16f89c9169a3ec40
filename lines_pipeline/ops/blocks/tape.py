"""Records what ops do with one block, as instructions for ``machine``: no values, only where they come from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import torch

LANES = 2048
"""Values that instructions work on at a time, and sums kept side by side."""

PIECE_NUMEL = 2**16
"""Values of a source that are read and used at a time; a block of it is hashed over all its pieces."""

AS_COMPUTED, BOOL, BFLOAT16, FLOAT16 = range(4)
STORED = {
    "float32": AS_COMPUTED,
    "float64": AS_COMPUTED,
    "bool": BOOL,
    "bfloat16": BFLOAT16,
    "float16": FLOAT16,
}
"""How the machine reads and writes each type; tensors of other types are not recorded."""

NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}
"""Types that can be recorded."""


class Unrecordable(Exception):
    """An op did something to a block that has no instruction; it is computed without recording then."""


class Code(IntEnum):
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


_SPREADING = {Code.SUBTRACT, Code.ADD, Code.MULTIPLY, Code.DIVIDE, Code.SCALE, Code.SHIFT, Code.ABS, Code.COPY}
"""What gives NaN or Inf wherever an operand (of ``DIVIDE``: the first) has one."""


@dataclass(frozen=True, eq=False)
class Register:
    """A block that an instruction makes, or a source; masks hold 0 and 1."""

    tape: Tape
    number: int
    is_mask: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The type it stands for."""
        return torch.bool if self.is_mask else self.tape.dtype

    def __sub__(self, other: Register) -> Register:
        return self.tape.compute(Code.SUBTRACT, (self, other))

    def __add__(self, other: Register | float) -> Register:
        return self._either(Code.ADD, Code.SHIFT, other)

    def __mul__(self, other: Register | float) -> Register:
        return self._either(Code.MULTIPLY, Code.SCALE, other)

    def __truediv__(self, other: Register | float) -> Register:
        return self._either(Code.DIVIDE, Code.DIVIDE_BY, other)

    def __gt__(self, other: Register) -> Register:
        return self.tape.compute(Code.EXCEEDS, (self, other), is_mask=True)

    def __ge__(self, other: float) -> Register:
        return self.tape.compute(Code.REACHES, (self,), (other,), is_mask=True)

    def abs(self) -> Register:
        """Magnitudes."""
        return self.tape.compute(Code.ABS, (self,))

    def sign(self) -> Register:
        """1, 0 and -1."""
        return self.tape.compute(Code.SIGN, (self,))

    def clamp(self, *, min: float) -> Register:
        """At least ``min``."""
        return self.tape.compute(Code.AT_LEAST, (self,), (min,))

    def _either(self, pairwise: Code, by_number: Code, other: Register | float) -> Register:
        if isinstance(other, Register):
            return self.tape.compute(pairwise, (self, other))
        return self.tape.compute(by_number, (self,), (other,))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Register):
            return self is other
        raise Unrecordable("==")

    def __bool__(self) -> bool:
        raise Unrecordable("a decision by values")

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        raise Unrecordable(name)


@dataclass(frozen=True)
class Reduced:
    """Where a reduction's result will be."""

    code: Code
    slot: int


@dataclass(frozen=True)
class _Instruction:
    code: Code
    outs: tuple[int, ...]
    """Registers made; of a reduction, its slot."""
    operands: tuple[int, ...]
    scalars: tuple[float, ...]

    @property
    def made(self) -> tuple[int, ...]:
        return self.outs if self.code < Code.TOTAL else ()


@dataclass(eq=False)
class Tape:
    """A recording, for blocks of one type; ``sources`` are numbered from 0."""

    dtype: torch.dtype
    sources: int
    _made: int = 0
    _instructions: list[_Instruction] = field(default_factory=list)
    _known: dict[Any, tuple[int, ...]] = field(default_factory=dict)
    _slots: dict[Code, int] = field(default_factory=dict)
    _stored: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._made = self.sources

    def source(self, number: int, *, is_mask: bool = False) -> Register:
        """A block that is given."""
        return Register(self, number, is_mask)

    def zeros(self, dtype: torch.dtype | None = None) -> Register:
        """Zeros, or a mask that is set nowhere."""
        if dtype not in (None, self.dtype, torch.bool):
            raise Unrecordable(f"zeros of {dtype}")
        return self.compute(Code.ZERO, (), is_mask=dtype == torch.bool)

    def compute(
        self, code: Code, operands: Sequence[Register], scalars: tuple[float, ...] = (), *, is_mask: bool = False
    ) -> Register:
        """Another block."""
        return Register(self, self._compute(code, operands, scalars, 1)[0], is_mask)

    def compute_two(
        self, code: Code, operands: Sequence[Register], scalars: tuple[float, ...]
    ) -> tuple[Register, Register]:
        """Two blocks, by one instruction."""
        first, second = self._compute(code, operands, scalars, 2)
        return Register(self, first), Register(self, second)

    def _compute(
        self, code: Code, operands: Sequence[Register], scalars: tuple[float, ...], count: int
    ) -> tuple[int, ...]:
        """What was computed before is not computed again."""
        for operand, scalar in itertools.zip_longest(operands, scalars):
            if not isinstance(operand, Register | None) or not isinstance(scalar, int | float | None):
                raise Unrecordable(f"{code.name} of {operand} and {scalar}")
        signs = tuple(math.copysign(1.0, scalar) for scalar in scalars)
        key = (code, tuple(register.number for register in operands), scalars, signs)
        if key not in self._known:
            self._known[key] = self._append(code, key[1], scalars, count)
        return self._known[key]

    def _append(self, code: Code, operands: tuple[int, ...], scalars: tuple[float, ...], count: int) -> tuple[int, ...]:
        outs = tuple(range(self._made, self._made + count))
        self._made += count
        self._instructions.append(_Instruction(code, outs, operands, scalars))
        return outs

    def reduce(self, code: Code, value: Register, scalars: tuple[float, ...] = ()) -> Reduced:
        """Something small."""
        slot = self._slots.get(code, 0)
        self._slots[code] = slot + 1
        self._instructions.append(_Instruction(code, (slot,), (value.number,), scalars))
        return Reduced(code, slot)

    def told_finite(self) -> frozenset[int]:
        """Sources of which no NaN or Inf could be missed in some total: that is finite only where they are."""
        told: dict[int, frozenset[int]] = {number: frozenset([number]) for number in range(self.sources)}
        found: frozenset[int] = frozenset()
        for one in self._instructions:
            if one.code is Code.TOTAL:
                found |= told.get(one.operands[0], frozenset())
            elif one.code in _SPREADING:
                operands = one.operands[:1] if one.code is Code.DIVIDE else one.operands
                told[one.outs[0]] = frozenset().union(*(told.get(number, frozenset()) for number in operands))
        return found

    def store(self, value: Register) -> int:
        """Keep a block to be read afterwards; gives its number among those kept."""
        if value.number < self.sources or value.number in self._stored:
            value = Register(self, self._append(Code.COPY, (value.number,), (), 1)[0])
        self._stored.append(value.number)
        return len(self._stored) - 1

    def routine(self, capacity: int) -> Routine:
        """The instructions, for blocks of at most ``capacity`` values."""
        return _Assembly(self, capacity).routine()


@dataclass(frozen=True)
class Routine:
    """Instructions as arrays: code and operand numbers, where operands are in memory, and numbers they take."""

    code: np.ndarray[Any, Any]
    """int64 [instructions, 8]: code, first scalar, two outs, four operands."""
    places: np.ndarray[Any, Any]
    """int64 [operands, 3]: offset in the memory; whether it moves with the strip (1) or not (0); and with the piece."""
    scalars: np.ndarray[Any, Any]
    length: int
    """Values of memory that it needs."""
    stored: tuple[int, ...]
    """Offsets of the blocks kept."""
    slots: dict[Code, int]
    """How many results there are of each reduction."""


class _Assembly:
    """Gives every register a place: a piece for a source, a block for what is stored, else a strip that is reused."""

    def __init__(self, tape: Tape, capacity: int) -> None:
        self._tape = tape
        self._length = 0
        self._free: list[int] = []
        self._places: list[tuple[int, int, int]] = [(0, 0, 0)] * tape._made
        for number in range(tape.sources):
            self._places[number] = (self._take(min(capacity, PIECE_NUMEL)), 1, 0)
        for number in tape._stored:
            self._places[number] = (self._take(capacity), 1, 1)

    def routine(self) -> Routine:
        scalars: list[float] = []
        code: list[list[int]] = []
        last = {number: at for at, one in enumerate(self._tape._instructions) for number in one.operands}
        for at, one in enumerate(self._tape._instructions):
            for number in one.made:
                if number not in self._tape._stored:
                    self._places[number] = (self._free.pop() if self._free else self._take(LANES), 0, 0)
            outs, operands = [*one.outs, 0, 0][:2], [*one.operands, 0, 0, 0, 0][:4]
            code.append([one.code, len(scalars), *outs, *operands])
            scalars += one.scalars
            for number in dict.fromkeys((*one.operands, *one.made)):
                if last.get(number, at) == at and not self._places[number][1]:
                    self._free.append(self._places[number][0])
        places = np.array(self._places, np.int64).reshape(-1, 3)
        stored = tuple(self._places[number][0] for number in self._tape._stored)
        numbers = np.array([*scalars, 0.0], NUMPY_TYPES[self._tape.dtype])
        return Routine(
            np.array(code, np.int64).reshape(-1, 8), places, numbers, self._length, stored, dict(self._tape._slots)
        )

    def _take(self, numel: int) -> int:
        self._length += numel
        return self._length - numel
