"""Tells tensors of one name apart where values of a plan have them in several shapes or under several names.

A stage plan goes by keys: a tensor's name, and where the name has several shapes, one key for each of them. A step that
takes another's tensor under another name or in another shape reads a view of it, which has the key of what takes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.graph.graph import Step
from lines_pipeline.io.checkpoint import Checkpoint, StoredTensor
from lines_pipeline.ops.base import Granularity
from lines_pipeline.ops.schemas.schema import Schema

Shape = tuple[int, ...]
Value = TypeVar("Value")


@dataclass(frozen=True)
class View:
    """Tells what another step takes a tensor as: the tensor's own key, and the shape that it is taken in."""

    key: str
    shape: Shape


Views = Mapping[str, View]
"""Views of one step's tensors by the key of what takes them."""


@dataclass(frozen=True)
class Shapes:
    """Keys by name and shape, of names that have several shapes."""

    odd: Mapping[str, Mapping[Shape, str]]

    def key(self, name: str, shape: Shape) -> str:
        """Return the key of a tensor."""
        return self.odd[name][shape] if name in self.odd else name

    def keyed(self, values: Mapping[str, Value], specs: Mapping[str, TensorSpec]) -> Mapping[str, Value]:
        """Return the values by key, from values by name of tensors that have these specs."""
        if self.odd.keys().isdisjoint(specs.keys()):
            return values
        return {self.key(name, specs[name].shape): value for name, value in values.items()}

    @property
    def names(self) -> dict[str, str]:
        """Return the names by key, where they differ."""
        return {key: name for name, keys in self.odd.items() for key in keys.values()}


def tell_apart(schemas: Mapping[str, Schema], sources: Mapping[str, Checkpoint]) -> Shapes:
    """Return the keys that values and the files behind them need, by step."""
    shapes: dict[str, Shape] = {}
    odd: dict[str, dict[Shape, None]] = {}
    specs = [schema.tensors for schema in schemas.values()]
    for step, checkpoint in sources.items():
        if len(schemas[step].tensors) < len(checkpoint.tensors):
            specs.append({name: stored.spec for name, stored in checkpoint.tensors.items()})
    for tensors in specs:
        for name, spec in tensors.items():
            if shapes.setdefault(name, spec.shape) != spec.shape:
                odd.setdefault(name, {shapes[name]: None})[spec.shape] = None
    taken = set(shapes)
    return Shapes({name: {shape: _new(name, shape, taken) for shape in sorted(odd[name])} for name in sorted(odd)})


def _new(name: str, shape: Shape, taken: set[str]) -> str:
    key = f"{name} {list(shape)}"
    while key in taken:
        key += "'"
    taken.add(key)
    return key


def views_of(steps: Sequence[Step], schemas: Mapping[str, Schema], shapes: Shapes) -> Mapping[str, Views]:
    """Return the views that steps (in topological order) need of the steps before them, by step."""
    views: defaultdict[str, dict[str, View]] = defaultdict(dict)
    if not any(schema.views for schema in schemas.values()):
        return views
    own = {step: shapes.keyed(schema.tensors, schema.tensors) for step, schema in schemas.items()}
    for step in reversed(steps):
        schema = schemas[step.id]
        for source, renamed in schema.views.items():
            for name, other_name in renamed.items() if source in schemas else ():
                shape, theirs = schema.tensors[name].shape, schemas[source].tensors[other_name].shape
                _expose(views[source], shapes.key(name, shape), View(shapes.key(other_name, theirs), shape), step)
        sources = {source: own[source] for ids in step.value_inputs.values() for source in ids if source in own}
        for key, view in tuple(views[step.id].items()):
            for source, tensors in sources.items():
                theirs_key = views[source][view.key].key if view.key in views[source] else view.key
                if theirs_key in tensors:
                    _expose(views[source], key, View(theirs_key, view.shape), step)
    return views


def _expose(views: dict[str, View], key: str, view: View, step: Step) -> None:
    if views.setdefault(key, view) != view or step.op.granularity is not Granularity.ELEMENTWISE:
        raise PlanError(
            f"node '{step.node}': tensor '{key}' would be two tensors of one model; save that model first, and load it "
            "in another recipe"
        )


def keyed_schema(schema: Schema, views: Views, shapes: Shapes) -> Schema:
    """Return a schema by key, with its views."""
    specs = schema.tensors
    own = replace(
        schema,
        tensors=shapes.keyed(specs, specs),
        copied=shapes.keyed(schema.copied, specs),
        regions=shapes.keyed(schema.regions, specs),
        passthrough=shapes.keyed(schema.passthrough, specs),
        streamed=frozenset(shapes.key(name, specs[name].shape) for name in schema.streamed),
    )
    if not views:
        return own
    regions = {key: own.regions[view.key] for key, view in views.items() if view.key in own.regions}
    return replace(
        own,
        tensors={
            **own.tensors,
            **{key: replace(own.tensors[view.key], shape=view.shape) for key, view in views.items()},
        },
        copied=with_views(own.copied, views),
        regions={**own.regions, **{key: tuple(map(min, region, views[key].shape)) for key, region in regions.items()}},
        passthrough=with_views(own.passthrough, views),
        exposed=frozenset(views),
    )


def keyed_beside(schema: Schema, schemas: Mapping[str, Schema], shapes: Shapes) -> dict[str, dict[str, str]]:
    """Return what lies beside the tensors of a schema, by key, in inputs that have schemas."""
    return {
        source: {
            shapes.key(name, schema.tensors[name].shape): shapes.key(
                name_beside, schemas[source].tensors[name_beside].shape
            )
            for name, name_beside in named.items()
        }
        for source, named in schema.beside.items()
        if source in schemas
    }


def with_views(values: Mapping[str, Value], views: Views) -> dict[str, Value]:
    """Return the values by key, also for the keys of views."""
    return {**values, **{key: values[view.key] for key, view in views.items() if view.key in values}}


def keyed_sources(tensors: Mapping[str, StoredTensor], views: Views, shapes: Shapes) -> Mapping[str, StoredTensor]:
    """Return the stored tensors by key, with their views."""
    own = shapes.keyed(tensors, {name: stored.spec for name, stored in tensors.items()}) if shapes.odd else tensors
    return {**own, **{key: _seen(own[v.key], v.shape) for key, v in views.items() if v.key in own}} if views else own


def _seen(stored: StoredTensor, shape: Shape) -> StoredTensor:
    """Return the leading region of a shape: what lies beyond the tensor reads as zero."""
    if stored.spec.shape == shape:
        return stored
    return replace(stored, spec=replace(stored.spec, shape=shape), stored_shape=stored.spec.shape)
