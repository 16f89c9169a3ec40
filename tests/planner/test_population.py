"""``include`` and ``exclude`` bound what a node counts: its thresholds, majorities, norms and masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline

pytestmark = pytest.mark.usefixtures("shared_store")

ATTENTION = {"include": ["*self_attn*"]}
EXPERTS = ("e1", "e2", "e3")
State = dict[str, torch.Tensor]


def _model(seed: int, spread: float) -> State:
    """Attention that moved a little beside an embedding that moved a lot."""
    generator = torch.Generator().manual_seed(seed)
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(3)]
    state = {name: torch.randn(16, 16, generator=generator) * 0.01 for name in names}
    return state | {"model.embed_tokens.weight": torch.randn(128, 16, generator=generator) * spread}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("base", *EXPERTS)):
        save_file(_model(seed, float(seed)), tmp_path / f"{name}.safetensors")
    return tmp_path


def run(folder: Path, nodes: Mapping[str, Any]) -> tuple[State, Mapping[str, Any]]:
    """The change of the base by a recipe's ``merged``, and the facts."""
    shared = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": list(EXPERTS)}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "saved": {"op": "save", "model": "merged", "path": "delta.safetensors"},
        "written": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "bounded", "nodes": {**shared, **nodes}}))
    result = lines_pipeline.run(path, out="out")
    delta, model = (load_file(file) for file in sorted(result.files))
    base = load_file(folder / "base.safetensors")
    for name, value in base.items():
        torch.testing.assert_close(model[name], value + delta.get(name, torch.zeros_like(value)))
    return delta, result.facts


def updates(folder: Path) -> list[State]:
    """The attention's part of the task vectors."""
    base, *experts = (load_file(folder / f"{name}.safetensors") for name in ("base", *EXPERTS))
    return [{name: expert[name] - base[name] for name in base if "self_attn" in name} for expert in experts]


def flat(state: State) -> torch.Tensor:
    return torch.cat([state[name].flatten() for name in sorted(state)])


def cut(vector: torch.Tensor, density: float) -> float:
    """The smallest magnitude that a trim keeps."""
    return float(vector.abs().kthvalue(len(vector) - int(len(vector) * density)).values)


def trimmed(vector: torch.Tensor, density: float) -> torch.Tensor:
    return torch.where(vector.abs() >= cut(vector, density), vector, 0.0)


def ties(vectors: list[torch.Tensor], density: float) -> torch.Tensor:
    kept = torch.stack([trimmed(vector, density) for vector in vectors])
    sign = kept.sum(0).sign()
    sign[sign == 0] = sign.sum().sign()
    agreeing = torch.where(kept.sign() == sign, kept, 0.0)
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)


def summed(vectors: Iterable[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, vectors)


def test_ties(folder: Path) -> None:
    result, facts = run(folder, {"merged": {"op": "ties", "deltas": "updates", "density": 0.2, **ATTENTION}})
    vectors = [flat(update) for update in updates(folder)]
    assert result.keys() == updates(folder)[0].keys()
    torch.testing.assert_close(flat(result), ties(vectors, 0.2))
    assert facts["merged"]["num_params"] == len(vectors[0])
    assert facts["merged"]["trim_thresholds"] == [cut(vector, 0.2) for vector in vectors]


@pytest.mark.parametrize("bounds", [ATTENTION, {"exclude": ["*embed*"]}])
def test_a_trim(bounds: Mapping[str, Any], folder: Path) -> None:
    nodes = {
        "kept": {"op": "trim", "delta": "updates", "density": 0.2, **bounds},
        "merged": {"op": "task-arithmetic", "deltas": "kept"},
    }
    result, _ = run(folder, nodes)
    torch.testing.assert_close(flat(result), sum(trimmed(flat(update), 0.2) for update in updates(folder)))


def test_masks(folder: Path) -> None:
    nodes = {
        "sum": {"op": "task-arithmetic", "deltas": "updates"},
        "kept": {"op": "magnitude-mask", "delta": "sum", "density": 0.2, **ATTENTION},
        "merged": {"op": "mask", "delta": "sum", "mask": "kept"},
    }
    result, facts = run(folder, nodes)
    total = summed(flat(update) for update in updates(folder))
    torch.testing.assert_close(flat(result), trimmed(total, 0.2))
    assert facts["kept"]["mask_density"] == [int((total.abs() >= cut(total, 0.2)).sum()) / len(total)]


def test_consensus_of_tall_masks(folder: Path) -> None:
    nodes = {
        "sum": {"op": "task-arithmetic", "deltas": "updates"},
        "masks": {"op": "tall-mask", "deltas": "updates", "merged": "sum", **ATTENTION},
        "voted": {"op": "consensus", "masks": "masks", "merged": "sum", "min_tasks": 2, **ATTENTION},
        "merged": {"op": "consensus", "deltas": "updates", "merged": "sum", "min_tasks": 2, **ATTENTION},
        "kept": {"op": "save", "model": "voted", "path": "by-masks.safetensors"},
    }
    path = folder / "recipe.yaml"
    vectors = [flat(update) for update in updates(folder)]
    total = summed(vectors)
    masks = [vector.abs() > 0.4 * (total - vector).abs() for vector in vectors]
    agreed = torch.where(summed(mask.int() for mask in masks) >= 2, total, 0.0)
    shared = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": list(EXPERTS)}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "saved": {"op": "save", "model": "merged", "path": "delta.safetensors"},
    }
    path.write_text(yaml.safe_dump({"name": "voted", "nodes": {**shared, **nodes}}))
    result = lines_pipeline.run(path, out="out")
    for file in result.files:
        torch.testing.assert_close(flat(load_file(file)), agreed)
    assert result.facts["masks"]["mask_density"] == [int(mask.sum()) / len(total) for mask in masks]


def test_alpha_is_of_what_lines_scale_keeps(folder: Path) -> None:
    scaled = {"op": "lines-scale", "delta": "mean", "deltas": "updates", "alpha": "auto", "beta": 0.5, **ATTENTION}
    nodes = {"mean": {"op": "task-arithmetic", "deltas": "updates", "reduce": "mean"}, "merged": scaled}
    result, facts = run(folder, nodes)
    vectors = updates(folder)
    total = summed(flat(vector) for vector in vectors).double()
    alpha = float(total.abs().sum() / (total / 3).abs().sum() / 3)
    assert facts["merged"]["norm_summed_tvs"] == pytest.approx(float(total.abs().sum()), rel=1e-5)
    for name, value in result.items():
        depth = int(name.split(".")[2])
        expected = sum(vector[name] for vector in vectors) / 3 * (alpha + 0.5 * depth / 2)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("op", [{"op": "soup"}, {"op": "interpolate", "weights": [0.5, 0.25, 0.25]}])
def test_averages_keep_the_first_model_elsewhere(op: Mapping[str, Any], folder: Path) -> None:
    nodes = {
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": list(EXPERTS)}},
        "model": {**op, "models": "experts", **ATTENTION},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "averaged", "nodes": nodes}))
    tensors = load_file(lines_pipeline.run(folder / "recipe.yaml", out="out").files[0])
    first, *others = (load_file(folder / f"{name}.safetensors") for name in EXPERTS)
    factors = op.get("weights", [1 / 3] * 3)
    for name, value in first.items():
        parts = [value, *(other[name] for other in others)]
        mean = sum(factor * part for factor, part in zip(factors, parts, strict=True))
        torch.testing.assert_close(tensors[name], mean if "self_attn" in name else value)
