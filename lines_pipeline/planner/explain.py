"""Tells what a run would do: passes, bytes, memory, types, cache, layer maps and the scale of every block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.fingerprints import canonical_json
from lines_pipeline.core.printable import printable
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.base import Place
from lines_pipeline.ops.lines_scale import SCHEDULES, LinesScale, LinesScaleParams
from lines_pipeline.planner.layer_maps import layers_of, outside_notes
from lines_pipeline.planner.schemas import Schema
from lines_pipeline.planner.stages import Stage


@dataclass(frozen=True)
class Scales:
    """How ``lines-scale`` scales: its layer map, and the factor of every block by tower, in words or numbers."""

    step: str
    layers: LayerMap
    factors: Mapping[str, tuple[str, ...]]
    outside: str
    warnings: tuple[str, ...] = ()
    """What is scaled and in no tower."""

    def to_dict(self) -> dict[str, Any]:
        """In plain values, but for the block of every tensor."""
        scales = {tower: list(factors) for tower, factors in self.factors.items()}
        return {**self.layers.to_dict(), "scales": scales, "outside": self.outside}


@dataclass(frozen=True)
class Explanation:
    """What would run. Bytes are of tensor data; ``peak_bytes`` of anonymous memory."""

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
    scales: tuple[Scales, ...]
    trials: int
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    """What is left out, kept from the base or taken for granted, and should be known before a run."""
    warnings: tuple[str, ...] = ()
    """Where results may be other than expected."""
    shortages: tuple[str, ...] = ()
    """Disks that have not got room for what is to be written: a run would be refused."""

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        scales = [{"step": scale.step, **scale.to_dict()} for scale in self.scales]
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "scales"}
        return {**plain, "passes": [dict(one) for one in self.passes], "lines": scales}

    def render(self) -> str:
        """As text for people."""
        lines = [f"plan of {self.name}"]
        for one in self.passes:
            what = [f"gathers {', '.join(one['measures'])}"] if one["measures"] else []
            what += [f"drafts {sink} as {step}" for sink, step in one["drafts"].items()]
            what += [f"writes {', '.join(one['writes'])}"] if one["writes"] else []
            lines.append(f"  pass {one['number']}: reads {_bytes(one['bytes_read'])}; {'; '.join(what)}")
        if not self.passes:
            lines.append("  no pass over the data: everything is in the cache")
        lines.append(f"  reads {_bytes(self.bytes_read)}, writes {_bytes(self.bytes_written)}")
        lines.append(f"  projected peak of anonymous memory {_bytes(self.peak_bytes)}")
        lines.append(f"  computes in {', '.join(self.compute_dtypes)}, stores {', '.join(self.stored_dtypes)}")
        found = [*self.cached, *(f"statistics of {step}" for step in self.measured)]
        lines.append(f"  in the cache: {', '.join(found) or 'nothing that this recipe needs'}")
        if self.trials:
            lines.append(f"  tune: {self.trials} trials before the passes above")
        for scale in self.scales:
            lines += _scale_lines(scale)
        lines += [f"  warning: {warning}" for warning in self.warnings]
        lines += [f"  note: {note}" for note in (*self.notes, *self.shortages)]
        return "\n".join(lines) + "\n"


def _scale_lines(scale: Scales) -> list[str]:
    shares, paths = scale.layers.shares(), scale.layers.paths
    depths = ", ".join(
        f"{tower}: {depth} blocks, {shares[tower]:.1%} of the parameters, {printable(paths[tower])}"
        for tower, depth in scale.layers.depths.items()
    )
    lines = [f"  {scale.step}: layer map {scale.layers.family} ({depths}); outside the blocks {scale.outside}"]
    for tower, factors in scale.factors.items():
        lines += [f"    {tower} block {index}: {factor}" for index, factor in enumerate(factors)]
    return lines


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 10**9 else f"{count / 1e9:,.2f} GB"


def describe_stage(one: Stage, schemas: Mapping[str, Schema], read: int) -> dict[str, Any]:
    """A pass in plain values; ``read`` is the bytes it reads."""
    kinds = sorted({type(statistic).__name__ for statistic in one.statistics if not statistic.optional})
    partial_outputs = {
        sink: partial_output.step for sink, partial_output in one.partial_outputs.items() if partial_output.step != sink
    }
    writes = [*one.sinks, *(sink for sink in one.partial_outputs if sink not in partial_outputs)]
    return {
        "number": one.number,
        "measures": kinds,
        "drafts": partial_outputs,
        "writes": writes,
        "bytes_read": read,
        "bytes_drafted": _nbytes(partial_outputs, schemas),
        "bytes_written": _nbytes(writes, schemas),
        "sampled": any(statistic.sampled for statistic in one.statistics),
    }


def _nbytes(sinks: Iterable[str], schemas: Mapping[str, Schema]) -> int:
    return sum(spec.nbytes for sink in sinks for spec in schemas[sink].tensors.values())


def scales_of(step: Step, schema: Schema, stats: Mapping[str, Any] | None) -> Scales:
    """The layer map and factors of a ``lines-scale`` step; symbolic while statistics that it needs are not known."""
    params, op = step.params, step.op
    assert isinstance(params, LinesScaleParams) and isinstance(op, LinesScale)
    layers = layers_of(step, schema)
    assert layers is not None
    alpha = None if stats is None else op.alpha(params, stats, len(step.inputs.get("deltas", ())))
    factors = {
        tower: tuple(_factor(alpha, params, Place(index, depth, number)) for index in range(depth))
        for number, (tower, depth) in enumerate(layers.depths.items())
    }
    warnings = tuple(outside_notes(step.node, layers, schema))
    outside = "auto" if alpha is None else f"{alpha:.6g}"
    outside = "as the nearest block" if op.places_outside(params) else outside
    return Scales(step.id, layers, factors, outside, warnings)


def _factor(alpha: float | None, params: LinesScaleParams, place: Place) -> str:
    if alpha is not None or params.schedule == "table":
        return f"{params.scale(alpha or 0.0, place):.6g}"
    share = f"{place.block}/{place.depth - 1}"
    if params.schedule != "linear":
        share = f"{SCHEDULES[params.schedule](place.block / (place.depth - 1)):.6g}"
    return f"auto + {params.slope:g} * {share}"


def describe_layers(report: Explanation) -> str:
    """The layer maps and scales as JSON text, for the run's artifacts."""
    maps = {
        scale.step: {
            **scale.to_dict(),
            "blocks": {name: list(position) for name, position in scale.layers.blocks.items()},
        }
        for scale in report.scales
    }
    return canonical_json(maps)


def scale_steps(graph: Graph, steps: tuple[str, ...]) -> list[Step]:
    """The ``lines-scale`` steps among ``steps``."""
    return [graph.steps[step] for step in steps if isinstance(graph.steps[step].params, LinesScaleParams)]
