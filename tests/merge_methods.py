"""Nodes of recipes that use every method, to be written with ``write_recipe``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conftest import TIES_LINES

SAVED = {
    "model": {"op": "apply", "base": "base", "delta": "merged", "scale": 0.3},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "ties, lines": TIES_LINES,
    "ties by max": {"merged": {"op": "ties", "deltas": "updates", "density": 0.3, "aggregate": "max"}, **SAVED},
    "ties by sum, a tensor at a time": {
        "merged": {"op": "ties", "deltas": "updates", "aggregate": "sum", "scope": "tensor", "weights": [1, 0.3, -2]},
        **SAVED,
    },
    "arithmetic": {"merged": {"op": "task-arithmetic", "deltas": "updates", "weights": [1.0, 0.3, -0.5]}, **SAVED},
    "mean, without a tensor": {
        "merged": {"op": "task-arithmetic", "deltas": "updates", "reduce": "mean", "exclude": ["visual.proj"]},
        **SAVED,
    },
    "consensus": {
        "sum": {"op": "task-arithmetic", "deltas": "updates"},
        "merged": {"op": "consensus", "deltas": "updates", "merged": "sum", "threshold": 0.4, "min_tasks": 2},
        **SAVED,
    },
    "masks": {
        "sum": {"op": "task-arithmetic", "deltas": "updates"},
        "masks": {"op": "tall-mask", "deltas": "updates", "merged": "sum"},
        "own": {"op": "magnitude-mask", "delta": "sum", "density": 0.5},
        "trimmed": {"op": "trim", "delta": "sum", "density": 0.7},
        "merged": {"op": "mask", "delta": "trimmed", "mask": "own"},
        "kept": {"op": "save", "model": "own", "path": "mask.safetensors", "packed": True},
        **SAVED,
    },
    "soup": {
        "soup": {"op": "soup", "models": "experts"},
        "wise": {"op": "interpolate", "models": ["base", "soup"], "t": 0.6},
        "saved": {"op": "save", "model": "wise", "path": "model.safetensors", "dtype": "bfloat16"},
    },
}
