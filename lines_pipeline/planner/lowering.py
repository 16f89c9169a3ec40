"""Compiles a stage into the plan that its tasks share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.checkpoint import Checkpoint
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
    stage: Stage,
    graph: Graph,
    schemas: Mapping[str, Schema],
    sources: Mapping[str, Checkpoint],
    known: Mapping[AnyStatistic, Any],
    outputs: Outputs,
    *,
    hashed: frozenset[str] = frozenset(),
    nonfinite: Mapping[str, frozenset[str]] | None = None,
) -> StagePlan:
    """The plan of a stage, of which sources in ``hashed`` are hashed; ``nonfinite`` names tensors by source.

    The device and the states of statistics are filled in by the engine.
    """
    steps = tuple(graph.steps[step_id] for step_id in stage.steps)
    shapes = tell_apart(schemas, sources)
    own_schemas = {step_id: schemas[step_id] for step_id in (*stage.steps, *sources)}
    views = views_of(steps, own_schemas, shapes)
    own_views = {step_id: views.get(step_id, {}) for step_id in own_schemas}
    statistics = {step.id: statistics_of(graph, step.id) for step in steps if step.id not in sources}
    speculated = {
        *stage.speculations.values(),
        *(
            partial_output.speculation
            for partial_output in stage.partial_outputs.values()
            if partial_output.speculation
        ),
    }
    writes = (
        *(write for sink in stage.sinks for write in outputs.get(sink, ())),
        *(
            write
            for sink, partial_output in stage.partial_outputs.items()
            for write in _partial_writes(sink, partial_output, schemas, outputs)
        ),
    )
    return StagePlan(
        steps=steps,
        schemas={
            step_id: replace(
                keyed_schema(schema, own_views[step_id], shapes), beside=keyed_beside(schema, own_schemas, shapes)
            )
            for step_id, schema in own_schemas.items()
        },
        stats={
            step: {name: known[statistic] for name, statistic in by_name.items() if statistic in known}
            for step, by_name in statistics.items()
        },
        speculated={
            step: {name: statistic for name, statistic in by_name.items() if statistic in speculated}
            for step, by_name in statistics.items()
        },
        positions={
            step.id: with_views(
                shapes.keyed(positions_of(step, schemas[step.id]), schemas[step.id].tensors), own_views[step.id]
            )
            for step in steps
            if step.id not in sources
        },
        sources={
            step_id: keyed_sources(checkpoint.tensors, own_views[step_id], shapes)
            for step_id, checkpoint in sources.items()
        },
        files=source_files(list(sources.values())),
        hashed=hashed,
        nonfinite=_keyed_nonfinite(nonfinite or {}, sources, own_views, shapes),
        observations=tuple(
            Observation(
                statistic,
                tuple(known[need] for need in statistic.needs),
                None,
                stage.speculations.get(statistic),
                _observed(statistic, schemas, shapes),
            )
            for statistic in sorted(
                stage.statistics, key=lambda statistic: statistic in stage.speculations
            )  # what is assumed comes first
        ),
        writes=tuple(replace(w, positions=shapes.keyed(w.positions, schemas[w.step].tensors)) for w in writes),
        names=shapes.names,
    )


def stage_sources(planned: Plan, stage: Stage, outputs: Outputs) -> dict[str, Checkpoint]:
    """What a stage reads, by step; partial outputs lie where ``outputs`` will be."""
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
    """Keys of the tensors that a bounded statistic looks at."""
    if not statistic.bounds:
        return None
    specs = {name: spec for step in statistic.of for name, spec in schemas[step].tensors.items()}
    return frozenset(shapes.key(name, specs[name].shape) for name in population(statistic, schemas))


def _keyed_nonfinite(
    nonfinite: Mapping[str, frozenset[str]],
    sources: Mapping[str, Checkpoint],
    views: Mapping[str, Views],
    shapes: Shapes,
) -> dict[str, frozenset[str]]:
    """Keys of tensors and views that are known to hold NaN or Inf, by source."""
    keyed = {}
    for step, checkpoint in sources.items():
        own = {shapes.key(name, checkpoint.tensors[name].spec.shape) for name in nonfinite.get(step, ())}
        keyed[step] = frozenset(own | {key for key, view in views[step].items() if view.key in own})
    return keyed


def _partial_writes(
    sink: str, partial_output: PartialOutput, schemas: Mapping[str, Schema], outputs: Outputs
) -> list[Write]:
    """The output itself, or another step's value at the first place of every floating-point tensor that it has."""
    if sink == partial_output.step:
        return [replace(write, speculation=partial_output.speculation) for write in outputs.get(sink, ())]
    first = outputs[sink][0].positions if outputs else {}
    drafted, final = schemas[partial_output.step], schemas[sink].tensors
    same = (name for name in drafted.numels if name in first and final[name].shape == drafted.tensors[name].shape)
    positions = {name: first[name][:1] for name in same}
    return [Write(partial_output.step, positions, speculation=partial_output.speculation, is_draft=True)]


def positions_of(step: Step, schema: Schema) -> dict[str, Place]:
    """Where each tensor is, for a step whose op depends on depth; nothing for others."""
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
