"""Reads one node of a recipe into op, inputs and parameters, without binding it to other nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.core.errors import PluginError, did_you_misspell
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.types import EdgeType
from lines_pipeline.recipe.binding.items import Item, fill_items, read_items
from lines_pipeline.recipe.binding.validation import MAX_DIAGNOSTICS, described, unknown_key
from lines_pipeline.recipe.schema import NODE_NAME

if TYPE_CHECKING:
    from lines_pipeline.ops import OpRegistry
    from lines_pipeline.ops.base import AnyOp

_REFERENCE = re.compile(r"([^\[\]]+)(?:\[([^\[\]]+)\])?")


@dataclass(frozen=True)
class Reference:
    """Names a node at an input, or one member of it (``experts[digits]``); ``path`` leads from the node to the text."""

    node: str
    item: str | None
    path: FieldPath


@dataclass(frozen=True)
class UnboundNode:
    """Holds a node as written: ``inputs`` names by port, ``params`` raw values, ``items`` of its own ``for_each``."""

    name: str
    op: AnyOp
    inputs: Mapping[str, str | list[str]]
    params: Mapping[str, Any]
    items: tuple[Item, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    @property
    def gives(self) -> EdgeType | None:
        """Return the type of the node's value; None where it is that of its input."""
        return self.op.gives_for(self.params)

    def references(self, port: str, names: Mapping[str, Any]) -> tuple[Reference, ...]:
        """Return the references at ``port``, with ``{item}`` filled from ``names``."""
        written, path = fill_items(self.inputs[port], names), port_path(port)
        entries: list[tuple[Any, FieldPath]] = [(written, path)]
        if isinstance(written, list):
            entries = [(entry, (*path, index)) for index, entry in enumerate(written)]
        matches = [(_REFERENCE.fullmatch(str(text).strip()), path) for text, path in entries]
        return tuple(Reference(match[1].strip(), match[2], path) for match, path in matches if match)

    @property
    def connected(self) -> tuple[str, ...]:
        """Return the ports that name nodes, of those that are given; the others name files."""
        return tuple(port for port in self.inputs if not self.op.inputs[port].is_path)

    def named(self) -> dict[str, Reference]:
        """Return every node that an input names, for any item, and where."""
        rows = [item.names for item in self.items] or [{}]
        references = [named for port in self.connected for names in rows for named in self.references(port, names)]
        return {reference.node: reference for reference in reversed(references)}


def parameter_names(op: AnyOp) -> list[str]:
    """Return the names of an op's parameters, as a recipe writes them."""
    return [field.alias or name for name, field in op.Params.model_fields.items()]


def port_path(port: str) -> FieldPath:
    """Return the path, from the node on, at which a recipe writes a port: ``baselines.expert`` lies in a map."""
    return tuple(port.split("."))


def takes_globs(op: AnyOp) -> bool:
    """Return whether a node may have ``include`` and ``exclude``: its op makes weights, a delta or a mask of others."""
    return bool(op.inputs) and op.gives in (EdgeType.WEIGHTS, EdgeType.DELTA, EdgeType.MASK)


def fields_of(op: AnyOp) -> list[str]:
    """Return every key that a node of this op may have."""
    globs = ["include", "exclude"] if takes_globs(op) else []
    inputs = dict.fromkeys(str(port_path(port)[0]) for port in op.inputs)
    return ["op", "for_each", *inputs, *parameter_names(op), *globs]


def unbound_node(
    name: str, fields: Mapping[str, Any], ops: OpRegistry, unseen: str = ""
) -> tuple[UnboundNode | None, list[Diagnostic]]:
    """Return the node, or None where its op is unknown; diagnostics by path from the node on.

    ``unseen`` says why the recipe's plug-ins, which may have more ops, were not run.
    """
    diagnostics = _name_diagnostics(name)
    items: tuple[Item, ...] = ()
    if "for_each" in fields:
        items, of_items = read_items(fields["for_each"])
        diagnostics += [diagnostic.below("for_each") for diagnostic in of_items]
    op, of_op = _find_op(fields, ops, unseen)
    diagnostics += of_op
    if op is None:
        return None, diagnostics
    known = fields_of(op)
    unknown = [key for key in fields if key not in known]
    diagnostics += [_unknown(op, key, known, ops) for key in unknown[:MAX_DIAGNOSTICS]]
    inputs, of_inputs = _inputs(op, fields)
    globs = {key: _globs(fields.get(key, []), key, diagnostics) for key in ("include", "exclude") if takes_globs(op)}
    params = {key: fields[key] for key in parameter_names(op) if key in fields}
    if op.needs_include and not fields.get("include"):
        message = f"'include' is missing: the patterns of the tensors that '{op.name}' takes"
        diagnostics.append(Diagnostic((), message, at_key=True))
    unbound = UnboundNode(name, op, inputs, params, items, globs.get("include", ()), globs.get("exclude", ()))
    return unbound, diagnostics + of_inputs


def _name_diagnostics(name: str) -> list[Diagnostic]:
    if NODE_NAME.fullmatch(name):
        return []
    return [Diagnostic((), "expected a name of letters, digits, '-' and '_' that starts with a letter", at_key=True)]


def _unknown(op: AnyOp, key: str, known: list[str], ops: OpRegistry) -> Diagnostic:
    if key in op.former_fields:
        return Diagnostic((key,), op.former_fields[key], at_key=True)
    if key in ("include", "exclude"):
        message = f"'{key}' is for ops that make weights, a delta or a mask, '{op.name}' does not"
        return Diagnostic((key,), message, at_key=True)
    owners = [name for name, candidate in ops.at_hand.items() if key in fields_of(candidate)]
    hint = f"; '{key}' is a key of '{owners[0]}'" if len(owners) == 1 else ""
    return Diagnostic((key,), unknown_key(key, known) + hint, at_key=True)


def _find_op(fields: Mapping[str, Any], ops: OpRegistry, unseen: str) -> tuple[AnyOp | None, list[Diagnostic]]:
    if "op" not in fields:
        return None, [Diagnostic((), f"'op' is missing; expected one of: {', '.join(ops)}", at_key=True)]
    written = fields["op"]
    if not isinstance(written, str):
        return None, [Diagnostic(("op",), f"expected the name of an op, found {described(written)}")]
    if written.lower() not in ops and unseen:
        message = (
            f"unknown op '{shortened(written)}': if it comes from the recipe's plug-ins, these may not run: {unseen}"
        )
        return None, [Diagnostic(("op",), message)]
    if written.lower() not in ops:
        near = did_you_misspell(written.lower().replace("_", "-"), ops)
        return None, [
            Diagnostic(("op",), f"unknown op '{shortened(written)}'{near}; expected one of: {', '.join(ops)}")
        ]
    try:
        return ops[written.lower()], []
    except PluginError as error:
        return None, [Diagnostic(("op",), str(error))]


def _inputs(op: AnyOp, fields: Mapping[str, Any]) -> tuple[dict[str, str | list[str]], list[Diagnostic]]:
    inputs: dict[str, str | list[str]] = {}
    given, diagnostics = _given_ports(op, fields)
    for port_name, port in op.inputs.items():
        takes = "name of a node or a list of such" if port.many or port.each else "name of a node"
        takes = "path of a file" if port.is_path else takes
        if port_name not in given:
            if not port.optional:
                diagnostics.append(Diagnostic((), f"'{port_name}' is missing, expected the {takes}", at_key=True))
            continue
        of_port = list(_input_diagnostics(port_path(port_name), given[port_name], takes, port.many or port.each))
        diagnostics += of_port
        if not of_port:
            inputs[port_name] = given[port_name]
    return inputs, diagnostics


def _given_ports(op: AnyOp, fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[Diagnostic]]:
    """Return what a node gives its ports: by field, and by the keys of fields that are maps of ports."""
    given: dict[str, Any] = {}
    diagnostics: list[Diagnostic] = []
    keys: dict[str, list[str]] = {}
    for port in op.inputs:
        field, _, key = port.partition(".")
        keys.setdefault(field, []).extend([key] if key else [])
    for field, known in keys.items():
        if field not in fields:
            continue
        value = fields[field]
        if not known:
            given[field] = value
        elif not isinstance(value, Mapping) or not value:
            message = f"expected a map from {' or '.join(known)} to nodes, found {described(value)}"
            diagnostics.append(Diagnostic((field,), message))
        else:
            diagnostics += [
                Diagnostic((field, key), unknown_key(key, known), at_key=True) for key in value if key not in known
            ]
            given |= {f"{field}.{key}": value[key] for key in known if key in value}
    return given, diagnostics


def _input_diagnostics(path: FieldPath, value: Any, takes: str, lists: bool) -> list[Diagnostic]:
    if isinstance(value, list) and lists and value:
        return [
            diagnostic
            for index, entry in enumerate(value)
            for diagnostic in _name_diagnostic((*path, index), entry, takes)
        ]
    if isinstance(value, list) and lists:
        return [Diagnostic(path, f"expected the {takes}, found an empty list")]
    return _name_diagnostic(path, value, takes)


def _name_diagnostic(path: FieldPath, value: Any, takes: str) -> list[Diagnostic]:
    if isinstance(value, str) and (_REFERENCE.fullmatch(value.strip()) or (takes.startswith("path") and value)):
        return []
    return [Diagnostic(path, f"expected the {takes}, found {described(value)}")]


def _globs(value: Any, key: str, diagnostics: list[Diagnostic]) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(entry, str) and entry for entry in value):
        return tuple(value)
    diagnostics.append(Diagnostic((key,), f"expected a list of patterns such as ['*.bias'], found {described(value)}"))
    return ()
