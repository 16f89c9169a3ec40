"""Describes the ops, for ``lines-pipeline ops`` and the documentation."""

from __future__ import annotations

import inspect
from typing import Any

from lines_pipeline.ops import registry


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
                port: {
                    "type": what.type.value if what.type else "weights, delta, mask or statistics",
                    "many": what.many or what.each,
                    "optional": what.optional,
                }
                for port, what in op.inputs.items()
            },
            "params": [
                {
                    "name": field.alias or key,
                    "default": None if field.is_required() else field.get_default(call_default_factory=True),
                    "required": field.is_required(),
                    "description": field.description or "",
                }
                for key, field in type(op).Params.model_fields.items()
            ],
        }
        for name, op in registry().items()
    ]
