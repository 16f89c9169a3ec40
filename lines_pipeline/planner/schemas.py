"""Which tensors every step's value has, checked against each other before anything is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lines_pipeline.core.errors import CheckpointError, PlanError
from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.ops.load import LoadParams
from lines_pipeline.ops.task_vector import TaskVectorParams
from lines_pipeline.planner.globs import chooses, matches, nearest, unmatched
from lines_pipeline.planner.grafts import grafted
from lines_pipeline.planner.matching import (
    Comparison,
    Schema,
    compare,
    refuse_extra,
    refuse_missing,
    refuse_shapes,
)
from lines_pipeline.planner.notes import Told, quoted

__all__ = ["Schema", "infer_schemas"]

Inputs = Mapping[str, Sequence[Schema]]
"""Layouts of a step's inputs by port."""


def infer_schemas(graph: Graph, needed: Iterable[str], checkpoints: Mapping[str, Checkpoint]) -> dict[str, Schema]:
    """Layouts of the ``needed`` steps (in topological order); ``checkpoints`` by load step.

    Raises ``CheckpointError`` for missing, extra or mis-shaped tensors, ``PlanError`` for globs that match nothing.
    """
    schemas: dict[str, Schema] = {}
    for step_id in needed:
        step = graph.steps[step_id]
        if isinstance(step.params, LoadParams):
            schemas[step_id] = _loaded(step, step.params, checkpoints[step_id])
        elif step.op.is_source:
            base = next((schemas[i] for i in step.inputs.get("base", ())), None)
            schemas[step_id] = _update(step, checkpoints[step_id], base)
        elif step.gives is not EdgeType.METRICS:
            schemas[step_id] = _derived(step, {port: [schemas[i] for i in ids] for port, ids in step.inputs.items()})
    _refuse_unmatched(graph, schemas)
    return schemas


def holds_exactly(value: Checkpoint, schema: Schema) -> bool:
    """Whether a step's stored value is as it was computed, not rounded: further steps may be computed from it."""
    floating = [(name, spec) for name, spec in schema.tensors.items() if spec.is_floating and name in value.tensors]
    types = {(value.tensors[name].spec.dtype, spec.compute_dtype) for name, spec in floating}
    return all(stored in (computed, "bool") for stored, computed in types)


def _update(step: Step, checkpoint: Checkpoint, base: Schema | None) -> Schema:
    """The update that an adapter stands for: a task vector of ``base``, or of any model that has its tensors."""
    tensors = {name: stored.spec for name, stored in checkpoint.tensors.items()}
    if base is None:
        sizes = {name: spec.numel for name, spec in tensors.items()}
        names = (*tensors, *checkpoint.left_out)
        useless = unmatched((*step.include, *step.exclude), names)
        return Schema(
            tensors,
            names,
            origin=checkpoint.uri,
            partial=True,
            sizes=sizes,
            unmatched=useless,
            extra_remedy="Give 'base' to its adapter node: its names are then matched with that model's",
        )
    return Schema(
        tensors,
        base.names,
        aliases=base.aliases,
        origin=checkpoint.uri,
        sizes=base.sizes,
        unmatched=_unmatched(step, base),
    )


def left_out_names(step: Step, tensors: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Tensors, of those given with all their names, that ``include`` and ``exclude`` leave out."""
    bounds = step.include, step.exclude
    return frozenset(name for name, names in tensors.items() if not chooses(bounds, names))


def _refuse_unmatched(graph: Graph, schemas: Mapping[str, Schema]) -> None:
    """Raise ``PlanError`` for a pattern that matches no tensor of any member of its node."""
    useless: dict[tuple[str, str], bool] = {}
    for step_id, schema in schemas.items():
        step = graph.steps[step_id]
        for glob in (*step.include, *step.exclude, *getattr(step.params, "drop", ())):
            key = (step.node, glob)
            useless[key] = useless.get(key, True) and glob in schema.unmatched
    for (node, glob), nothing in useless.items():
        if nothing:
            names = {
                name for step, schema in schemas.items() if graph.steps[step].node == node for name in schema.names
            }
            raise PlanError(f"node '{node}': the glob '{glob}' matches no tensor{nearest(glob, names)}")


def _loaded(step: Step, params: LoadParams, checkpoint: Checkpoint) -> Schema:
    known = (*checkpoint.tensors, *checkpoint.aliases, *checkpoint.unreadable)
    gone = frozenset(name for name in known if matches(params.drop, (name,))) if params.drop else frozenset()
    specs = {name: stored.spec for name, stored in checkpoint.tensors.items() if name not in gone}
    tensors = {name: spec for name, spec in specs.items() if step.gives is EdgeType.WEIGHTS or spec.is_floating}
    if step.gives is EdgeType.MASK:
        tensors = {name: _masked(step, spec) for name, spec in specs.items()}
    integers = [name for name in specs if name not in tensors]
    told = [Told(step.node, tuple(integers), "not floating-point, no part of a task vector", checkpoint.uri)]
    return Schema(
        tensors,
        tuple(checkpoint.tensors),
        aliases={alias: name for alias, name in checkpoint.aliases.items() if alias not in gone and name in tensors},
        left_out=gone,
        passthrough={name: step.id for name, spec in tensors.items() if not spec.is_floating},
        origin=checkpoint.uri,
        drops_extra=params.on_extra == "drop",
        extra_remedy=_DROP_EXTRA,
        sizes={name: spec.numel for name, spec in tensors.items() if spec.is_floating},
        partial=step.gives is not EdgeType.WEIGHTS,
        told=(*_dropped(step, checkpoint, gone), *(told if integers else ())),
        unmatched=unmatched(params.drop, known),
    )


_DROP_EXTRA = "'on_extra: drop' in its load node leaves such tensors out of the result; 'graft' can add them to it"


def _masked(step: Step, spec: TensorSpec) -> TensorSpec:
    """A mask's tensor, as of the task vector that it is for."""
    if spec.dtype != "bool":
        raise CheckpointError(
            f"node '{step.node}': tensor '{spec.name}' is {spec.dtype}, expected bool: a mask is what 'save' writes of "
            "one, as boolean tensors or packed"
        )
    return replace(spec, dtype="float32")


def _dropped(step: Step, checkpoint: Checkpoint, gone: frozenset[str]) -> list[Told]:
    """Tell which tensors a step drops, and which only lose a name of several."""
    kept: dict[str, list[str]] = {}
    for alias, name in checkpoint.aliases.items():
        if alias in gone and name not in gone:
            kept.setdefault(name, []).append(alias)
    told = [
        Told(step.node, tuple(sorted(aliases)), f"dropped; its other name '{printable(name)}' stays", checkpoint.uri)
        for name, aliases in kept.items()
    ]
    if whole := gone.difference(*kept.values()):
        numels = {name: stored.spec.numel for name, stored in checkpoint.tensors.items()}
        share = sum(numel for name, numel in numels.items() if name in whole) / max(sum(numels.values()), 1)
        reason = f"dropped, {len(whole)} in all with {share:.2%} of the parameters; they are in no output"
        told.insert(0, Told(step.node, tuple(sorted(whole)), reason, checkpoint.uri))
    return told


def _derived(step: Step, inputs: Inputs) -> Schema:
    if isinstance(step.params, TaskVectorParams):
        return _difference(step, step.params, inputs["model"][0], inputs["base"][0])
    if step.op.name == "save":
        return replace(inputs["model"][0], copied={}, regions={}, views={}, told=(), unmatched=())
    if step.op.name == "graft":
        return grafted(step, inputs["model"][0], inputs["donor"][0])
    if step.op.name == "apply":
        return _applied(step, inputs["base"][0], inputs["delta"][0])
    return _averaged(step, inputs) if step.gives is EdgeType.WEIGHTS else _combined(step, inputs)


def _difference(step: Step, params: TaskVectorParams, model: Schema, base: Schema) -> Schema:
    found = compare(step, model, base)
    refuse_extra(step, model, base, found)
    if params.on_missing == "error":
        remedy = "'on_missing: base' keeps the base's values of them"
        refuse_missing(step, model, base, found, remedy)
    if params.on_shape_mismatch == "error":
        refuse_shapes(step, model, base, found.reshaped, _RESHAPED)
    same = dict(found.same)
    overlaps = _overlaps(step, model, base, found) if params.on_shape_mismatch == "crop" else {}
    same |= {name: found.reshaped[name] for name in overlaps}
    tensors = {name: spec for name, spec in base.tensors.items() if name in same}
    views = {name: theirs for name, theirs in found.views.items() if name in tensors}
    return Schema(
        tensors,
        base.names,
        aliases=base.aliases,
        regions={name: shape for name, shape in overlaps.items() if shape != tensors[name].shape},
        views={step.inputs["model"][0]: views} if views else {},
        origin=base.origin,
        sizes=base.sizes,
        told=(*_told(step, found, model, base), *_told_shapes(step, found, overlaps, model, base)),
        unmatched=_unmatched(step, base, model),
    )


_RESHAPED = (
    "'on_shape_mismatch: base' keeps the base's values of such tensors, 'crop' merges the leading rows that both have, "
    "and 'exclude' on this node leaves tensors out"
)


def _overlaps(step: Step, model: Schema, base: Schema, found: Comparison) -> dict[str, tuple[int, ...]]:
    """The leading region that both have of tensors of different shapes."""
    overlaps = {}
    for name, theirs in found.reshaped.items():
        shape, other = base.tensors[name].shape, model.tensors[theirs].shape
        if len(shape) != len(other):
            raise CheckpointError(
                f"node '{step.node}': {model.origin}: tensor '{theirs}' has shape {list(other)}, expected {len(shape)} "
                f"dimensions as in {base.origin} to crop; 'exclude' on this node leaves it out"
            )
        overlaps[name] = tuple(map(min, shape, other))
    return {name: shape for name, shape in overlaps.items() if 0 not in shape}


def _told_shapes(
    step: Step, found: Comparison, overlaps: Mapping[str, tuple[int, ...]], model: Schema, base: Schema
) -> list[Told]:
    """What was done about tensors of different shapes."""
    told = [
        Told(step.node, (name,), f"cropped to {list(shape)}, the rest of the base's stays", model.origin)
        for name, shape in overlaps.items()
    ]
    kept = tuple(name for name in found.reshaped if name not in overlaps)
    return [*told, *([Told(step.node, kept, f"of another shape, {base.origin}'s stay", model.origin)] if kept else [])]


def _told(step: Step, found: Comparison, other: Schema, first: Schema) -> list[Told]:
    """What a comparison of two models leaves as it is, leaves out or uses twice."""
    mine, uses = first.origin, Counter(found.same.values())
    cases = {
        f"left out, {mine}'s stay": found.left,
        f"not in the other file, {mine}'s stay": found.missing,
        f"dropped from the other file, {mine}'s stay": found.dropped,
        f"floating-point in one of them and integer in the other, {mine}'s stay": found.typed,
        "tied to one tensor in the other file, which is used for each": [
            n for n, t in found.same.items() if uses[t] > 1
        ],
        f"not in {mine}, in no output unless 'graft' adds them": [*found.extra, *found.extra_left],
    }
    return [Told(step.node, tuple(names), reason, other.origin) for reason, names in cases.items() if names]


def _unmatched(step: Step, *schemas: Schema) -> tuple[str, ...]:
    """Patterns of the step that match no floating-point tensor of any of these values."""
    globs = (*step.include, *step.exclude)
    names = (n for one in schemas for t, spec in one.tensors.items() if spec.is_floating for n in one.all_names(t))
    return unmatched(globs, names) if globs else ()


def _averaged(step: Step, inputs: Inputs) -> Schema:
    """Means of models, such as ``interpolate`` and ``soup``: the tensors of the base, or else of the first model."""
    ports = [port for port in ("base", "models") if port in inputs]
    models = [schema for port in ports for schema in inputs[port]]
    ids = [source for port in ports for source in step.inputs[port]]
    first, views, told, bounds = models[0], dict[str, Mapping[str, str]](), list[Told](), (step.include, step.exclude)
    floating = {name for name, spec in first.tensors.items() if spec.is_floating}
    kept = {name for name in floating if chooses(bounds, first.all_names(name))} if any(bounds) else floating
    for other, source in zip(models[1:], ids[1:], strict=True):
        found = compare(step, other, first)
        refuse_extra(step, other, first, found)
        refuse_missing(step, other, first, found, _LEAVE_OUT)
        refuse_shapes(step, other, first, found.reshaped, _SHAPES_OF_MODELS)
        kept = kept & found.same.keys()
        if renamed := found.views:
            views[source] = renamed
        told += _told(step, found, other, first)
    return replace(
        first,
        copied=dict.fromkeys(sorted(floating - kept), ids[0]),
        regions={},
        views=views,
        drops_extra=False,
        extra_remedy="",
        told=tuple(told),
        unmatched=_unmatched(step, *models),
    )


_LEAVE_OUT = "'exclude' on this node keeps the first model's values of them"
_SHAPES_OF_MODELS = "'exclude' on this node keeps the first model's values of such tensors"


def _applied(step: Step, base: Schema, delta: Schema) -> Schema:
    """The tensors of the base: those that the task vector lacks, or the step leaves out, keep its values."""
    found = compare(step, delta, base)
    refuse_extra(step, delta, base, found)
    refuse_shapes(step, delta, base, found.reshaped, "'exclude' on this node keeps the base's values of such tensors")
    views = found.views
    return replace(
        base,
        copied={n: step.inputs["base"][0] for n, s in base.tensors.items() if s.is_floating and n not in found.same},
        regions={},
        views={step.inputs["delta"][0]: views} if views else {},
        drops_extra=False,
        extra_remedy="",
        told=_told_of_delta(step, found, base, delta),
        unmatched=_unmatched(step, base),
    )


def _told_of_delta(step: Step, found: Comparison, base: Schema, delta: Schema) -> tuple[Told, ...]:
    """What a task vector lacks that its own model did not have either, and what of it is not used."""
    known = {*delta.names, *delta.left_out}
    cases = {
        f"not in the task vector, {base.origin}'s stay": [n for n in found.missing if not known & {*base.all_names(n)}],
        f"not in {base.origin}, in no output": found.extra,
        f"integer in {base.origin}, whose values stay": found.typed,
    }
    return tuple(Told(step.node, tuple(names), reason, delta.origin) for reason, names in cases.items() if names)


def _combined(step: Step, inputs: Inputs) -> Schema:
    """Task vectors and masks: the tensors that any of the merged vectors has; absent ones count as zero."""
    main = inputs.get("merged") or inputs.get("delta") or inputs["deltas"]
    tensors = {name: spec for schema in main for name, spec in schema.tensors.items()}
    if step.op.name == "mask":
        tensors = {name: spec for name, spec in tensors.items() if name in inputs["mask"][0].tensors}
    bounds = step.include, step.exclude
    if any(bounds):
        tensors = {name: spec for name, spec in tensors.items() if chooses(bounds, main[0].all_names(name))}
    for port, schemas in inputs.items():
        for schema in schemas:
            if step.op.inputs[port].is_path:
                _require_all(step, port, schema, tensors)
            else:
                _require_same_model(step, schema, main[0], tensors)
    names = main[0].names
    if any(schema.names != names for schema in main):
        names = tuple(sorted({name for schema in main for name in schema.names}))
    return replace(
        main[0],
        tensors={name: tensors[name] for name in sorted(tensors)},
        names=names,
        sizes={name: size for schema in reversed(main) for name, size in schema.sizes.items()},
        copied={},
        regions=_regions(step, inputs, main, tensors),
        views={},
        partial=all(schema.partial for schema in main),
        drops_extra=any(schema.drops_extra for schema in main),
        extra_remedy=next((schema.extra_remedy for schema in main if schema.extra_remedy), ""),
        told=(),
        unmatched=_unmatched(step, *main),
    )


def _regions(
    step: Step, inputs: Inputs, main: Sequence[Schema], tensors: Mapping[str, TensorSpec]
) -> dict[str, tuple[int, ...]]:
    """The regions that count: what any of the merged vectors has, and where a mask is for it."""
    found = {}
    for name in {name for schemas in inputs.values() for schema in schemas for name in schema.regions} & tensors.keys():
        shapes = [schema.regions.get(name, tensors[name].shape) for schema in main if name in schema.tensors]
        region = tuple(map(max, *shapes)) if len(shapes) > 1 else shapes[0]
        if step.op.name == "mask":
            region = tuple(map(min, region, inputs["mask"][0].regions.get(name, region)))
        if region != tensors[name].shape:
            found[name] = region
    return found


def _require_all(step: Step, port: str, schema: Schema, tensors: Mapping[str, TensorSpec]) -> None:
    """Raise ``CheckpointError`` where a file lacks one of ``tensors``, or has it in another shape."""
    odd = [n for n, s in tensors.items() if n not in schema.tensors or schema.tensors[n].shape != s.shape]
    if odd:
        raise CheckpointError(
            f"node '{step.node}': {schema.origin}, named by '{port}', lacks tensors of the task vector or has other "
            f"shapes: {quoted(odd)}"
        )


def _require_same_model(step: Step, schema: Schema, first: Schema, tensors: Mapping[str, TensorSpec]) -> None:
    """Raise ``CheckpointError`` where a vector has one of ``tensors`` in another shape, or its model lacks it."""
    odd = [n for n, spec in tensors.items() if n in schema.tensors and schema.tensors[n].shape != spec.shape]
    if not schema.partial and schema.names != first.names:
        known = {*schema.names, *schema.aliases, *schema.left_out}
        odd += [name for name in tensors if name not in known]
    if odd:
        raise CheckpointError(
            f"node '{step.node}': updates of different models cannot be combined: {schema.origin} and {first.origin} "
            f"differ in {quoted(odd)}; 'exclude' on the nodes that make or merge them leaves tensors out"
        )
