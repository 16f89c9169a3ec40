"""Checks steps that are made of metrics: the columns that they name, and the members that they are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.types import EdgeType
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.ops.derivations import Derivation
from lines_pipeline.ops.metrics_table import Member, split_metric, table_of
from lines_pipeline.recipe.binding.objective import DeclaredMetrics, MetricsOf

_SHOWN = 12


def derivation_diagnostics(graph: Graph, metrics_of: MetricsOf) -> Iterator[tuple[str, Diagnostic]]:
    """Yield each diagnostic with its node, where its path starts; columns are checked only where metrics are known."""
    for step_id, derivation in graph.derivations.items():
        step = graph.steps[step_id]
        members = {port: [_member(graph.steps[source]) for source in ids] for port, ids in step.inputs.items()}
        yield from ((step.node, diagnostic) for diagnostic in derivation.check(members))
        yield from ((step.node, diagnostic) for diagnostic in _unknown_columns(graph, step, derivation, metrics_of))


def _member(step: Step, metrics: Mapping[str, float] = {}) -> Member:
    return Member(step.id, step.node, step.item, step.names, metrics)


def _unknown_columns(graph: Graph, step: Step, derivation: Derivation, metrics_of: MetricsOf) -> Iterable[Diagnostic]:
    port = next(port for port in step.op.inputs if port in step.inputs)
    if any(graph.steps[source].gives is not EdgeType.METRICS for source in step.inputs[port]):
        return
    declared = [(graph.steps[source], metrics_of(graph.steps[source])) for source in step.inputs[port]]
    if any(known is None for _, known in declared):
        return
    members = [_member(source, _any_values(known)) for source, known in declared if known is not None]
    lacking = {split_metric(name)[0]: why for _, known in declared if known for name, why in known.lacking.items()}
    for path, column in derivation.columns:
        columns = table_of(members, [column]).columns
        if column not in columns and column in lacking:
            yield Diagnostic(path, f"no column '{column}': {lacking[column]}")
        elif column not in columns:
            near = did_you_mean(column, columns)
            yield Diagnostic(path, f"no column '{column}'{near}; there are: {_listed(columns)}")


def _any_values(declared: DeclaredMetrics) -> dict[str, float]:
    return dict.fromkeys(declared.directions, 0.0)


def _listed(columns: Sequence[str]) -> str:
    plain = [column for column in columns if not column.endswith(("/low", "/high"))]
    return ", ".join(plain[:_SHOWN]) + (", ..." if len(plain) > _SHOWN else "")
