"""Which tensors of two values are the same: by name, or by a name that one of their files ties to the tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.schemas.globs import nearest
from lines_pipeline.ops.schemas.notes import quoted
from lines_pipeline.ops.schemas.other_names import name_remedy
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


@dataclass
class Comparison:
    """Sorts the floating-point tensors of a first value by what another value has of them.

    Names are those of the first value, but for ``extra`` and ``extra_left``.
    """

    same: dict[str, str] = field(default_factory=dict)
    """Tensors of equal shape, and their names in the other value."""
    reshaped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    """Missing because the recipe drops them from the other value."""
    typed: list[str] = field(default_factory=list)
    """Integer in one of the values, floating-point in the other."""
    left: list[str] = field(default_factory=list)
    """Left out by the step's ``include`` and ``exclude``."""
    extra: list[str] = field(default_factory=list)
    """Tensors of the other value that the first one lacks, by the other's names."""
    extra_left: list[str] = field(default_factory=list)
    """Such tensors that nobody misses: the step leaves them out, the recipe drops them from the first value, or they
    are integer buffers."""

    @property
    def views(self) -> dict[str, str]:
        """Return the tensors that the other value has under another name or in another shape."""
        renamed = {name: theirs for name, theirs in self.same.items() if name != theirs}
        return renamed | self.reshaped


def compare(context: SchemaContext, other: Schema, first: Schema) -> Comparison:
    """Compare two values tensor by tensor. Raises ``CheckpointError`` for tensors that only the first one ties."""
    comparison, used = Comparison(), set[str]()
    bounded = context.is_bounded
    for name, spec in first.tensors.items():
        match = other.tensors.get(name) if not bounded and name not in first.ties else None
        if match is not None and match.shape == spec.shape and match.is_floating and spec.is_floating:  # as most are
            comparison.same[name] = name
            used.add(name)
            continue
        names = first.all_names(name)
        theirs = list(dict.fromkeys(tensor for alias in names if (tensor := other.tensor(alias)) is not None))
        used.update(theirs)
        if bounded and not context.chooses(names):
            comparison.left += [name] if spec.is_floating else []
            continue
        if len(theirs) > 1 and spec.is_floating:
            raise CheckpointError(_untied(context, theirs, other, name, first))
        _sort_in(comparison, name, spec, theirs[0] if theirs else None, other, names)
    for name in other.tensors.keys() - used if len(used) < len(other.tensors) else ():
        names = other.all_names(name)
        quiet = not other.tensors[name].is_floating or any(alias in first.left_out for alias in names)
        quiet = quiet or (bounded and not context.chooses(names))
        (comparison.extra_left if quiet else comparison.extra).append(name)
    comparison.extra.sort()
    comparison.extra_left.sort()
    return comparison


def _sort_in(
    comparison: Comparison, name: str, spec: TensorSpec, theirs: str | None, other: Schema, names: tuple[str, ...]
) -> None:
    if theirs is None and spec.is_floating:
        gone = any(alias in other.left_out for alias in names)
        (comparison.dropped if gone else comparison.missing).append(name)
    elif theirs is not None and other.tensors[theirs].is_floating != spec.is_floating:
        comparison.typed.append(name)
    elif theirs is not None and spec.is_floating:
        (comparison.same if other.tensors[theirs].shape == spec.shape else comparison.reshaped)[name] = theirs


def _untied(context: SchemaContext, own: list[str], other: Schema, name: str, first: Schema) -> str:
    return (
        f"node '{context.node}': {other.origin} has {quoted(own)} as tensors of their own, which {first.origin} ties "
        f"to one ('{name}'). 'drop' of all of them but one, in the node that loads {other.origin}, merges that one for "
        f"all names; to merge each by itself, load another {first.origin} that has them untied."
    )


def refuse_extra(context: SchemaContext, other: Schema, first: Schema, comparison: Comparison) -> None:
    """Raise ``CheckpointError`` for tensors that ``first`` lacks, unless the node that loads them drops these."""
    if comparison.extra and not other.drops_extra:
        remedy = other.extra_remedy or "'exclude' on this node leaves such tensors out of the result"
        if renamed := _renamed(other, comparison):
            remedy = f"{first.origin} has {quoted(comparison.missing)} instead. {renamed}; else {remedy}"
        extra = quoted(comparison.extra)
        raise CheckpointError(
            f"node '{context.node}': {other.origin} has {extra}, which {first.origin} lacks. {remedy}."
        )


def refuse_missing(context: SchemaContext, other: Schema, first: Schema, comparison: Comparison, remedy: str) -> None:
    """Raise ``CheckpointError`` for tensors that ``other`` lacks."""
    if missing := comparison.missing:
        near = nearest(missing[0], set(other.tensors) - set(first.tensors))
        renamed = _renamed(other, comparison) or "If only the names differ, use 'prefix' or 'rename' in its load node"
        raise CheckpointError(
            f"node '{context.node}': {other.origin} lacks {quoted(missing)} of {first.origin}{near}. {renamed}; "
            f"{remedy}."
        )


def _renamed(other: Schema, comparison: Comparison) -> str:
    """Return what to do where the names alone differ; an empty text elsewhere."""
    return name_remedy(
        other.origin, comparison.extra, comparison.missing, (*comparison.same.values(), *comparison.reshaped.values())
    )


def refuse_shapes(
    context: SchemaContext, other: Schema, first: Schema, reshaped: Mapping[str, str], remedy: str
) -> None:
    """Raise ``CheckpointError`` for tensors of another shape than ``first`` has."""
    for name, theirs in reshaped.items():
        others = f" (and {len(reshaped) - 1} more)" if len(reshaped) > 1 else ""
        raise CheckpointError(
            f"node '{context.node}': {other.origin}: tensor '{theirs}'{others} has shape "
            f"{list(other.tensors[theirs].shape)}, expected {list(first.tensors[name].shape)} as in {first.origin}. "
            f"{remedy}."
        )
