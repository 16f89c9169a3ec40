"""Compiles a stage into the plan that its tasks share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lines_pipeline.graph.graph import Step
from lines_pipeline.io.checkpoint import Checkpoint, StoredTensor
from lines_pipeline.ops.base import AnyStatistic
from lines_pipeline.ops.depth import Place, place_of
from lines_pipeline.planner.layer_maps import layers_of
from lines_pipeline.planner.plan import Plan
from lines_pipeline.planner.population import population
from lines_pipeline.planner.rules.partial_outputs import partial_output_of
from lines_pipeline.planner.schemas import Schema
from lines_pipeline.planner.shapes import (
    Shapes,
    Views,
    keyed_beside,
    keyed_schema,
    keyed_sources,
    tell_apart,
    views_of,
    with_views,
)
from lines_pipeline.planner.stages import PartialOutput, Stage, statistics_of
from lines_pipeline.planner.tasks import Observation, StagePlan, Write, source_files

Outputs = Mapping[str, tuple[Write, ...]]
"""What to write, by step."""


def compile_stage(
    planned: Plan,
    stage: Stage,
    sources: Mapping[str, Checkpoint],
    *,
    known: Mapping[AnyStatistic, Any],
    outputs: Outputs,
    hashed: frozenset[str] = frozenset(),
    nonfinite: Mapping[str, frozenset[str]] | None = None,
) -> StagePlan:
    """Return the plan of a stage, of which sources in ``hashed`` are hashed; ``nonfinite`` names tensors by source.

    The device and the states of statistics are filled in by the executor.
    """
    steps = tuple(planned.graph.steps[step_id] for step_id in stage.steps)
    computed = [step for step in steps if step.id not in sources]
    keys = _Keys.of(planned, steps, sources)
    statistics = {step.id: statistics_of(planned.graph, step.id) for step in computed}
    speculated = {*stage.speculations.values(), *(output.speculation for output in stage.partial_outputs.values())}
    return StagePlan(
        steps=steps,
        schemas={step_id: keys.schema(step_id) for step_id in keys.schemas},
        stats={
            step: {name: known[statistic] for name, statistic in by_name.items() if statistic in known}
            for step, by_name in statistics.items()
        },
        speculated={
            step: {name: statistic for name, statistic in by_name.items() if statistic in speculated}
            for step, by_name in statistics.items()
        },
        positions={step.id: keys.positions(step) for step in computed},
        sources={step_id: keys.stored(step_id, checkpoint) for step_id, checkpoint in sources.items()},
        files=source_files(list(sources.values())),
        hashed=hashed,
        nonfinite={
            step_id: keys.nonfinite(step_id, checkpoint, (nonfinite or {}).get(step_id, ()))
            for step_id, checkpoint in sources.items()
        },
        observations=_observations(planned, stage, known, keys.shapes),
        writes=tuple(
            replace(write, positions=keys.shapes.keyed(write.positions, planned.schemas[write.step].tensors))
            for write in _writes(planned, stage, outputs)
        ),
        names=keys.shapes.names,
    )


@dataclass(frozen=True)
class _Keys:
    """Gives keys to the tensors of a stage's steps and sources, also to the views that steps take of them."""

    shapes: Shapes
    schemas: Mapping[str, Schema]
    """By step of the stage, and by source."""
    views: Mapping[str, Views]

    @classmethod
    def of(cls, planned: Plan, steps: Sequence[Step], sources: Mapping[str, Checkpoint]) -> _Keys:
        """Tell tensors of one name and several shapes apart, and find the views that steps take."""
        shapes = tell_apart(planned.schemas, sources)
        schemas = {step_id: planned.schemas[step_id] for step_id in (*(step.id for step in steps), *sources)}
        views = views_of(steps, schemas, shapes)
        return cls(shapes, schemas, {step_id: views.get(step_id, {}) for step_id in schemas})

    def schema(self, step_id: str) -> Schema:
        """Return a schema by key."""
        schema = self.schemas[step_id]
        keyed = keyed_schema(schema, self.views[step_id], self.shapes)
        return replace(keyed, beside=keyed_beside(schema, self.schemas, self.shapes))

    def positions(self, step: Step) -> dict[str, Place]:
        """Return where each tensor is, by key, for a step whose op depends on depth; nothing for others."""
        schema = self.schemas[step.id]
        return with_views(self.shapes.keyed(positions_of(step, schema), schema.tensors), self.views[step.id])

    def stored(self, source: str, checkpoint: Checkpoint) -> Mapping[str, StoredTensor]:
        """Return the stored tensors of a source by key."""
        return keyed_sources(checkpoint.tensors, self.views[source], self.shapes)

    def nonfinite(self, source: str, checkpoint: Checkpoint, names: Iterable[str]) -> frozenset[str]:
        """Return the keys of a source's tensors and views that are known, by name, to hold NaN or Inf."""
        own = {self.shapes.key(name, checkpoint.tensors[name].spec.shape) for name in names}
        return frozenset(own | {key for key, view in self.views[source].items() if view.key in own})


def _observations(
    planned: Plan, stage: Stage, known: Mapping[AnyStatistic, Any], shapes: Shapes
) -> tuple[Observation, ...]:
    """Return what the stage gathers, first the statistics that others assume the outcomes of."""
    return tuple(
        Observation(
            statistic,
            tuple(known[need] for need in statistic.needs),
            None,
            stage.speculations.get(statistic),
            _observed(statistic, planned.schemas, shapes),
        )
        for statistic in sorted(stage.statistics, key=lambda statistic: statistic in stage.speculations)
    )


def _writes(planned: Plan, stage: Stage, outputs: Outputs) -> list[Write]:
    writes = [write for sink in stage.sinks for write in outputs.get(sink, ())]
    for sink, partial_output in stage.partial_outputs.items():
        writes += _partial_writes(sink, partial_output, planned.schemas, outputs)
    return writes


def stage_sources(planned: Plan, stage: Stage, outputs: Outputs) -> dict[str, Checkpoint]:
    """Return what a stage reads, by step; partial outputs lie where ``outputs`` will be."""
    checkpoints = planned.catalogue.checkpoints
    checkpoints_read = {step: checkpoints[step] for step in stage.steps if step in checkpoints}
    checkpoints_read |= {step: planned.cached[step] for step in stage.steps if step in planned.cached}
    begun = (sink for sink, partial_output in stage.partial_outputs.items() if partial_output.step == sink)
    passthrough = {step for sink in (*stage.sinks, *begun) for step in planned.schemas[sink].passthrough.values()}
    checkpoints_read |= {step: checkpoints[step] for step in sorted(passthrough)}
    partial_outputs: dict[str, list[Write]] = {}
    for sink, partial_output in stage.finishes.items():
        if partial_output.step in stage.steps:
            partial_outputs.setdefault(partial_output.step, []).extend(outputs.get(sink, ())[:1])
    return checkpoints_read | {
        step: partial_output_of(planned.schemas[step], writes) for step, writes in partial_outputs.items()
    }


def _observed(statistic: AnyStatistic, schemas: Mapping[str, Schema], shapes: Shapes) -> frozenset[str] | None:
    """Return the keys of the tensors that a bounded statistic looks at."""
    if not statistic.bounds:
        return None
    specs = {name: spec for step in statistic.of for name, spec in schemas[step].tensors.items()}
    return frozenset(shapes.key(name, specs[name].shape) for name in population(statistic, schemas))


def _partial_writes(
    sink: str, partial_output: PartialOutput, schemas: Mapping[str, Schema], outputs: Outputs
) -> list[Write]:
    """Return the writes of a partial output: the output's own, or those of a step whose value its file holds first.

    Such a value is written where the file has tensors of its names and shapes: once each, also for tied ones.
    """
    if sink == partial_output.step:
        return [replace(write, speculation=partial_output.speculation) for write in outputs.get(sink, ())]
    first = outputs[sink][0].positions if outputs else {}
    partial, final = schemas[partial_output.step], schemas[sink].tensors
    same = (name for name in partial.numels if name in first and final[name].shape == partial.tensors[name].shape)
    positions = {name: first[name][:1] for name in same}
    return [Write(partial_output.step, positions, speculation=partial_output.speculation, is_partial=True)]


def positions_of(step: Step, schema: Schema) -> dict[str, Place]:
    """Return where each tensor is, for a step whose op depends on depth; nothing for others."""
    layers = layers_of(step, schema)
    if layers is None:
        return {}
    places: dict[str, Place] = {}
    for name in schema.tensors:
        block = layers.blocks.get(name)
        if block is None and step.op.places_outside(step.params):
            block = layers.nearest_end(name)
        if block is not None:
            places[name] = place_of(layers, block)
    return places
