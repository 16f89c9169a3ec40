"""What is made of metrics, once models are judged: further metrics, and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.ops.figures import Figure
from lines_pipeline.ops.metrics_table import Member, Row

Members = Mapping[str, Sequence[Member]]
"""The members of a step's inputs, by port."""


@dataclass(frozen=True)
class Derived:
    """Holds metrics that were made of others, and their units; plain scores have none."""

    metrics: Mapping[str, float]
    units: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What the user is told of them, a sentence each."""
    rows: tuple[Row, ...] = ()
    """The same as a table, for the record."""


def _no_diagnostics(members: Members) -> Iterable[Diagnostic]:
    return ()


@dataclass(frozen=True)
class Derivation:
    """Tells how a step is made of other steps' metrics.

    ``make`` raises ``EvalError`` where the metrics do not do. ``check`` is asked before anything runs, when members
    have no metrics yet.
    """

    make: Callable[[Members], Derived | Figure]
    columns: Sequence[tuple[FieldPath, str]] = ()
    """The columns of the inputs' table that parameters name, with the path to each."""
    files: tuple[str, ...] = ()
    """The files that are written, inside the run's output folder."""
    check: Callable[[Members], Iterable[Diagnostic]] = _no_diagnostics
