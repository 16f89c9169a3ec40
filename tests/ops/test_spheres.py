"""SLERP and its kin, Model Stock, and the methods that take parts of another model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensors import tensor

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError, RecipeError
from lines_pipeline.ops.testing import apply_op

Recipe = Callable[..., Path]
SPHERES: dict[str, dict[str, Any]] = {
    "slerp": {"op": "slerp", "models": ["experts[a]", "experts[b]"], "t": 0.3},
    "nuslerp": {"op": "nuslerp", "models": ["experts[a]", "experts[b]"], "weights": [1, 3], "base": "base"},
    "nuslerp by rows": {"op": "nuslerp", "models": ["experts[a]", "experts[b]"], "flatten": False, "base": "base"},
    "multislerp": {"op": "multislerp", "models": "experts", "weights": [1, 3, 2]},
    "multislerp of updates": {"op": "multislerp", "models": "experts", "base": "base"},
    "karcher": {"op": "karcher", "models": "experts"},
    "model-stock": {"op": "model-stock", "models": "experts", "base": "base"},
    "model-stock by rows": {"op": "model-stock", "models": "experts", "base": "base", "filter_wise": True},
    "nearswap": {"op": "nearswap", "models": ["experts[a]"], "base": "base", "t": 0.003},
    "arcee-fusion": {"op": "arcee-fusion", "models": ["experts[a]"], "base": "base"},
}


def merged(recipe: Recipe, node: dict[str, Any], out: str, **options: Any) -> dict[str, torch.Tensor]:
    path = recipe({"model": node, "saved": {"op": "save", "model": "model", "path": "model.safetensors"}})
    tensors: dict[str, torch.Tensor] = load_file(
        lines_pipeline.run(path, out=out, cache=False, tracking=False, **options).files[0]
    )
    return tensors


@pytest.fixture
def odd_models(models: Path) -> Path:
    """Kernels, rows of one, empty and frozen tensors, bfloat16, and one of several blocks."""
    generator = torch.Generator().manual_seed(11)
    frozen = torch.randn(6, 5, generator=generator)
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        state |= {
            "conv": torch.randn(4, 3, 2, 2, generator=generator),
            "column": torch.randn(5, 1, generator=generator),
        }
        state |= {"nothing": torch.zeros(0, 3), "frozen": frozen, "one": torch.randn(1, generator=generator)}
        state |= {"half": torch.randn(9, 3, generator=generator).bfloat16(), "zero": torch.zeros(7)}
        state["wide"] = torch.randn(3, 70_001, generator=generator)
        save_file(state, models / f"{name}.safetensors")
    return models


@pytest.mark.parametrize("name", SPHERES)
def test_every_shape_and_type_comes_out_finite_and_alike(name: str, odd_models: Path, write_recipe: Recipe) -> None:
    tensors = merged(write_recipe, SPHERES[name], "one", scheduler="serial")
    again = merged(write_recipe, SPHERES[name], "two", workers=3)
    base = load_file(odd_models / "base.safetensors")
    assert tensors.keys() == base.keys()
    for key, value in tensors.items():
        assert value.dtype == base[key].dtype and value.shape == base[key].shape
        assert torch.equal(value, again[key]) and torch.isfinite(value.float()).all()
    assert torch.allclose(tensors["frozen"], base["frozen"], rtol=1e-6)
    assert torch.equal(tensors["position_ids"], base["position_ids"])


@pytest.mark.parametrize("name", SPHERES)
def test_equal_models_stay(name: str, models: Path, write_recipe: Recipe) -> None:
    base = load_file(models / "base.safetensors")
    for expert in "abc":
        save_file(base, models / f"{expert}.safetensors")
    tensors = merged(write_recipe, SPHERES[name], "out")
    assert all(torch.allclose(tensors[key], base[key], rtol=1e-5, atol=1e-9) for key in base)


RIGHT, UP = tensor(2, 0), tensor(0, 4)


def test_slerp_by_hand() -> None:
    half = apply_op("slerp", {"models": [RIGHT, UP]}, t=0.5)
    assert torch.allclose(half, (RIGHT + UP) * math.sqrt(0.5))
    assert torch.equal(apply_op("slerp", {"models": [RIGHT, UP]}, t=0.0), RIGHT)
    assert torch.allclose(apply_op("slerp", {"models": [RIGHT, UP]}, t=1.0), UP)
    near = tensor(2, 0.01)
    assert torch.equal(apply_op("slerp", {"models": [RIGHT, near]}, t=0.5), RIGHT * 0.5 + near * 0.5)
    assert torch.equal(
        apply_op("slerp", {"models": [RIGHT * 0, UP]}, t=0.25), apply_op("slerp", {"models": [RIGHT * 0, UP]}, t=0.25)
    )


def test_nuslerp_by_hand() -> None:
    third = apply_op("nuslerp", {"models": [RIGHT, UP]}, weights=[2.0, 1.0])
    assert torch.allclose(third, RIGHT * math.sin(math.pi / 3) + UP * math.sin(math.pi / 6))
    origin = tensor(1, 1)
    moved = apply_op("nuslerp", {"base": [origin], "models": [RIGHT + origin, UP + origin]}, weights=[2.0, 1.0])
    assert torch.allclose(moved, third + origin)
    line = apply_op("nuslerp", {"models": [RIGHT, RIGHT * 3]}, weights=[1.0, -1.0])
    assert torch.equal(line, RIGHT * 2)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 1), (4, 6)])
@pytest.mark.parametrize("params", [{}, {"flatten": False}, {"flatten": False, "row_wise": True}])
def test_nuslerp_of_opposite_updates_is_a_line(shape: tuple[int, ...], params: dict[str, Any]) -> None:
    """Of single numbers, such as ``logit_scale``, updates of other signs are opposite."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        update = torch.randn(shape, generator=generator)
        inputs = {"base": [torch.zeros(shape)], "models": [update, update * -1.7]}
        found = apply_op("nuslerp", inputs, weights=[0.3, 0.9], **params)
        torch.testing.assert_close(found, update * (0.25 - 1.7 * 0.75))


def test_nuslerp_takes_rows_or_columns() -> None:
    tensors, other = torch.eye(3), torch.eye(3).roll(1, 0)
    rows = apply_op("nuslerp", {"models": [tensors, other]}, weights=[1.0, 1.0], flatten=False)
    columns = apply_op("nuslerp", {"models": [tensors, other]}, weights=[1.0, 1.0], flatten=False, row_wise=True)
    assert torch.allclose(rows, (tensors + other) * math.sqrt(0.5)) and torch.allclose(rows, columns)
    tensors = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    rows = apply_op("nuslerp", {"models": [tensors, other]}, weights=[1.0, 1.0], flatten=False)
    assert torch.allclose(rows, torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)], [1.0, 0.0]]))


def test_the_mean_of_directions_by_hand() -> None:
    for op in ("multislerp", "karcher"):
        value = apply_op(op, {"models": [RIGHT, UP]})
        assert torch.allclose(value, tensor(1, 1) * 3 * math.sqrt(0.5), atol=1e-5)
        assert torch.allclose(apply_op(op, {"models": [RIGHT]}), RIGHT)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (4, 6)])
def test_directions_that_cancel_out_do_so_whatever_rounding_leaves(shape: tuple[int, ...]) -> None:
    """Of two opposite vectors: their weighted mean, and for the Karcher mean the direction of the first."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        one = torch.randn(shape, generator=generator)
        models = [one, one * -float(0.2 + torch.rand((), generator=generator))]
        mean = apply_op("multislerp", {"base": [torch.zeros(shape)], "models": models})
        torch.testing.assert_close(mean, (models[0] + models[1]) / 2)
        nearest = apply_op("karcher", {"models": models})
        torch.testing.assert_close(nearest, (models[0] - models[1]) / 2)
        three = apply_op("karcher", {"models": [*models, models[1] * 0.5]})
        torch.testing.assert_close(three, (models[1] * 1.5 - models[0]) / 3)


def test_karcher_is_no_mean_of_tangents() -> None:
    three = [tensor(1, 0, 0), tensor(0, 1, 0), tensor(0, 0.6, 0.8)]
    value = apply_op("karcher", {"models": three}, max_iter=100, tol=1e-9)
    logs = []
    for vector in three:
        cosine = float(value.double() @ vector.double())
        logs.append((vector.double() - cosine * value.double()) * math.acos(cosine) / math.sin(math.acos(cosine)))
    assert float(sum(logs).norm()) < 1e-6  # type: ignore[union-attr]
    assert not torch.allclose(value, apply_op("multislerp", {"models": three}), atol=1e-3)


def test_karcher_leaves_zero_tensors_out() -> None:
    assert torch.allclose(apply_op("karcher", {"models": [RIGHT, RIGHT * 0]}), RIGHT / 2)
    assert not apply_op("karcher", {"models": [RIGHT * 0, RIGHT * 0]}).any()


def test_directions_that_cancel_out_have_no_mean(models: Path, write_recipe: Recipe) -> None:
    assert torch.equal(apply_op("multislerp", {"models": [RIGHT, -RIGHT * 2]}), RIGHT * -0.5)
    with pytest.raises(CheckpointError, match="tensor 't': the weighted directions of the models cancel out"):
        apply_op("multislerp", {"models": [RIGHT, RIGHT, -RIGHT]}, weights=[1.0, 1.0, 2.0], normalize=False)


def test_single_numbers_whose_directions_cancel_out_have_their_mean() -> None:
    numbers = [torch.tensor(number) for number in (1.0, 2.0, -3.0, -4.0)]
    assert apply_op("multislerp", {"models": numbers}) == torch.tensor(-1.0)


def test_model_stock_by_hand() -> None:
    base = tensor(1, 1)
    models = [base + tensor(1, 0), base + tensor(0.6, 0.8)]
    share = 2 * 0.6 / 1.6
    assert torch.allclose(apply_op("model-stock", {"base": [base], "models": models}), base + share * tensor(0.8, 0.4))
    alone = apply_op("model-stock", {"base": [base], "models": [base + RIGHT, base - RIGHT]})
    assert torch.equal(alone, base)
    assert torch.equal(apply_op("model-stock", {"base": [base], "models": [base, base]}), base)


def test_model_stock_by_rows_is_model_stock_of_each_row() -> None:
    generator = torch.Generator().manual_seed(2)
    base, *models = (torch.randn(3, 5, generator=generator) for _ in range(4))
    whole = apply_op("model-stock", {"base": [base], "models": models}, filter_wise=True)
    for row in range(3):
        own = apply_op("model-stock", {"base": [base[row]], "models": [model[row] for model in models]})
        assert torch.allclose(whole[row], own, atol=1e-6)


def test_nearswap_by_hand() -> None:
    base, other = tensor(1, 1, 1, 1), tensor(1, 1.25, 2, 5)
    value = apply_op("nearswap", {"base": [base], "models": [other]}, t=0.5)
    assert torch.equal(value, tensor(1, 1.25, 1.5, 1.5))
    assert torch.equal(apply_op("nearswap", {"base": [base], "models": [other]}, t=0.0), base)


def test_arcee_fusion_takes_the_important_changes() -> None:
    base = torch.zeros(8, 4)
    other = base.clone()
    other[0] = torch.tensor([5.0, 0.0, 0.0, 0.001])
    value = apply_op("arcee-fusion", {"base": [base], "models": [other]})
    assert value[0, 0] == 5.0 and value.count_nonzero() == 2
    assert torch.equal(apply_op("arcee-fusion", {"base": [base], "models": [base]}), base)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"op": "slerp", "models": "experts", "t": 0.5}, "'models' takes two models, got 3"),
        ({"op": "slerp", "models": ["base"], "t": 0.5}, "'models' takes at least 2, found 1"),
        ({"op": "nuslerp", "models": "experts"}, "'models' takes two models, got 3"),
        ({"op": "nuslerp", "models": ["base", "experts[a]"], "row_wise": True}, "'row_wise' needs 'flatten: false'"),
        (
            {"op": "multislerp", "models": "experts", "weights": [1, 1, -2]},
            "'normalize' cannot divide by weights of sum",
        ),
        ({"op": "model-stock", "models": ["experts[a]"], "base": "base"}, "'models' takes at least 2, found 1"),
        ({"op": "nearswap", "models": "experts", "base": "base", "t": 1}, "'models' takes one model besides the base"),
        ({"op": "arcee-fusion", "models": "experts", "base": "base"}, "'models' takes one model besides the base"),
    ],
)
def test_mistakes_are_told(node: dict[str, Any], message: str, models: Path, write_recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=message):
        merged(write_recipe, node, "out")
