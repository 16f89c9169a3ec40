"""What the loop of a recording depends on, and what it counts."""

from __future__ import annotations

from typing import NamedTuple

from lines_pipeline.jit.tracing import Kernel, OpCode, Row

COUNTED, BELOW, AT_LOW, INSIDE, AT_HIGH, NONFINITE, UNHELD = range(7)
"""Rows of what a loop counts: for ``COUNT``; for ``WITHIN`` the magnitudes below, on, between and on the upper end of a
bracket; for ``CHECK``; and, in the first column alone, of what is kept those that the stored type cannot
hold."""
COUNTS = UNHELD + 1

_WEIGHTED = (OpCode.ADD_KEPT, OpCode.ADD_AGREEING)
"""Instructions whose last number is a weight, which is left out where it is 1."""


class Operation(NamedTuple):
    """An instruction but for its numbers."""

    code: OpCode
    outs: tuple[int, ...]
    operands: tuple[int, ...]
    numbers: int
    unweighted: bool


class KernelSignature(NamedTuple):
    """All of a routine that its loop depends on."""

    double: bool
    operations: tuple[Operation, ...]
    rows: tuple[tuple[int, Row], ...]
    """By register."""
    slots: int
    """Columns of what it counts."""


def signature_of(kernel: Kernel) -> KernelSignature:
    """Routines that differ in numbers alone have one form."""
    operations = tuple(
        Operation(
            one.code,
            one.outs,
            one.operands,
            len(one.scalars),
            one.code in _WEIGHTED and one.scalars[-1] == 1.0,
        )
        for one in kernel.instructions
    )
    rows = tuple(kernel.rows.items())
    return KernelSignature(kernel.scalars.dtype.itemsize == 8, operations, rows, kernel.most_slots)
