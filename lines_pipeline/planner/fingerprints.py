"""Content keys of steps and statistics: what the node cache is addressed by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.graph.graph import Graph
from lines_pipeline.ops.base import AnyOp, AnyStatistic
from lines_pipeline.planner.stages import statistics_of

CACHE_VERSION = 2
"""Part of every key. Raise it when what earlier versions kept must not be used: before 2, no result was looked at."""


class Fingerprints:
    """Keys of a graph's steps, from the content digests of its inputs (by load step; absent ones give no key)."""

    def __init__(self, graph: Graph, digests: Mapping[str, str]) -> None:
        self._graph, self._digests = graph, digests
        self._steps: dict[str, str | None] = {}

    def step(self, step_id: str) -> str | None:
        """Return the key of a step's value, or None while an input's content is unknown."""
        if step_id not in self._steps:
            self._steps[step_id] = self._step_key(step_id)
        return self._steps[step_id]

    def statistic(self, statistic: AnyStatistic) -> str | None:
        """Return the key of a statistic's result."""
        of, needs = [self.step(step_id) for step_id in statistic.of], [self.statistic(need) for need in statistic.needs]
        if None in of or None in needs:
            return None
        fields = {f.name: getattr(statistic, f.name) for f in dataclasses.fields(statistic) if f.compare}
        own = {name: value for name, value in fields.items() if name not in ("of", "needs", "optional")}
        own |= {} if own.pop("bounds") is None else {"bounds": statistic.bounds}
        kind = [type(statistic).__name__, statistic.version, *self._foreign.get(type(statistic), ())]
        return content_key([CACHE_VERSION, *kind, own, of, needs])

    @cached_property
    def _foreign(self) -> Mapping[type[AnyStatistic], list[str]]:
        """Return the plug-ins that define statistics of their own, by kind."""
        return {
            type(statistic): _plugin_identity(step.op)
            for step in self._graph.steps.values()
            if step.op.origin is not None
            for statistic in statistics_of(self._graph, step.id).values()
            if not type(statistic).__module__.startswith("lines_pipeline.")
        }

    def _step_key(self, step_id: str) -> str | None:
        step = self._graph.steps[step_id]
        if step.op.is_source and step_id not in self._digests:
            return None
        read = {} if step.op.is_source else step.inputs  # what was read is known by its own digest
        inputs = {port: [self.step(i) for i in ids] for port, ids in read.items()}
        if any(key is None for keys in inputs.values() for key in keys):
            return None
        params = step.params.model_dump(mode="json", exclude=set(step.op.identified_by_content))
        # alpha: auto alone needs the vectors it is measured on
        source = self._digests.get(step_id)
        statistics = statistics_of(self._graph, step_id)
        versions = {name: statistic.version for name, statistic in statistics.items()}
        bounded = ["bounded"] if any(statistic.bounds for statistic in statistics.values()) else []  # unlike in 0.1
        op = [step.op.name, step.op.version, versions, *bounded, *_plugin_identity(step.op)]
        extra: list[Any] = [step.content] if step.content else []
        extra += [[type(varying.by).__name__, varying.path, varying.by.numbers] for varying in step.varying]
        return content_key([CACHE_VERSION, op, params, inputs, step.include, step.exclude, source, *extra])


def _plugin_identity(op: AnyOp) -> list[str]:
    return [] if op.origin is None else [op.origin.identity]
