"""Makes what is made of metrics: fronts and barriers, and figures, which are files of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import MetricsComputed, Note, TableComputed
from lines_pipeline.core.types import EdgeType
from lines_pipeline.executor.inputs import OpenedRecipe
from lines_pipeline.graph.graph import Graph
from lines_pipeline.ops.derivations import Derivation, Derived
from lines_pipeline.ops.figures import Figure
from lines_pipeline.ops.metrics_table import Member
from lines_pipeline.search.drivers import Drivers
from lines_pipeline.workflow.figure_files import FigureFiles


@dataclass
class Derivations:
    """Carries out what the recipe makes of the ``metrics`` of its models, and holds what it gave."""

    context: OpenedRecipe
    files: FigureFiles
    drivers: Drivers
    metrics: dict[str, Mapping[str, float]]
    """By step: of models, then also of what is derived."""
    units: dict[str, Mapping[str, str]]
    """Units of these, by step and metric."""

    def carry_out(self) -> None:
        """Make everything in topological order: metrics of metrics may be drawn."""
        for step_id, derivation in self.context.graph.derivations.items():
            value = self._made(step_id, derivation)
            if isinstance(value, Figure):
                self.files.write(step_id, [value])
            else:
                self._keep(step_id, value)

    def _made(self, step_id: str, derivation: Derivation) -> Derived | Figure:
        graph = self.context.graph
        step = graph.steps[step_id]
        members = {port: [self._member(graph, source) for source in ids] for port, ids in step.inputs.items()}
        try:
            return derivation.make(members)
        except EvalError as error:
            raise EvalError(f"node '{step.node}': {error}") from error

    def _member(self, graph: Graph, step_id: str) -> Member:
        step = graph.steps[step_id]
        if step.gives is EdgeType.COEFFICIENTS:
            table, columns = self.drivers.table(graph, step_id), step.op.columns_of(step.params, step.inputs)
            return Member(step_id, step.node, step.item, step.names, table=table, columns=columns)
        metrics = self.metrics[step_id]
        known = {} if step_id in graph.derivations else self.drivers.directions(step)
        directions = {name: known[name] for name in metrics if name in known}
        units = self.units.get(step_id, {})
        return Member(step_id, step.node, step.item, step.names, metrics, units, directions, step.op.metrics_by)

    def _keep(self, step_id: str, derived: Derived) -> None:
        self.metrics[step_id] = derived.metrics
        self.units[step_id] = derived.units
        emit = self.context.session.emit
        emit(MetricsComputed(step_id, derived.metrics, cached=False, units=derived.units))
        for text in derived.notes:
            emit(Note(f"node '{self.context.graph.steps[step_id].node}': {text}"))
        if derived.rows:
            emit(TableComputed(f"derived/{step_id}", derived.rows))
