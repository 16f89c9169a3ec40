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
    "picks": {
        "a": {"op": "magmax", "deltas": "updates"},
        "b": {"op": "ram", "deltas": ["updates[a]", "updates[b]"], "epsilon": 0.001},
        "c": {"op": "ramplus-tl", "deltas": "updates", "epsilon": 0.002},
        "d": {"op": "sce", "deltas": "updates"},
        "merged": {"op": "task-arithmetic", "deltas": ["a", "b", "c", "d"]},
        **SAVED,
    },
    "a task at a time": {
        "tasks": {"op": "emr", "deltas": "updates"},
        "merged": {"op": "task-arithmetic", "deltas": "tasks"},
        **SAVED,
    },
    "drops": {
        "a": {"op": "trim", "delta": "updates[a]", "density": 0.4, "exact": True},
        "b": {"op": "breadcrumbs", "delta": "updates[b]", "density": 0.6, "gamma": 0.05},
        "c": {"op": "trim", "delta": "updates[c]", "deviations": 1.2},
        "merged": {
            "op": "task-arithmetic",
            "deltas": ["a", "b", "c"],
            "weights": [0.5, 0.7, 0.2],
            "sign": "sum",
            "normalize": True,
        },
        **SAVED,
    },
    "ties of mergekit": {
        "merged": {
            "op": "ties",
            "deltas": "updates",
            "density": [0.2, 0.5, 1.0],
            "weights": [0.5, 0.7, 0.2],
            "scope": "tensor",
            "exact": True,
            "zero_sign": "positive",
            "aggregate": "sum",
            "normalize": True,
        },
        **SAVED,
    },
    "ties by shares": {
        "merged": {"op": "ties", "deltas": "updates", "density": 0.5, "sign": "norm-mass"},
        **SAVED,
    },
    "ties by largest share": {
        "merged": {"op": "ties", "deltas": "updates", "density": 0.5, "sign": "norm-fraction"},
        **SAVED,
    },
    "spheres": {
        "a": {"op": "slerp", "models": ["experts[a]", "experts[b]"], "t": 0.3},
        "b": {"op": "nuslerp", "models": ["experts[a]", "experts[c]"], "base": "base"},
        "c": {"op": "model-stock", "models": "experts", "base": "base"},
        "d": {"op": "nearswap", "models": ["experts[c]"], "base": "base", "t": 0.001},
        "model": {"op": "karcher", "models": ["a", "b", "c", "d"]},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    },
    "soup": {
        "soup": {"op": "soup", "models": "experts"},
        "wise": {"op": "interpolate", "models": ["base", "soup"], "t": 0.6},
        "saved": {"op": "save", "model": "wise", "path": "model.safetensors", "dtype": "bfloat16"},
    },
}
