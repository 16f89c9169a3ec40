"""What an op tells users of a step: figures after a run, lines in ``plan``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.schemas.schema import Schema

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""What JSON holds."""

Summary = Mapping[str, object]
"""Figures worth telling the user, by name: what JSON holds."""


@dataclass(frozen=True)
class PlannedValue:
    """Holds what is known of a value before anything is read: its tensors, and their blocks where depth matters."""

    schema: Schema
    counts: Mapping[str, int]
    """Number of inputs by port."""
    layers: LayerMap | None = None
    """Where the op has a ``layer_pattern``."""


@dataclass(frozen=True)
class OpExplanation:
    """Lines for people, and the same in plain values for ``--json``."""

    lines: tuple[str, ...]
    """The first stands beside the step's name, the others below it."""
    values: Mapping[str, Plain]
    block_scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The factor of every block by tower, where an op scales by depth and its statistics are known."""
