"""Makes what is made of metrics: fronts and barriers, and figures, which are files of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import FigureDrawn, FileWritten, MetricsComputed
from lines_pipeline.core.secrets import Secrets
from lines_pipeline.executor.inputs import OpenedRecipe
from lines_pipeline.executor.outputs import OutputFolder
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.entries import write_atomically
from lines_pipeline.io.folders import require_output
from lines_pipeline.io.locations import resolve_output
from lines_pipeline.ops.derivations import Derivation, Derived
from lines_pipeline.ops.figures import Figure
from lines_pipeline.ops.metrics_table import Member, Table
from lines_pipeline.reports.figures import draw
from lines_pipeline.reports.tables import csv_text
from lines_pipeline.search.drivers import Drivers


@dataclass
class Derivations:
    """Carries out what the recipe makes of the ``metrics`` of its models, and holds what it gave."""

    context: OpenedRecipe
    destination: OutputFolder
    drivers: Drivers
    metrics: dict[str, Mapping[str, float]]
    """By step: of models, then also of what is derived."""
    units: dict[str, Mapping[str, str]]
    """Units of these, by step and metric."""
    locations: list[Path | str] = field(default_factory=list)
    """The files that were written, or were there."""

    def carry_out(self) -> None:
        """Make everything in topological order: metrics of metrics may be drawn."""
        for step_id, derivation in self.context.graph.derivations.items():
            value = self._made(step_id, derivation)
            if isinstance(value, Figure):
                self._write(step_id, value)
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
        step, metrics = graph.steps[step_id], self.metrics[step_id]
        known = {} if step_id in graph.derivations else self.drivers.directions(step)
        directions = {name: known[name] for name in metrics if name in known}
        units = self.units.get(step_id, {})
        return Member(step_id, step.node, step.item, step.names, metrics, units, directions)

    def _keep(self, step_id: str, derived: Derived) -> None:
        self.metrics[step_id] = derived.metrics
        self.units[step_id] = derived.units
        self.context.session.emit(MetricsComputed(step_id, derived.metrics, cached=False, units=derived.units))

    def _write(self, step_id: str, figure: Figure) -> None:
        """Write picture and data, each whole or absent; what is there with the same bytes stays."""
        shown = _labelled(figure, self.context.recipe.secrets)
        kind = figure.path.rpartition(".")[2]
        picture, data = draw(shown, kind), csv_text(shown.table)
        svg = picture if kind == "svg" else draw(shown, "svg")
        for path, content in ((figure.path, picture), (figure.data_path, data.encode())):
            self._write_file(step_id, path, content)
        names = (figure.path.removesuffix(f".{kind}") + ".svg", figure.data_path)
        self.context.session.emit(FigureDrawn(step_id, dict(zip(names, (svg.decode(), data), strict=True))))

    def _write_file(self, step_id: str, path: str, content: bytes) -> None:
        target = resolve_output(self.destination.folder, path)
        reused = target.is_file() and target.read_bytes() == content
        if not reused:
            require_output(self.destination.folder)
            write_atomically(target, content)
        self.destination.renew([target])
        location = self.destination.location(target)
        self.locations.append(location)
        self.context.session.emit(FileWritten(step_id, location, len(content), reused))


def _labelled(figure: Figure, secrets: Secrets) -> Figure:
    """Return a figure that shows by name what the recipe takes from the environment."""

    def label(columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(secrets.label(column) for column in columns)

    table = Table(label(figure.table.columns), tuple(secrets.hidden(row) for row in figure.table.rows))
    x, group, arrows = label((figure.x, figure.group, figure.arrows))
    title = secrets.hide(figure.title)
    labelled = [secrets.labelled(by_column) for by_column in (figure.directions, figure.units)]
    return replace(
        figure,
        table=table,
        x=x,
        y=label(figure.y),
        group=group,
        arrows=arrows,
        title=title,
        directions=labelled[0],
        units=labelled[1],
    )
