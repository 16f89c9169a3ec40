"""Recipes whose plans are kept as text in ``tests/planner/*.plan.txt``, over models of a fixed size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

WIDTH, BLOCKS = 256, 4
Node = Mapping[str, Any]
Nodes = Mapping[str, Node]


def write_models(folder: Path) -> None:
    """Models of 5.3 MB: ``base`` and three experts, with a configuration beside a copy of the base."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"visual.proj": (WIDTH, WIDTH), "logit_scale": ()}
    for block in range(BLOCKS):
        prefix = f"visual.transformer.resblocks.{block}"
        shapes |= {f"{prefix}.mlp.c_fc.weight": (4 * WIDTH, WIDTH), f"{prefix}.ln_1.bias": (WIDTH,)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    ids = {"position_ids": torch.arange(5)}
    save_file({**base, **ids}, folder / "base.safetensors")
    for name in "abc":
        moved = {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in base.items()}
        save_file({**moved, **ids}, folder / f"{name}.safetensors")
    (folder / "model").mkdir()
    save_file({**base, **ids}, folder / "model" / "model.safetensors")
    (folder / "model" / "config.json").write_text('{"model_type": "clip"}')


def write_recipe(folder: Path, nodes: Nodes, **top: Any) -> Path:
    """A recipe beside the models: ``nodes`` over updates of three experts."""
    shared: Nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b", "c"]}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "planned", "nodes": {**shared, **nodes}, **top}, sort_keys=False))
    return path


@dataclass(frozen=True)
class PlannedRecipe:
    """What is planned, how, and what was run before."""

    nodes: Nodes
    options: Mapping[str, Any] = field(default_factory=dict)
    before: Sequence[Nodes] = ()
    top: Mapping[str, Any] = field(default_factory=dict)


FOLDER: Node = {"op": "load", "path": "model"}
SUM: Node = {"op": "task-arithmetic", "deltas": "updates"}
TIES: Node = {"op": "ties", "deltas": "updates", "density": 0.2}
DEPTH: Node = {"op": "lines-scale", "delta": "merged", "alpha": 0.4, "beta": 0.6}
AUTO: Node = {**DEPTH, "alpha": "auto", "deltas": "updates"}


def saved(delta: str, path: str = "model.safetensors", **options: Any) -> Nodes:
    """Nodes that add a delta to the base and save the model."""
    model = {"op": "apply", "base": "base", "delta": delta}
    return {"model": model, "saved": {"op": "save", "model": "model", "path": path, **options}}


ARITHMETIC: Nodes = {"merged": SUM, "scaled": DEPTH, **saved("scaled")}
TIES_AUTO: Nodes = {"merged": TIES, "scaled": AUTO, **saved("scaled")}
ISO: Nodes = {"merged": {"op": "iso-c", "deltas": "updates"}, "scaled": DEPTH, **saved("scaled")}
TSV: Nodes = {"merged": {"op": "tsv-m", "deltas": "updates"}, **saved("merged")}
JUDGED: Nodes = {
    **ARITHMETIC,
    "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
}
TUNE = {"parameters": {"scaled.beta": {"low": 0.25, "high": 1.0, "step": 0.25}}, "objective": "val.mean_accuracy"}

RECIPES: Mapping[str, PlannedRecipe] = {
    "task-arithmetic-lines": PlannedRecipe(ARITHMETIC),
    "ties-lines-auto": PlannedRecipe(TIES_AUTO),
    "consensus": PlannedRecipe(
        {
            "sum": SUM,
            "merged": {"op": "consensus", "deltas": "updates", "merged": "sum", "threshold": 0.4, "min_tasks": 2},
            **saved("merged"),
        }
    ),
    "masks": PlannedRecipe(
        {
            "sum": SUM,
            "own": {"op": "magnitude-mask", "delta": "sum", "density": 0.5},
            "merged": {"op": "mask", "delta": "sum", "mask": "own"},
            "kept": {"op": "save", "model": "own", "path": "mask.safetensors", "packed": True},
            **saved("merged"),
        }
    ),
    "iso-c-lines": PlannedRecipe(ISO),
    "tsv-m": PlannedRecipe(TSV),
    "tsv-m-update": PlannedRecipe({**TSV, "update": {"op": "save", "model": "merged", "path": "update.safetensors"}}),
    "known-statistics": PlannedRecipe(TIES_AUTO, before=[{**TIES_AUTO, "scaled": {**AUTO, "beta": 0.3}}]),
    "cached-whole-tensors": PlannedRecipe(ISO, before=[{**ISO, "scaled": {**DEPTH, "beta": 0.3}}]),
    "unchanged-output": PlannedRecipe(ARITHMETIC, before=[ARITHMETIC]),
    "tight-memory": PlannedRecipe(TIES_AUTO, {"memory": "445MB"}),
    "tight-memory-whole-tensors": PlannedRecipe(ISO, {"memory": "450MB"}),
    "cluster": PlannedRecipe(TIES_AUTO, {"scheduler": "tcp://127.0.0.1:1"}),
    "tune": PlannedRecipe(JUDGED, top={"tune": TUNE}),
    "model-folder": PlannedRecipe(
        {**ARITHMETIC, "base": {"op": "load", "path": "model"}, **saved("scaled", "folder/")}
    ),
    "bfloat16": PlannedRecipe({"merged": TIES, **saved("merged", dtype="bfloat16")}),
}
