"""Which tensors every step's value has, checked against each other before anything is read."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lines_pipeline.core.errors import CheckpointError, PlanError, did_you_mean
from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.io.checkpoints import Checkpoint
from lines_pipeline.recipe.graph import Graph, Step


@dataclass(frozen=True)
class Layout:
    """The tensors of a step's value.

    ``tensors`` holds stored data types, also for task vectors (computed in ``TensorSpec.compute_dtype``); ``names``
    all tensors of the model; ``sizes`` the number of values of its floating-point ones, from which layers are told;
    ``frozen`` those that keep the first input's value;
    ``passthrough`` the load step that integer and bool tensors are copied from; ``aliases`` second names of tied ones.
    """

    tensors: Mapping[str, TensorSpec]
    names: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    passthrough: str = ""
    origin: str = ""
    """Where the tensors come from, for messages."""
    drops_extra: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def numels(self) -> dict[str, int]:
        """Values of each floating-point tensor."""
        return {name: spec.numel for name, spec in self.tensors.items() if spec.is_floating}


def lay_out(graph: Graph, needed: Iterable[str], checkpoints: Mapping[str, Checkpoint]) -> dict[str, Layout]:
    """Layouts of the ``needed`` steps (in topological order); ``checkpoints`` by load step.

    Raises ``CheckpointError`` for missing, extra or mis-shaped tensors, ``PlanError`` for globs that match nothing.
    """
    layouts: dict[str, Layout] = {}
    for step_id in needed:
        step = graph.steps[step_id]
        if step.op.name == "load":
            layouts[step_id] = _loaded(step, checkpoints[step_id])
        elif step.op.is_source:
            base = next((layouts[i] for i in step.inputs.get("base", ())), None)
            layouts[step_id] = _update(checkpoints[step_id], base)
        elif step.gives is not EdgeType.METRICS:
            layouts[step_id] = _derived(step, {port: [layouts[i] for i in ids] for port, ids in step.inputs.items()})
    return layouts


def holds_exactly(value: Checkpoint, layout: Layout) -> bool:
    """Whether a step's stored value is as it was computed, not rounded: further steps may be computed from it."""
    floating = [(name, spec) for name, spec in layout.tensors.items() if spec.is_floating and name in value.tensors]
    types = {(value.tensors[name].spec.dtype, spec.compute_dtype) for name, spec in floating}
    return all(stored in (computed, "bool") for stored, computed in types)


def _loaded(step: Step, checkpoint: Checkpoint) -> Layout:
    tensors = {name: stored.spec for name, stored in checkpoint.tensors.items()}
    left_out = left_out_names(step, tensors)
    return Layout(
        {name: spec for name, spec in tensors.items() if name not in left_out},
        tuple(tensors),
        aliases=checkpoint.aliases,
        left_out=left_out,
        passthrough=step.id,
        origin=checkpoint.uri,
        drops_extra=getattr(step.params, "on_extra", "error") == "drop",
        sizes={name: spec.numel for name, spec in tensors.items() if spec.is_floating},
    )


def _update(checkpoint: Checkpoint, base: Layout | None) -> Layout:
    """The update that an adapter stands for: a task vector of ``base``."""
    tensors = {name: stored.spec for name, stored in checkpoint.tensors.items()}
    if base is None:
        return Layout(tensors, tuple(tensors), origin=checkpoint.uri)
    return Layout(tensors, base.names, aliases=base.aliases, passthrough=base.passthrough, origin=checkpoint.uri)


def left_out_names(step: Step, names: Iterable[str]) -> frozenset[str]:
    """Names that ``include`` / ``exclude`` leave out."""
    names = list(names)
    for glob in (*step.include, *step.exclude):
        if not fnmatch.filter(names, glob):
            raise PlanError(f"node '{step.node}': the glob '{glob}' matches no tensor{did_you_mean(glob, names)}")
    kept = {name for glob in step.include for name in fnmatch.filter(names, glob)} if step.include else set(names)
    kept -= {name for glob in step.exclude for name in fnmatch.filter(names, glob)}
    return frozenset(set(names) - kept)


def _derived(step: Step, inputs: Mapping[str, list[Layout]]) -> Layout:
    if step.op.name == "task-vector":
        return _difference(step, inputs["model"][0], inputs["base"][0])
    if step.op.name == "save":
        return inputs["model"][0]
    return _combined_weights(step, inputs) if step.gives is EdgeType.WEIGHTS else _combined_delta(step, inputs)


def _difference(step: Step, model: Layout, base: Layout) -> Layout:
    require_same(step, model, base)
    floating = {name: spec for name, spec in base.tensors.items() if spec.is_floating}
    left_out = left_out_names(step, floating) | model.left_out
    return Layout(
        {name: spec for name, spec in floating.items() if name not in left_out},
        base.names,
        aliases=base.aliases,
        passthrough=base.passthrough,
        origin=base.origin,
        sizes=base.sizes,
    )


def require_same(step: Step, model: Layout, base: Layout) -> None:
    """Refuse tensors that ``model`` lacks, has on top of ``base``, or has in another shape or kind."""
    who = f"node '{step.node}': {model.origin}"
    missing = [name for name in base.tensors if name not in model.tensors and name not in model.left_out]
    if missing:
        near = did_you_mean(missing[0], set(model.tensors) - set(base.tensors))
        raise CheckpointError(f"{who} lacks tensor '{missing[0]}'{_more(missing)} of {base.origin}{near}. {_RENAME}")
    extra = [name for name in model.tensors if name not in base.tensors and name not in base.left_out]
    if extra and not model.drops_extra:
        raise CheckpointError(
            f"{who} has tensor '{extra[0]}'{_more(extra)}, which {base.origin} lacks. "
            "Say 'on_extra: drop' in its load node to leave such tensors out."
        )
    for name, spec in base.tensors.items():
        other = model.tensors.get(name, spec)
        if other.shape != spec.shape:
            raise CheckpointError(
                f"{who}: tensor '{name}' has shape {list(other.shape)}, expected {list(spec.shape)} as in "
                f"{base.origin}. Models of one merge must have the same architecture; 'exclude' on the nodes "
                "that load them leaves a tensor out."
            )
        if other.is_floating != spec.is_floating:
            raise CheckpointError(
                f"{who}: tensor '{name}' is {other.dtype}, but {spec.dtype} in {base.origin}: "
                "one is floating-point, the other is not"
            )


_RENAME = "If only the names differ, use 'prefix' or 'rename' in its load node."


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _combined_weights(step: Step, inputs: Mapping[str, list[Layout]]) -> Layout:
    """``apply``, ``interpolate``, ``soup``: the tensors of the base or the first model."""
    first, *others = inputs["base"] if "base" in inputs else inputs["models"]
    for other in others:
        require_same(step, other, first)
    for delta in inputs.get("delta", []):
        _require_same_model(step, delta, first)
    floating = [name for name, spec in first.tensors.items() if spec.is_floating]
    frozen = left_out_names(step, floating)
    frozen |= {name for layout in others for name in layout.left_out if name in first.tensors}
    frozen |= {name for delta in inputs.get("delta", []) for name in floating if name not in delta.tensors}
    return replace(first, frozen=frozen, drops_extra=False)


def _combined_delta(step: Step, inputs: Mapping[str, list[Layout]]) -> Layout:
    """Task vectors and masks: the tensors that any of the merged vectors has; absent ones count as zero."""
    main = inputs.get("merged") or inputs.get("delta") or inputs["deltas"]
    for layouts in inputs.values():
        for layout in layouts:
            _require_same_model(step, layout, main[0])
    tensors = {name: spec for layout in main for name, spec in layout.tensors.items()}
    left_out = left_out_names(step, tensors) if step.include or step.exclude else frozenset()
    return replace(main[0], tensors={name: tensors[name] for name in sorted(tensors) if name not in left_out})


def _require_same_model(step: Step, layout: Layout, first: Layout) -> None:
    if layout.names == first.names:
        shapes = {name: spec.shape for name, spec in first.tensors.items()}
        if all(spec.shape == shapes.get(name, spec.shape) for name, spec in layout.tensors.items()):
            return
    odd = sorted(set(layout.names) ^ set(first.names)) or [
        name for name, spec in layout.tensors.items() if spec.shape != first.tensors.get(name, spec).shape
    ]
    raise CheckpointError(
        f"node '{step.node}': updates of different models cannot be combined: {layout.origin} and {first.origin} "
        f"differ in tensor '{odd[0]}'{_more(odd)}"
    )
