"""Which sweep can leave a partial output, so that the last one needs not read all inputs again.

A partial output is the value of a step on the way to the output, written by an earlier sweep where the output will be.
The last sweep reads it back with the few inputs it still needs, and finishes it in place; where it is the output
itself, made under an assumption, there is no last sweep. Where an assumption turns out wrong and that makes a
difference, such blocks are made again. Of inputs with NaN or Inf none is used: the last sweep then computes everything
anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lines_pipeline.core.types import EdgeType
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.checkpoint import Checkpoint, StoredTensor
from lines_pipeline.planner.plan import Plan
from lines_pipeline.planner.schemas import Schema
from lines_pipeline.planner.stages import (
    PartialOutput,
    Results,
    Stage,
    StageAssignment,
    value_ancestors,
    whole_tensor_steps,
)
from lines_pipeline.planner.tasks import Write

MIN_SAVED = 2
"""Models that need not be read, from which a partial output pays: it is itself written and read once more."""


def leave_partial_outputs(planned: Plan) -> Plan:
    """Let stages leave partial outputs where results go, for a later one to finish in place, where that pays.

    Not on a cluster: it does the tasks of a worker that died once more, and they would take finished blocks for partial
    ones. Nor where a step takes a computed value's tensors by other names than a partial output holds them under.
    """
    graph, files, schemas = planned.graph, planned.wanted.files, planned.schemas
    renamed = (step for schema in schemas.values() for step in schema.views if not graph.steps[step].op.is_source)
    if planned.settings.on_cluster or any(renamed) or whole_tensor_steps(graph, files, planned.cached):
        return planned
    computed = _computed_dtypes(schemas.values())
    in_place = [s for s, dtype in files.items() if holds_partial_outputs(graph.steps[s], dtype, schemas[s], computed)]
    stages = with_partial_outputs(planned.stages, graph, planned.known, planned.cached, in_place)
    return planned.in_place_of_stages(stages)


def with_partial_outputs(
    stages: Sequence[Stage], graph: Graph, known: Results, available: Iterable[str], in_place: Iterable[str]
) -> list[Stage]:
    """Return the stages, with partial outputs where they pay; those ``in_place`` can be read back."""
    available, levels = frozenset(available), StageAssignment(graph, known, available)
    last = stages[-1] if stages else None
    if last is None or last.number == 1 or not last.sinks:
        return list(stages)
    in_place = frozenset(in_place)
    best = {sink: _best(graph, levels, sink, last.number, available, sink in in_place) for sink in last.sinks}
    partial_outputs = {sink: partial_output for sink, partial_output in best.items() if partial_output is not None}
    stop = available | {partial_output.step for _, partial_output in partial_outputs.values()}
    steps = value_ancestors(graph, [sink for sink in partial_outputs if partial_outputs[sink][1].step != sink], stop)
    if len(partial_outputs) < len(last.sinks) or any(
        not set(statistic.of) <= set(steps) for statistic in last.statistics
    ):
        return list(stages)
    finishing = replace(
        last,
        sinks=tuple(sink for sink in last.sinks if partial_outputs[sink][1].step != sink),
        steps=steps,
        finishes={sink: partial_output for sink, (_, partial_output) in partial_outputs.items()},
        otherwise=last,
    )
    return [*(_leaving(stage, graph, partial_outputs, available) for stage in stages[:-1]), finishing]


def holds_partial_outputs(step: Step, dtype: str, schema: Schema, computed: Mapping[str, set[str]]) -> bool:
    """Return whether a file of a step's values of ``dtype`` (``keep``: as they are) holds values as they are computed.

    ``computed`` has the dtypes that values of each tensor are computed in, over all steps.
    """
    if step.gives not in (EdgeType.WEIGHTS, EdgeType.DELTA) or not dtype:
        return False
    for name, spec in schema.tensors.items():
        stored = dtype if dtype != "keep" else spec.dtype if step.gives is EdgeType.WEIGHTS else spec.compute_dtype
        if spec.is_floating and computed[name] != {stored}:
            return False
    return True


def _computed_dtypes(schemas: Iterable[Schema]) -> dict[str, set[str]]:
    computed = defaultdict[str, set[str]](set)
    for schema in schemas:
        for name, spec in schema.tensors.items():
            computed[name].add(spec.compute_dtype)
    return computed


def partial_output_of(schema: Schema, outputs: Sequence[Write]) -> Checkpoint:
    """Return a partial output, read back from where ``outputs`` have its tensors (nowhere yet, while planning)."""
    tensors = {}
    for name, spec in schema.tensors.items():
        stored = replace(spec, dtype=spec.compute_dtype)
        positions = [position for write in outputs for position in write.positions.get(name, ())[:1]]
        if spec.is_floating and positions:
            tensors[name] = StoredTensor(stored, positions[0].path, positions[0].offset)
        elif spec.is_floating and not outputs:
            tensors[name] = StoredTensor(stored, "", 0)
    return Checkpoint("draft", (), tensors)


def _leaving(
    stage: Stage, graph: Graph, partial_outputs: Mapping[str, tuple[int, PartialOutput]], available: frozenset[str]
) -> Stage:
    own = {sink: partial_output for sink, (number, partial_output) in partial_outputs.items() if number == stage.number}
    targets = [
        *stage.sinks,
        *(partial_output.step for partial_output in own.values()),
        *(s for m in stage.statistics for s in m.of),
    ]
    return replace(stage, partial_outputs=own, steps=value_ancestors(graph, targets, available)) if own else stage


def _best(
    graph: Graph, levels: StageAssignment, sink: str, number: int, available: frozenset[str], in_place: bool
) -> tuple[int, PartialOutput] | None:
    """Return the stage that can write the partial output after which the least is left to read, and that output."""
    whole = _reads(graph, sink, available)
    best: tuple[int, int, PartialOutput] | None = None
    for step_id in value_ancestors(graph, [sink], available) if in_place else (sink,):
        step = graph.steps[step_id]
        if step_id in available or step.op.is_source or (step.gives is EdgeType.MASK and step_id != sink):
            continue
        early, speculation = levels.earliest(step_id)
        reads_left = 0 if step_id == sink else _reads(graph, sink, available | {step_id})
        if early < number and whole - reads_left >= MIN_SAVED and (best is None or reads_left < best[0]):
            best = reads_left, early, PartialOutput(step_id, speculation)
    return None if best is None else (best[1], best[2])


def _reads(graph: Graph, sink: str, available: frozenset[str]) -> int:
    """Return how many models' values have to be read for ``sink``."""
    steps = value_ancestors(graph, [sink], available)
    return sum(step in available or graph.steps[step].op.is_source for step in steps)
