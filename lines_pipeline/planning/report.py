"""Tells what a run would do: passes, bytes, memory, types, cache, layer maps and the scale of every block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.keys import canonical_json
from lines_pipeline.core.printable import printable
from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.lines_scale import LinesScale, LinesScaleParams
from lines_pipeline.planning.layer_maps import layers_of, outside_notes
from lines_pipeline.planning.layouts import Layout
from lines_pipeline.planning.passes import Pass
from lines_pipeline.recipe.graph import Graph, Step


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
class PlanReport:
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


def describe_pass(one: Pass, layouts: Mapping[str, Layout], read: int) -> dict[str, Any]:
    """A pass in plain values; ``read`` is the bytes it reads."""
    kinds = sorted({type(measure).__name__ for measure in one.measures if not measure.optional})
    drafts = {sink: draft.step for sink, draft in one.drafts.items() if draft.step != sink}
    writes = [*one.sinks, *(sink for sink in one.drafts if sink not in drafts)]
    return {
        "number": one.number,
        "measures": kinds,
        "drafts": drafts,
        "writes": writes,
        "bytes_read": read,
        "bytes_drafted": _nbytes(drafts, layouts),
        "bytes_written": _nbytes(writes, layouts),
        "sampled": any(measure.sampled for measure in one.measures),
    }


def _nbytes(sinks: Iterable[str], layouts: Mapping[str, Layout]) -> int:
    return sum(spec.nbytes for sink in sinks for spec in layouts[sink].tensors.values())


def scales_of(step: Step, layout: Layout, stats: Mapping[str, Any] | None) -> Scales:
    """The layer map and factors of a ``lines-scale`` step; symbolic while statistics that it needs are not known."""
    params, op = step.params, step.op
    assert isinstance(params, LinesScaleParams) and isinstance(op, LinesScale)
    layers = layers_of(step, layout)
    assert layers is not None
    alpha = None if stats is None else op.alpha(params, stats, len(step.inputs.get("deltas", ())))
    factors = {
        tower: tuple(_factor(alpha, params.slope, index, depth) for index in range(depth))
        for tower, depth in layers.depths.items()
    }
    warnings = tuple(outside_notes(step.node, layers, layout))
    return Scales(step.id, layers, factors, "auto" if alpha is None else f"{alpha:.6g}", warnings)


def _factor(alpha: float | None, beta: float, index: int, depth: int) -> str:
    if alpha is None:
        return f"auto + {beta:g} * {index}/{depth - 1}"
    return f"{alpha + beta * index / (depth - 1):.6g}"


def describe_layers(report: PlanReport) -> str:
    """The layer maps and scales as JSON text, for the run's artifacts."""
    maps = {
        scale.step: {**scale.to_dict(), "blocks": {name: list(place) for name, place in scale.layers.blocks.items()}}
        for scale in report.scales
    }
    return canonical_json(maps)


def scale_steps(graph: Graph, steps: tuple[str, ...]) -> list[Step]:
    """The ``lines-scale`` steps among ``steps``."""
    return [graph.steps[step] for step in steps if isinstance(graph.steps[step].params, LinesScaleParams)]
