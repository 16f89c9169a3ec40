"""Tells what a run would do: stages, bytes, memory, types, cache, and what ops say of their steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from lines_pipeline.core.fingerprints import canonical_json
from lines_pipeline.graph.graph import Step
from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.schemas.notes import render
from lines_pipeline.planner.layer_maps import layers_of, outside_notes
from lines_pipeline.planner.lowering import compile_stage, stage_sources
from lines_pipeline.planner.plan import Plan
from lines_pipeline.planner.schemas import Schema
from lines_pipeline.planner.stages import Stage, ancestors, is_measured, statistics_of, stats_of
from lines_pipeline.planner.tasks import Write, read_bytes
from lines_pipeline.planner.varying_numbers import explain_numbers


@dataclass(frozen=True)
class ExplainedStep:
    """Holds what a step's op says of it, and the blocks that it tells apart."""

    step: str
    said: OpExplanation
    layers: LayerMap | None = None
    warnings: tuple[str, ...] = ()
    """What is scaled and in no tower."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the block of every tensor."""
        return {"step": self.step, **self.said.values}

    def render(self) -> list[str]:
        """Return lines for people."""
        first, *below = self.said.lines
        return [f"  {self.step}: {first}", *(f"    {line}" for line in below)]


@dataclass(frozen=True)
class Explanation:
    """Tells what would run. Bytes are of tensor data; ``peak_bytes`` of anonymous memory."""

    name: str
    passes: tuple[Mapping[str, Any], ...]
    bytes_read: int
    bytes_written: int
    peak_bytes: int
    compute_dtypes: tuple[str, ...]
    stored_dtypes: tuple[str, ...]
    cached: tuple[str, ...]
    """Steps whose values are there."""
    measured: tuple[str, ...]
    """Steps of which statistics are known from an earlier run."""
    explained: tuple[ExplainedStep, ...]
    """What ops say of steps: ``lines`` in JSON."""
    trials: int
    settings: Mapping[str, Any]
    drivers: Mapping[str, int] = field(default_factory=dict)
    """Bytes of anonymous memory while a driver carries out a step, the largest by node."""
    notes: tuple[str, ...] = ()
    """What is left out, kept from the base or taken for granted, and should be known before a run."""
    warnings: tuple[str, ...] = ()
    """Where results may be other than expected."""
    shortages: tuple[str, ...] = ()
    """Disks that have not got room for what is to be written: a run would be refused."""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "explained"}
        values = [step.to_dict() for step in self.explained]
        return {**plain, "passes": [dict(stage) for stage in self.passes], "lines": values}

    def render(self) -> str:
        """Return text for people."""
        lines = [f"plan of {self.name}"]
        for stage in self.passes:
            parts = [f"gathers {', '.join(stage['measures'])}"] if stage["measures"] else []
            parts += [f"drafts {sink} as {step}" for sink, step in stage["drafts"].items()]
            parts += [f"writes {', '.join(stage['writes'])}"] if stage["writes"] else []
            parts += [_waiting(stage["at_once"], self.settings["workers"])] if stage["waits"] else []
            parts += [_narrowing(stage["narrowing"])] if stage["narrowing"] > 1 else []
            lines.append(f"  pass {stage['number']}: reads {_bytes(stage['bytes_read'])}; {'; '.join(parts)}")
        if not self.passes:
            lines.append("  no pass over the data: everything is in the cache")
        lines.append(f"  reads {_bytes(self.bytes_read)}, writes {_bytes(self.bytes_written)}")
        lines.append(f"  projected peak of anonymous memory {_bytes(self.peak_bytes)}")
        lines += [f"    {_bytes(nbytes)} while {node} is carried out" for node, nbytes in self.drivers.items()]
        lines.append(f"  computes in {', '.join(self.compute_dtypes)}, stores {', '.join(self.stored_dtypes)}")
        reused = [*self.cached, *(f"statistics of {step}" for step in self.measured)]
        lines.append(f"  in the cache: {', '.join(reused) or 'nothing that this recipe needs'}")
        if self.trials:
            lines.append(f"  tune: {self.trials} trials before the passes above")
        lines += [line for step in self.explained for line in step.render()]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        lines += [f"  note: {note}" for note in (*self.notes, *self.shortages)]
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        """Show ``render`` in a notebook."""
        return f"<pre>{escape(self.render())}</pre>"


def _waiting(at_once: int, workers: int) -> str:
    return f"{at_once} of {workers} workers at a time, to keep within --memory"


def _narrowing(factor: float) -> str:
    return f"keeps brackets {factor:g} times narrower, for the same"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 10**9 else f"{count / 1e9:,.2f} GB"


def explain_plan(name: str, planned: Plan, trials: int = 0) -> Explanation:
    """Tell what a plan is; ``name`` is the recipe's, ``trials`` come before."""
    graph, schemas, catalogue = planned.graph, planned.schemas, planned.catalogue
    steps, settings = ancestors(graph, planned.wanted.summarised), planned.settings
    stages = [
        _described(part, number)
        for part in planned.parts
        for number, stage in enumerate(part.stages)
        if not stage.is_empty
    ]
    stages = [{**stage, "number": number} for number, stage in enumerate(stages, 1)]
    known = catalogue.statistics
    explanations = (explained_step(graph.steps[step], schemas[step], stats_of(graph, step, known)) for step in steps)
    explained = tuple(step for step in explanations if step is not None)
    specs = [spec for step in planned.wanted.summarised for spec in schemas[step].tensors.values()]
    written = {step for part in planned.parts for step in part.wanted.files}
    cached = (step for part in planned.parts for step in part.cached if step in catalogue.values)
    read = [step for step in cached if not is_measured(graph.steps[step])]  # the run finds out about those
    return Explanation(
        name=name,
        passes=tuple(stages),
        bytes_read=sum(stage["bytes_read"] for stage in stages),
        bytes_written=sum(stage["bytes_written"] for stage in stages),
        peak_bytes=planned.peak_bytes,
        compute_dtypes=tuple(sorted({spec.compute_dtype for spec in specs if spec.is_floating})),
        stored_dtypes=tuple(sorted({spec.dtype for spec in specs})),
        cached=tuple(dict.fromkeys([*read, *(step for step in planned.wanted.summarised if step not in written)])),
        measured=tuple(step for step in steps if not known.keys().isdisjoint(statistics_of(graph, step).values())),
        explained=explained,
        trials=trials,
        settings={"scheduler": settings.scheduler, "workers": settings.workers, "memory": settings.memory},
        drivers=_largest_by_node(planned),
        notes=render(note for step in steps for note in schemas[step].notes),
        warnings=tuple(dict.fromkeys(warning for step in explained for warning in step.warnings)),
    )


def _largest_by_node(planned: Plan) -> dict[str, int]:
    largest: dict[str, int] = {}
    for step, nbytes in planned.drivers.items():
        node = planned.graph.steps[step].node
        largest[node] = max(largest.get(node, 0), nbytes)
    return largest


def _described(planned: Plan, number: int) -> dict[str, Any]:
    """Return a stage of a plan in plain values."""
    stage, schemas = planned.stages[number], planned.schemas
    kinds = sorted({type(statistic).__name__ for statistic in stage.statistics if not statistic.optional})
    partial_outputs = {
        sink: partial_output.step
        for sink, partial_output in stage.partial_outputs.items()
        if partial_output.step != sink
    }
    writes = [*stage.sinks, *(sink for sink in stage.partial_outputs if sink not in partial_outputs)]
    return {
        "number": stage.number,
        "measures": kinds,
        "drafts": partial_outputs,
        "writes": writes,
        "bytes_read": _bytes_read(planned, stage),
        "bytes_drafted": _nbytes(partial_outputs, schemas),
        "bytes_written": _nbytes(writes, schemas),
        "sampled": any(statistic.sampled for statistic in stage.statistics),
        "at_once": planned.memory[number].at_once,
        "waits": planned.memory[number].is_waiting,
        "narrowing": planned.memory[number].narrowing,
    }


def _bytes_read(planned: Plan, stage: Stage) -> int:
    schemas = planned.schemas
    unknown = {statistic: None for any_stage in planned.stages for statistic in any_stage.statistics}
    written = {s: (Write(s, dict.fromkeys(schemas[s].tensors, ())),) for s in (*stage.sinks, *stage.partial_outputs)}
    known = {**unknown, **planned.known}
    sources = stage_sources(planned, stage, {})
    return read_bytes(compile_stage(planned, stage, sources, known=known, outputs=written))


def _nbytes(sinks: Iterable[str], schemas: Mapping[str, Schema]) -> int:
    return sum(spec.nbytes for sink in sinks for spec in schemas[sink].tensors.values())


def explained_step(step: Step, schema: Schema, stats: Mapping[str, Any] | None) -> ExplainedStep | None:
    """Return what a step's op says of it; ``stats`` is None while statistics that it needs are not known."""
    layers = layers_of(step, schema)
    said = step.op.explain(step.params, PlannedValue(schema, step.counts, layers), stats) if not step.varying else None
    said = explain_numbers(step, schema, layers) if step.varying else said
    if said is None:
        return None
    warnings = outside_notes(step.node, layers, schema) if layers else []
    return ExplainedStep(step.id, said, layers, tuple(warnings))


def describe_layers(report: Explanation) -> str:
    """Return the layer maps and scales as JSON text, for the run's artifacts."""
    maps = {
        explained.step: dict(explained.said.values)
        | {"blocks": {name: [*place] for name, place in explained.layers.blocks.items()}}
        for explained in report.explained
        if explained.layers is not None
    }
    return canonical_json(maps)
