"""``partition``: random parts of task vectors, and coefficients that are learned for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import model_weights
from layer_suite import run_recipe, write_layer_suite
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.core.tensor_specs import BLOCK_NUMEL
from lines_pipeline.ops.testing.examples import apply_op
from lines_pipeline.ops.testing.sameness import check_blocks

Recipe = Callable[..., Path]


def parts_of(delta: torch.Tensor, count: int, **params: Any) -> list[torch.Tensor]:
    return [apply_op("partition", {"delta": [delta]}, parts=count, part=part, **params) for part in range(count)]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_parts_are_disjoint_and_add_up_to_the_task_vector(count: int) -> None:
    delta = torch.arange(1.0, 6001.0).reshape(60, 100)
    parts = parts_of(delta, count)
    assert torch.equal(torch.stack(parts).sum(0), delta)
    assert torch.equal(torch.stack([part != 0 for part in parts]).sum(0), torch.ones(60, 100, dtype=torch.int64))
    shares = torch.tensor([float((part != 0).double().mean()) for part in parts])
    assert float((shares * count - 1).abs().max()) < 0.15


def test_parts_go_by_seed_alone() -> None:
    delta, other = torch.ones(40, 50), torch.full((40, 50), 3.0)
    first = parts_of(delta, 3)
    assert all(torch.equal(part * 3, again) for part, again in zip(first, parts_of(other, 3), strict=True))
    assert not torch.equal(first[0], parts_of(delta, 3, seed=1)[0])
    check_blocks("partition", parts=3, part=1)


def test_vectors_and_scalars_are_in_the_first_part() -> None:
    for delta in (torch.arange(1.0, 5.0), torch.tensor(2.0)):
        first, second = parts_of(delta, 2)
        assert torch.equal(first, delta) and not second.any()


def test_tensors_of_one_shape_are_divided_apart_whatever_the_workers(tmp_path: Path, models: Path) -> None:
    names = ("one.weight", "two.weight")
    save_file({name: torch.zeros(BLOCK_NUMEL // 100, 250) for name in names}, models / "base.safetensors")
    save_file({name: torch.ones(BLOCK_NUMEL // 100, 250) for name in names}, models / "a.safetensors")
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "expert": {"op": "load", "path": "a.safetensors"},
        "update": {"op": "task-vector", "model": "expert", "base": "base"},
        "half": {"op": "partition", "delta": "update", "parts": 2, "part": 0},
        "saved": {"op": "save", "model": "half", "path": "half.safetensors"},
    }
    path = models / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "parts", "nodes": nodes}, sort_keys=False))
    found = []
    for workers in (1, 3):
        result = lines_pipeline.run(path, out=tmp_path / str(workers), workers=workers, cache=False, tracking=False)
        found.append(load_file(result.files[0]))
    assert all(torch.equal(found[0][name], found[1][name]) for name in names)
    assert 0.4 < float((found[0]["one.weight"] == found[0]["two.weight"]).double().mean()) < 0.6


def test_a_product_gives_each_part_of_each_task_vector(models: Path, write_recipe: Recipe) -> None:
    """As ``atlas`` takes them: a coefficient for each."""
    nodes = {
        "parts": {
            "op": "partition", "delta": "updates", "parts": 3, "part": "{part}", "for_each": {"part": [0, 1, 2]},
        },
        "merged": {
            "op": "task-arithmetic",
            "deltas": "parts",
            "weights": {f"{name}/{part}": float(part) for name in "abc" for part in range(3)},
        },
        "whole": {"op": "task-arithmetic", "deltas": "parts"},
        "saved": {"op": "save", "model": "merged", "path": "merged.safetensors"},
        "kept": {"op": "save", "model": "whole", "path": "whole.safetensors"},
    }  # fmt: skip
    result = lines_pipeline.run(write_recipe(nodes), out="out", tracking=False)
    merged, whole = (load_file(path) for path in sorted(result.files))
    base = model_weights(0)
    total = torch.stack(
        [load_file(models / f"{name}.safetensors")["visual.proj"] - base["visual.proj"] for name in "abc"]
    )
    torch.testing.assert_close(whole["visual.proj"], total.sum(0))
    factors = (merged["visual.proj"] / whole["visual.proj"]).round()
    torch.testing.assert_close(merged["visual.proj"], factors * whole["visual.proj"])
    assert set(factors.reshape(-1).tolist()) == {0.0, 1.0, 2.0} and not merged["logit_scale"].any()


def test_atlas_learns_a_coefficient_for_each_part(tmp_path: Path) -> None:
    write_layer_suite(tmp_path, "line", torch.randn(6, 2, generator=torch.Generator().manual_seed(2)) + 1.0)
    save_file({"weight": torch.tensor([[1.0, -1.0], [-1.0, 1.0]])}, tmp_path / "head.safetensors")
    for number, name in enumerate(("base", "a", "b")):
        weight = torch.randn(2, 2, generator=torch.Generator().manual_seed(number))
        save_file({"weight": weight}, tmp_path / f"{name}.safetensors")
    deltas = {"deltas": "parts"}
    nodes: dict[str, Any] = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b"]}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "parts": {"op": "partition", "delta": "updates", "parts": 2, "part": "{p}", "for_each": {"p": [0, 1]}},
        "learned": {"op": "atlas", "base": "base", **deltas, "suite": "suite.yaml", "steps": 4, "select": "last"},
        "merged": {"op": "task-arithmetic", **deltas, "coefficients": "learned"},
        "table": {"op": "save", "model": "learned", "path": "table.safetensors"},
        "kept": {"op": "save", "model": "merged", "path": "merged.safetensors"},
        **{
            f"saved{number}": {"op": "save", "model": f"parts[{part}]", "path": f"part{number}.safetensors"}
            for number, part in enumerate(("a/0", "a/1", "b/0", "b/1"))
        },
    }
    result = run_recipe(tmp_path, nodes)
    found = {path.name: load_file(path)["weight"] for path in result.files}
    coefficients = found["table.safetensors"].tolist()
    assert len(coefficients) == 4 and len({round(number, 4) for number in coefficients}) > 2
    parts = [found[f"part{number}.safetensors"] for number in range(4)]
    expected = sum(number * part for number, part in zip(coefficients, parts, strict=True))
    torch.testing.assert_close(found["merged.safetensors"], expected)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"parts": 2, "part": 2}, "'part' is 2, expected one of 0 to 1"),
        ({"parts": 0, "part": 0}, "'parts'"),
        ({"parts": 2}, "'part'"),
    ],
)
def test_mistakes_are_told(params: dict[str, Any], words: str, models: Path, write_recipe: Recipe) -> None:
    nodes = {
        "half": {"op": "partition", "delta": "updates[a]", **params},
        "saved": {"op": "save", "model": "half", "path": "half.safetensors"},
    }
    with pytest.raises(RecipeError, match=words):
        lines_pipeline.validate(write_recipe(nodes))
