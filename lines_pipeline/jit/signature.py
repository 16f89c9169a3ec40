"""The part of a kernel that its machine code depends on, and the counts that this code returns."""

from __future__ import annotations

from typing import NamedTuple

from lines_pipeline.jit.instructions import Kernel, OpCode, Row

COUNTED, BELOW, AT_LOW, INSIDE, AT_HIGH, NONFINITE, UNHELD = range(7)
"""Rows of a kernel's counts: the results of ``COUNT``; of ``WITHIN`` the magnitudes below a bracket, on its lower end,
inside it and on its upper end; of ``CHECK``; and, in the first column alone, the values to store that the stored type
cannot hold."""
COUNTS = UNHELD + 1

_WEIGHTED = (OpCode.ADD_KEPT, OpCode.ADD_AGREEING)
"""Instructions whose last scalar is a weight, which is left out where it is 1."""


class Operation(NamedTuple):
    """An instruction without its scalars."""

    code: OpCode
    outs: tuple[int, ...]
    operands: tuple[int, ...]
    scalars: int
    """How many there are."""
    unweighted: bool


class KernelSignature(NamedTuple):
    """Identifies machine code: kernels of one signature share it."""

    double: bool
    operations: tuple[Operation, ...]
    rows: tuple[tuple[int, Row], ...]
    """By value."""
    slots: int
    """Columns of the counts."""


def signature_of(kernel: Kernel) -> KernelSignature:
    """Return a kernel's signature; kernels that differ in scalars alone have the same."""
    operations = tuple(
        Operation(
            instruction.code,
            instruction.outs,
            instruction.operands,
            len(instruction.scalars),
            instruction.code in _WEIGHTED and instruction.scalars[-1] == 1.0,
        )
        for instruction in kernel.instructions
    )
    rows = tuple(kernel.rows.items())
    return KernelSignature(kernel.scalars.dtype.itemsize == 8, operations, rows, kernel.most_slots)
