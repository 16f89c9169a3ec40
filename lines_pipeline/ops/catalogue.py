"""Describes the ops, for ``lines-pipeline ops`` and the documentation."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic.fields import FieldInfo

from lines_pipeline.ops import registry
from lines_pipeline.ops.base import AnyOp


def _default(op: AnyOp, name: str, field: FieldInfo) -> Any:
    """Return a parameter's default; of one that takes a number by item, the number."""
    value = field.get_default(call_default_factory=True)
    return value[0] if name in op.per_item and isinstance(value, tuple) and len(value) == 1 else value


_ANY = "weights, delta, mask, statistics or coefficients"
"""What a port of no one type takes."""


def describe_ops() -> list[dict[str, Any]]:
    """Name, summary, formula, inputs, parameters (with defaults) and source of every op."""
    return [
        {
            "name": name,
            "summary": " ".join((inspect.getdoc(op) or "").split()),
            "formula": op.formula,
            "source": op.source,
            "plugin": str(op.origin or ""),
            "gives": op.gives.value if op.gives else "the same",
            "inputs": {
                port_name: {
                    "type": "path" if port.is_path else port.type.value if port.type else _ANY,
                    "many": port.many or port.each,
                    "optional": port.optional,
                }
                for port_name, port in op.inputs.items()
            },
            "params": [
                {
                    "name": field.alias or key,
                    "default": None if field.is_required() else _default(op, key, field),
                    "required": field.is_required(),
                    "description": field.description or "",
                }
                for key, field in type(op).Params.model_fields.items()
            ],
        }
        for name, op in registry().items()
    ]
