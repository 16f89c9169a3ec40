"""Makes the JSON Schema of recipes (draft 2020-12) for editors: one variant of a node for each op."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lines_pipeline.recipe.binding.nodes import parameter_names, takes_globs
from lines_pipeline.recipe.schema import NODE_NAME, Engine, Settings, Space, Tracking, Tune

if TYPE_CHECKING:
    from lines_pipeline.ops.base import AnyOp, Port

_FILLED = {"$ref": "#/$defs/filled"}
_BOUND: Mapping[str, Any] = {"anyOf": [{"type": "number"}, _FILLED]}
_RANGE: Mapping[str, Any] = {
    "type": "object",
    "description": "Exact decimals from low to high, both included.",
    "properties": {"low": _BOUND, "high": _BOUND, "step": _BOUND},
    "required": ["low", "high", "step"],
    "additionalProperties": False,
}
_NAME_OF_NODE = {"type": "string", "minLength": 1, "description": "A node, or a member of it: experts[digits]."}
_DEFINITIONS: Mapping[str, Any] = {
    "filled": {
        "type": "string",
        "pattern": r"\$\{[^{}]+\}|\{[A-Za-z_][A-Za-z0-9_]*\}",
        "description": "Filled in from vars, from the environment (${env:NAME}), or by the items of for_each.",
    },
    "for_each": {
        "type": "object",
        "description": "Makes the node a collection: one member an item, {name} filled into its texts.",
        "minProperties": 1,
        "additionalProperties": {
            "anyOf": [
                {"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean"]}},
                _RANGE,
                _FILLED,
            ]
        },
    },
    "varying": {
        "description": "Numbers by tensor: by_name, the first glob that matches counts, or by_block, first to last.",
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {
            "by_name": {"type": "object", "minProperties": 1, "additionalProperties": _BOUND},
            "by_block": {"anyOf": [{"type": "array", "minItems": 2, "items": _BOUND}, _FILLED]},
        },
        "additionalProperties": False,
    },
    "globs": {"type": "array", "items": {"type": "string", "minLength": 1}},
}


def json_schema() -> dict[str, Any]:
    """Return the schema; it accepts every recipe that loads, and ``${...}`` wherever a value may be filled in."""
    from lines_pipeline.ops import registry

    ops = registry()
    definitions: dict[str, Any] = dict(_DEFINITIONS)
    for section in (Engine, Tracking, Tune, Space):
        definitions[section.__name__.lower()] = _section(section, definitions)
    for name, op in ops.items():
        definitions[f"op-{name}"] = _node(op, definitions)
    variants = [{"$ref": f"#/$defs/op-{name}"} for name in ops]
    properties = _section(Settings, definitions)["properties"]
    properties["extends"] = {"type": "string", "minLength": 1, "description": "A recipe that this one is laid over."}
    properties["nodes"] = {
        "type": "object",
        "propertyNames": {"pattern": f"^{NODE_NAME.pattern}$"},
        "additionalProperties": {"$ref": "#/$defs/node"},
    }
    definitions["node"] = {"type": "object", "if": {"required": ["op"]}, "then": {"oneOf": variants}}
    definitions["complete-node"] = {"required": ["op"], "allOf": [_completeness(op) for op in ops.values()]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of lines-pipeline",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "if": {"required": ["extends"]},
        "else": {
            "required": ["name", "nodes"],
            "properties": {"nodes": {"additionalProperties": {"$ref": "#/$defs/complete-node"}}},
        },
        "$defs": definitions,
    }


def _section(model: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    section = _relocated(model.model_json_schema(ref_template="#/$defs/{model}"), definitions)
    properties = {name: _fillable(inside) for name, inside in section.get("properties", {}).items()}
    return {**section, "properties": properties}


def _relocated(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without titles, its own definitions moved to the common ones (in lower case)."""
    for name, inside in schema.pop("$defs", {}).items():
        definitions.setdefault(name.lower(), _section_of(inside))
    moved = _clean(schema)
    assert isinstance(moved, dict)
    return moved


def _section_of(schema: dict[str, Any]) -> Any:
    cleaned = _clean(schema)
    properties = {name: _fillable(inside) for name, inside in cleaned.get("properties", {}).items()}
    return {**cleaned, "properties": properties} if properties else cleaned


def _clean(value: Any, under_properties: bool = False) -> Any:
    if isinstance(value, dict):
        kept = {key: inside for key, inside in value.items() if under_properties or key != "title"}
        return {key: _clean(inside, key == "properties") for key, inside in kept.items()}
    if isinstance(value, list):
        return [_clean(inside) for inside in value]
    if isinstance(value, str) and value.startswith("#/$defs/"):
        return value.lower()
    return value


def _fillable(schema: Any) -> Any:
    """Return a schema that also takes a text to be filled in."""
    if not isinstance(schema, dict) or (
        schema.get("type") == "string" and not {"enum", "const", "pattern"} & set(schema)
    ):
        return schema
    described = {key: schema[key] for key in ("description", "default") if key in schema}
    inner = {key: inside for key, inside in schema.items() if key not in described}
    return {**described, "anyOf": [*inner.get("anyOf", [inner]), _FILLED]} if inner else schema


def _node(op: AnyOp, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _relocated(op.Params.model_json_schema(ref_template="#/$defs/{model}"), definitions)
    given = schema.get("properties", {})
    params = {name: _parameter(op, name, given[name]) for name in parameter_names(op)}
    globs = {key: {"$ref": "#/$defs/globs"} for key in ("include", "exclude") if takes_globs(op)}
    ports = _ports(op.inputs)
    return {
        "type": "object",
        "description": f"{' '.join((op.__doc__ or '').split())} {op.formula}",
        "properties": {
            "op": _op_name(op),
            "for_each": {"$ref": "#/$defs/for_each"},
            **ports,
            **params,
            **globs,
        },
        "required": ["op"],
        "additionalProperties": False,
    }


def _op_name(op: AnyOp) -> dict[str, Any]:
    """Return the schema of the op's name, which editors complete, in any case."""
    letters = "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in op.name)
    return {"type": "string", "anyOf": [{"const": op.name}, {"pattern": f"^{letters}$"}]}


def _completeness(op: AnyOp) -> dict[str, Any]:
    """Return the requirements of a node that no other recipe can supply."""
    ports = [name for name, port in op.inputs.items() if not port.optional]
    params = [field.alias or name for name, field in op.Params.model_fields.items() if field.is_required()]
    globs = ["include"] if op.needs_include else []
    return {"if": {"properties": {"op": _op_name(op)}}, "then": {"required": [*ports, *params, *globs]}}


def _ports(inputs: Mapping[str, Port]) -> dict[str, Any]:
    """Return the schemas of ports by field; those such as ``baselines.expert`` are the properties of one map."""
    ports: dict[str, Any] = {}
    for name, port in inputs.items():
        field, _, key = name.partition(".")
        if key:
            nested = ports.setdefault(field, {"type": "object", "properties": {}, "additionalProperties": False})
            nested["properties"][key] = _port(port)
        else:
            ports[field] = _port(port)
    return ports


def _port(port: Port) -> dict[str, Any]:
    kind = f"Takes {port.type or 'weights, delta, mask, statistics or coefficients'}."
    if port.is_path:
        return {"description": "Names a file.", "type": "string", "minLength": 1}
    if not (port.many or port.each):
        return {**_NAME_OF_NODE, "description": kind}
    several = {"type": "array", "minItems": 1, "items": _NAME_OF_NODE}
    return {"description": kind, "anyOf": [_NAME_OF_NODE, several]}


def _parameter(op: AnyOp, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter: its own, a text to be filled in, or a map by item."""
    filled = _fillable(schema)
    described = {key: filled[key] for key in ("description",) if key in filled}
    inner = {key: inside for key, inside in filled.items() if key not in ("description", "default")}
    choices = inner.get("anyOf", [inner])
    if name in op.per_item:
        number = next((choice["items"] for choice in choices if "items" in choice), {"type": "number"})
        entry = {"anyOf": [number, _FILLED, {"$ref": "#/$defs/varying"}]}
        choices = [number, {"type": "array", "items": entry}, _FILLED]
    return {**described, "anyOf": [*choices, {"type": "object", "minProperties": 1}]}
