"""Metrics that drivers measure themselves: made once, remembered by content, told to the sinks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import MetricsComputed
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.ops.drivers import MeasuredMetrics

KIND = "metrics"
"""The kind of the cache's entries."""


@dataclass
class Measurements:
    """Holds what was measured in a run; ``metrics`` measures what is not remembered."""

    session: Session
    cached: list[str] = field(default_factory=list)
    """Steps whose metrics were remembered."""
    units: dict[str, Mapping[str, str]] = field(default_factory=dict)
    directions: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Which of ``higher`` and ``lower`` is better, by step and metric."""

    def is_remembered(self, graph: Graph, step: Step, measured: MeasuredMetrics) -> bool:
        """Return whether nothing has to be made for the metrics of a step."""
        return self._remembered(self._key(graph, step, measured)) is not None

    def metrics(self, graph: Graph, step: Step, measured: MeasuredMetrics) -> dict[str, float]:
        """Return the metrics of a step; ``EvalError`` that names its node where they cannot be measured."""
        key = self._key(graph, step, measured)
        metrics = self._remembered(key)
        if metrics is not None:
            self.cached.append(step.id)
        else:
            try:
                metrics = dict(measured.measure())
            except EvalError as error:
                raise EvalError(f"node '{step.node}': {error}") from error
            plain = [[name, value if math.isfinite(value) else str(value)] for name, value in metrics.items()]
            self.session.cache.put(KIND, key, plain)
        self.units[step.id] = dict.fromkeys(metrics, measured.unit)
        self.directions[step.id] = dict.fromkeys(metrics, measured.direction)
        self.session.emit(MetricsComputed(step.id, metrics, step.id in self.cached, self.units[step.id]))
        return metrics

    def _key(self, graph: Graph, step: Step, measured: MeasuredMetrics) -> str | None:
        own = self.session.keys(graph).step(step.id)
        return None if own is None else content_key([KIND, own, measured.content])

    def _remembered(self, key: str | None) -> dict[str, float] | None:
        stored = self.session.cache.get(KIND, key)
        return {name: float(value) for name, value in stored} if isinstance(stored, list) else None
