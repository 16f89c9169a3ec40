"""Settles parameters that vary by tensor: which parameters each tensor has, once names and blocks are known.

What a step gives for a tensor is what it would give with that tensor's numbers alone: statistics of whole models are
gathered for every set of numbers that there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.printable import shortened
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.explanations import OpExplanation, Plain
from lines_pipeline.ops.roles import OpParams
from lines_pipeline.ops.schemas.globs import match_each, nearest
from lines_pipeline.ops.varying import ByBlock, ByName, Number, Path, Varying, with_numbers
from lines_pipeline.planner.layer_maps import layers_of
from lines_pipeline.planner.schemas import Schema, infer_schemas
from lines_pipeline.planner.stages import ancestors
from lines_pipeline.recipe.binding.varying import BY_NAME


def resolve_numbers(graph: Graph, checkpoints: Mapping[str, Checkpoint]) -> Graph:
    """Return the graph with the parameters of each tensor; reads headers alone.

    Raises ``PlanError`` for a pattern that matches no tensor, a tensor that no pattern matches, more numbers than
    blocks, and numbers that the op does not take.
    """
    varying = [step for step in graph.ancestors(graph.sinks) if graph.steps[step].varying]
    if not varying:
        return graph
    schemas = infer_schemas(graph, ancestors(graph, varying), checkpoints)
    _refuse_unmatched(graph, varying, schemas)
    resolved = {step: _resolved(graph.steps[step], schemas[step]) for step in varying}
    return replace(graph, steps={**graph.steps, **resolved})


def explain_numbers(step: Step, schema: Schema, layers: LayerMap | None) -> OpExplanation:
    """Tell which numbers a step has where."""
    lines, values = [], dict[str, Plain]()
    for varying in step.varying:
        if isinstance(varying.by, ByName):
            taken = Counter(varying.by.of(schema.all_names(name)) for name in _computed(schema))
            parts = [
                f"{entry[1]:g} for {shortened(entry[0])} ({_tensors(taken[entry])})" for entry in varying.by.numbers
            ]
            lines.append(f"{varying.label}: {', '.join(parts)}")
            values[varying.label] = dict(varying.by.numbers)
        else:
            assert layers is not None
            by_tower = {
                tower: [varying.by.at(block, depth) for block in range(depth)] for tower, depth in layers.depths.items()
            }
            parts = [f"{tower} {', '.join(f'{number:.6g}' for number in row)}" for tower, row in by_tower.items()]
            lines.append(f"{varying.label} by block: {'; '.join(parts)}; outside the blocks as in the nearest one")
            values[varying.label] = {tower: [*row] for tower, row in by_tower.items()}
    return OpExplanation(tuple(lines), {"numbers": values})


def summary_of(step: Step, stats: Mapping[str, Any], numels: Mapping[str, int]) -> dict[str, Any]:
    """Return the figures that an op tells of a step: a list where they differ with the parameters of tensors."""
    if not step.variants:
        return dict(step.op.summary(step.params, stats, numels, step.counts))
    summaries = [
        step.op.summary(params, step.stats_of(number, stats), numels, step.counts)
        for number, params in enumerate(step.variants)
    ]
    names = dict.fromkeys(name for summary in summaries for name in summary)
    by_name = {name: [summary.get(name) for summary in summaries] for name in names}
    return {name: row[0] if all(value == row[0] for value in row) else row for name, row in by_name.items()}


def _tensors(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"


def _computed(schema: Schema) -> list[str]:
    """Return the tensors that a step computes: it copies all others."""
    return [name for name, spec in schema.tensors.items() if spec.is_floating and name not in schema.copied]


def _refuse_unmatched(graph: Graph, steps: Iterable[str], schemas: Mapping[str, Schema]) -> None:
    """Raise ``PlanError`` for a pattern that matches no tensor of any member of its node."""
    matched: dict[tuple[str, Path, str, str], bool] = {}
    names: dict[str, set[str]] = {}
    for step in (graph.steps[step] for step in steps):
        own = {alias for name in _computed(schemas[step.id]) for alias in schemas[step.id].all_names(name)}
        names.setdefault(step.node, set()).update(own)
        for varying in step.varying:
            if isinstance(varying.by, ByName):
                for glob, matches in match_each((glob for glob, _ in varying.by.numbers), own).items():
                    key = (step.node, varying.path, varying.label, glob)
                    matched[key] = matched.get(key, False) or matches
    unmatched = [
        Diagnostic(
            ("nodes", node, *path, BY_NAME, glob),
            f"'{label}': the glob '{shortened(glob)}' matches no tensor{nearest(glob, names[node])}",
            at_key=True,
            node=node,
        )
        for (node, path, label, glob), is_matched in matched.items()
        if not is_matched
    ]
    if unmatched:
        raise PlanError.of(unmatched)


def _resolved(step: Step, schema: Schema) -> Step:
    layers = layers_of(step, schema)
    variants: dict[tuple[Number, ...], OpParams] = {}
    chosen: dict[str, tuple[Number, ...]] = {}
    for varying in step.varying:
        _require_blocks(step, varying, layers)
    for name in _computed(schema):
        numbers = tuple(_number(step, varying, schema, name, layers) for varying in step.varying)
        chosen[name] = numbers
        if numbers not in variants:
            variants[numbers] = _variant(step, numbers, name)
    order = {numbers: index for index, numbers in enumerate(variants)}
    return replace(
        step, variants=tuple(variants.values()), variant_of={name: order[numbers] for name, numbers in chosen.items()}
    )


def _require_blocks(step: Step, varying: Varying, layers: LayerMap | None) -> None:
    if isinstance(varying.by, ByBlock) and layers is not None:
        short = {tower: depth for tower, depth in layers.depths.items() if depth < len(varying.by.numbers)}
        for tower, depth in short.items():
            count = len(varying.by.numbers)
            raise PlanError.at(
                varying.path,
                f"'{varying.label}' has {count} numbers by block, '{tower}' has {depth} "
                "blocks; expected no more numbers than blocks: there are straight lines between them",
            ).in_node(step.node)


def _number(step: Step, varying: Varying, schema: Schema, name: str, layers: LayerMap | None) -> Number:
    if isinstance(varying.by, ByBlock):
        assert layers is not None
        tower, block = layers.blocks.get(name) or layers.nearest_end(name)
        return varying.by.at(block, layers.depths[tower])
    entry = varying.by.of(schema.all_names(name))
    if entry is None:
        globs = ", ".join(shortened(glob) for glob, _ in varying.by.numbers)
        raise PlanError.at(
            varying.path,
            f"'{varying.label}' has no number for tensor '{name}', expected a glob that matches it "
            f"beside {globs}: '*' stands for all others",
        ).in_node(step.node)
    return entry[1]


def _variant(step: Step, numbers: tuple[Number, ...], name: str) -> OpParams:
    """Return the parameters with a tensor's numbers; ``PlanError`` where the op does not take them."""
    labels = ", ".join(
        f"'{varying.label}' is {number:g}" for varying, number in zip(step.varying, numbers, strict=True)
    )
    try:
        params = with_numbers(
            step.params, ((varying.path, n) for varying, n in zip(step.varying, numbers, strict=True))
        )
    except ValueError as error:
        message = f"for tensor '{name}' {labels}, expected {error}"
        raise PlanError.at(step.varying[0].path, message).in_node(step.node) from error
    if wrong := step.op.check(params, step.counts):
        message = f"for tensor '{name}' {labels}: {wrong}"
        raise PlanError.at(step.varying[0].path, message).in_node(step.node)
    return params
