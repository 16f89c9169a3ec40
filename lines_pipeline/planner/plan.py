"""The plan of a merge: what ``run`` carries out, ``plan`` and ``validate`` tell, and a record keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.ops.base import AnyStatistic
from lines_pipeline.planner.memory import BASE_BYTES, EngineSettings, StageMemory
from lines_pipeline.planner.schemas import Schema
from lines_pipeline.planner.stages import Stage


@dataclass(frozen=True)
class Catalogue:
    """Holds what is known before a tensor is read: headers of checkpoints, and cached values and statistics."""

    checkpoints: Mapping[str, Checkpoint]
    """Headers of inputs, by step that loads one."""
    values: Mapping[str, Checkpoint] = field(default_factory=dict)
    """Headers of values that are there already, by step."""
    statistics: Mapping[AnyStatistic, Any] = field(default_factory=dict)
    """Results of statistics that are known already."""


@dataclass(frozen=True)
class Wanted:
    """Says what a plan is to give."""

    files: Mapping[str, str]
    """By step whose value is written: the type that it is stored in (``keep``: as it is; ``""``: packed)."""
    summarised: tuple[str, ...] = ()
    """Steps behind which all statistics are gathered that are not known."""
    in_cache: frozenset[str] = frozenset()
    """Those of ``files`` that go into the cache."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Stages in the order in which they are done, and all that was known when they were planned."""

    graph: Graph
    wanted: Wanted
    catalogue: Catalogue
    settings: EngineSettings
    schemas: Mapping[str, Schema]
    """By step behind what is wanted."""
    cached: Mapping[str, Checkpoint] = field(default_factory=dict)
    """By step whose value is read, not computed: headers of values that are there, or come from plans ``before``."""
    known: Mapping[AnyStatistic, Any] = field(default_factory=dict)
    """Statistics that are folded into the stages."""
    stages: tuple[Stage, ...] = ()
    memory: tuple[StageMemory, ...] = ()
    """Of each stage."""
    drivers: Mapping[str, int] = field(default_factory=dict)
    """Bytes of anonymous memory at the peak of what a driver carries out beside the stages, by step."""
    before: tuple[Plan, ...] = ()
    """Plans of the values that break the pipeline, in order; each is written into the cache before the next."""

    @property
    def parts(self) -> tuple[Plan, ...]:
        """Return the plans in the order in which they are carried out, this one last."""
        return (*self.before, self)

    @property
    def peak_bytes(self) -> int:
        """Return the bytes of anonymous memory at the peak of all parts, and of drivers."""
        stages = (stage.peak_bytes for part in self.parts for stage in part.memory)
        return max([BASE_BYTES, *stages, *self.drivers.values()])

    def everywhere(self, rule: Callable[[Plan], Plan]) -> Plan:
        """Apply a rule to this plan and to those before it."""
        return replace(rule(self), before=tuple(rule(part) for part in self.before))

    def in_place_of_stages(self, stages: Sequence[Stage]) -> Plan:
        """Return the plan with other stages."""
        return replace(self, stages=tuple(stages))
