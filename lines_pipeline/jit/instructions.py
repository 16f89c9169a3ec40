"""The intermediate representation: a kernel is a list of instructions on numbered values of one block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch

LANES = 256
"""Sums kept side by side where a block is added up."""

PIECE_NUMEL = 2**16
"""Values of a source that are read and used at a time; its digest is taken over all pieces of a block."""

GAP_BYTES = 1088
"""Rows of memory begin on multiples of this, with as much room after each: a kernel may read and write some values
beyond a row's end, and rows a power of 2 apart would take each other's place in the first cache."""

AS_COMPUTED, BOOL, BFLOAT16, FLOAT16 = range(4)
STORED = {
    "float32": AS_COMPUTED,
    "float64": AS_COMPUTED,
    "bool": BOOL,
    "bfloat16": BFLOAT16,
    "float16": FLOAT16,
}
"""How kernels load and store values of each type; tensors of other types are not traced."""

STORED_BYTES = {BOOL: 1, BFLOAT16: 2, FLOAT16: 2}
"""Bytes of a stored value; one that is ``AS_COMPUTED`` has those of the compute type."""

NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}
"""Compute types of kernels."""


class OpCode(IntEnum):
    """Names what an instruction does. From ``TOTAL`` on they reduce a block; those before compute another block."""

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


@dataclass(frozen=True)
class Instruction:
    """An operation on values, by their numbers, and on scalars."""

    code: OpCode
    outs: tuple[int, ...]
    """The values computed; of a reduction, its slot."""
    operands: tuple[int, ...]
    scalars: tuple[float, ...]


class Row(NamedTuple):
    """Tells where a source or a stored value lies in a thread's memory."""

    offset: int
    """In bytes."""
    stored: int
    """As ``STORED`` has it."""
    item_bytes: int
    """Bytes of one value."""


@dataclass(frozen=True)
class Kernel:
    """Instructions, and where in memory the blocks lie that they load and store."""

    sources: int
    instructions: tuple[Instruction, ...]
    rows: Mapping[int, Row]
    """By value, sources first: a source has room for a piece, a stored value for a block."""
    scalars: np.ndarray[Any, Any]
    """The scalars of all instructions, in order, in the compute type."""
    memory_bytes: int
    slots: dict[OpCode, int]
    """Number of results of each kind of reduction."""

    @property
    def source_rows(self) -> tuple[Row, ...]:
        """Return the rows of the sources."""
        return tuple(self.rows.values())[: self.sources]

    @property
    def stored_rows(self) -> tuple[Row, ...]:
        """Return the rows of the stored values."""
        return tuple(self.rows.values())[self.sources :]

    @property
    def most_slots(self) -> int:
        """Return the number of results of the reduction that has most; 1 at least."""
        return max(self.slots.values(), default=1)
