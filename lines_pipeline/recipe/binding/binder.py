"""Binds unbound nodes: makes steps of collections, and checks types and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.types import EdgeType
from lines_pipeline.graph.graph import Step
from lines_pipeline.recipe.binding.input_binding import InputBinding
from lines_pipeline.recipe.binding.items import Item, Items, fill_items
from lines_pipeline.recipe.binding.node_inputs import BoundNode, Member, NodeInputs
from lines_pipeline.recipe.binding.nodes import UnboundNode
from lines_pipeline.recipe.binding.parameters import step_params
from lines_pipeline.recipe.binding.rows import member_rows

if TYPE_CHECKING:
    from lines_pipeline.ops.base import OpParams

MAX_STEPS = 20_000
MAX_EDGES = 500_000
"""The most inputs that all steps together may have."""


class Binder:
    """Binds one unbound node after another, in topological order."""

    def __init__(self, names: Iterable[str], gives: Mapping[str, EdgeType | None], seed: int = 0) -> None:
        self.names, self._seed = sorted(names), seed
        self.bound = {name: BoundNode(kind, None) for name, kind in gives.items()}
        self.steps: dict[str, Step] = {}
        self.edges = 0

    def add(self, unbound: UnboundNode, written: Mapping[str, Any]) -> list[Diagnostic]:
        """Bind a node, keep its steps, and return diagnostics; ``written`` is the node with secrets by name."""
        steps, bound, diagnostics = self.dry_bind(unbound, written)
        self.bound[unbound.name] = bound
        self.steps |= {step.id: step for step in steps}
        self.edges += sum(len(ids) for step in steps for ids in step.inputs.values())
        return diagnostics

    def poison(self, name: str) -> None:
        """Make a node with mistakes of its own unknown to its dependants, but for its type."""
        self.bound[name] = BoundNode(self.bound[name].gives, None)

    def dry_bind(
        self, unbound: UnboundNode, written: Mapping[str, Any]
    ) -> tuple[list[Step], BoundNode, list[Diagnostic]]:
        """Return the steps, the bound node and the diagnostics that ``add`` would give; keep nothing."""
        inputs = NodeInputs(unbound, self.names, self.bound)
        inputs.check_types()
        gives, bindings = unbound.gives or inputs.type(), inputs.bindings()
        diagnostics = list(inputs.diagnostics)
        if bindings is not None:
            rows, of_rows = member_rows(unbound, bindings)
            diagnostics += of_rows
        if diagnostics or bindings is None or gives is None:
            loose = step_params(
                unbound, unbound.items[0] if unbound.items else None, {}, Items(unbound.items), written=written
            )
            return (
                [],
                BoundNode(gives, None),
                diagnostics + [diagnostic for diagnostic in loose.diagnostics if diagnostic.path],
            )
        return self._steps(unbound, bindings, rows, gives, written)

    def _steps(
        self,
        unbound: UnboundNode,
        bindings: Mapping[str, InputBinding],
        rows: list[Item],
        gives: EdgeType,
        written: Mapping[str, Any],
    ) -> tuple[list[Step], BoundNode, list[Diagnostic]]:
        collection = bool(unbound.items) or any(binding.mapped for binding in bindings.values())
        edges = sum(
            len(binding.at(row)) if binding.rows else len(binding.shared)
            for binding in bindings.values()
            for row in rows
        )
        if len(self.steps) + len(rows) > MAX_STEPS or self.edges + edges > MAX_EDGES:
            message = (
                f"the recipe has more than {MAX_STEPS:,} steps, or {MAX_EDGES:,} inputs of steps; write a smaller one"
            )
            return [], BoundNode(gives, None), [Diagnostic((), message, at_key=True)]
        steps: list[Step] = []
        diagnostics: dict[Any, Diagnostic] = {}
        items = Items(rows)
        for row in rows:
            read = step_params(unbound, row if collection else None, bindings, items, written=written, seed=self._seed)
            for diagnostic in read.diagnostics:
                diagnostics.setdefault((diagnostic.path, diagnostic.at_key), diagnostic)
            if read.params is not None:
                step = _step(unbound, row.key if collection else None, row, bindings, read.params, gives)
                steps.append(replace(step, varying=read.varying))
        if diagnostics:
            return [], BoundNode(gives, None), list(diagnostics.values())
        members = tuple(Member(step.id, step.item, row.names) for step, row in zip(steps, rows, strict=True))
        loads = [load for step, row in zip(steps, rows, strict=True) for load in _loads(unbound, step, row)]
        return [*loads, *steps], BoundNode(gives, members, collection), []


def _step(
    unbound: UnboundNode,
    item: str | None,
    row: Item,
    bindings: Mapping[str, InputBinding],
    params: OpParams,
    gives: EdgeType,
) -> Step:
    return Step(
        id=unbound.name if item is None else f"{unbound.name}[{item}]",
        node=unbound.name,
        item=item,
        op=unbound.op,
        params=params,
        inputs={port: binding.at(row) for port, binding in bindings.items()}
        | {port: (_load_id(unbound, item, port),) for port in unbound.inputs if port not in unbound.connected},
        include=tuple(str(fill_items(glob, row.names)) for glob in unbound.include),
        exclude=tuple(str(fill_items(glob, row.names)) for glob in unbound.exclude),
        gives=gives,
        names=row.names,
    )


def _loads(unbound: UnboundNode, step: Step, row: Item) -> list[Step]:
    """Return steps that load the files which a step's ports name."""
    from lines_pipeline.ops.base import op_of
    from lines_pipeline.ops.reading import reader_of

    loads = []
    for port in (port for port in unbound.inputs if port not in unbound.connected):
        path = str(fill_items(unbound.inputs[port], row.names))
        read = reader_of(path)
        load = Step(
            id=_load_id(unbound, step.item, port),
            node=unbound.name,
            item=step.item,
            op=op_of(read),
            params=read.params,
            inputs={},
            include=(),
            exclude=(),
            gives=EdgeType.WEIGHTS,
            port=port,
        )
        loads.append(load)
    return loads


def _load_id(unbound: UnboundNode, item: str | None, port: str) -> str:
    """Name the step that loads a port's file, as no step of a node can be named."""
    return f"{unbound.name}.{port}" if item is None else f"{unbound.name}.{port}[{item}]"
