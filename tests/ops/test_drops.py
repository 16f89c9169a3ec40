"""DARE, DELLA, Breadcrumbs and exact trims: what is dropped, and that only names and seeds decide it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tensors import tensor

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError, RecipeError
from lines_pipeline.ops.draws import drawn
from lines_pipeline.ops.testing import apply_op
from lines_pipeline.planner import tasks

Recipe = Callable[..., Path]
SAVED = {"saved": {"op": "save", "model": "merged", "path": "merged.safetensors"}}
DROPS: dict[str, dict[str, Any]] = {
    "dare": {"op": "dare", "density": 0.4},
    "dare, l1": {"op": "dare", "density": 0.4, "rescale": "l1"},
    "della": {"op": "della", "density": 0.5, "rescale": "probability"},
    "della, l1": {"op": "della", "density": 0.5, "rescale": "l1"},
    "breadcrumbs": {"op": "breadcrumbs", "density": 0.5, "gamma": 0.1, "rescale": "l1"},
    "exact trim": {"op": "trim", "density": 0.3, "exact": True},
    "trim by norm": {"op": "trim", "norm_fraction": 0.8},
    "trim by deviations": {"op": "trim", "deviations": 1.5, "scope": "tensor"},
}


def dropped(recipe: Recipe, node: dict[str, Any], out: str, **options: Any) -> dict[str, torch.Tensor]:
    nodes = {"dropped": {**node, "delta": "updates"}, "merged": {"op": "task-arithmetic", "deltas": "dropped"}, **SAVED}
    path = recipe(nodes, **options.pop("top", {}))
    tensors: dict[str, torch.Tensor] = load_file(
        lines_pipeline.run(path, out=out, cache=False, tracking=False, **options).files[0]
    )
    return tensors


@pytest.fixture
def wide_models(models: Path) -> Path:
    """Tensors of several blocks, with many equal magnitudes."""
    generator = torch.Generator().manual_seed(7)
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        state["nothing"] = torch.zeros(0, 3)
        state["wide.weight"] = torch.randint(-9, 9, (5, 70_001), generator=generator) / 16.0
        save_file(state, models / f"{name}.safetensors")
    return models


@pytest.mark.parametrize("name", DROPS)
def test_workers_blocks_and_order_mean_nothing(
    name: str, wide_models: Path, write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dropped(write_recipe, DROPS[name], "one", scheduler="serial")
    monkeypatch.setattr(tasks, "MIN_TASK_BYTES", 2**19)
    monkeypatch.setattr(tasks, "MAX_TASK_BYTES", 2**19)
    tensors = dropped(write_recipe, DROPS[name], "two", workers=3)
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)
    assert any(bool((expected[key] == 0).any()) for key in expected)


def test_seed_expert_and_tensor_give_different_draws(models: Path, write_recipe: Recipe) -> None:
    first = dropped(write_recipe, DROPS["dare"], "one", top={"seed": 1})
    same = dropped(write_recipe, {**DROPS["dare"], "seed": 1}, "two", top={"seed": 9})
    other = dropped(write_recipe, DROPS["dare"], "three", top={"seed": 2})
    name = "visual.proj"
    assert torch.equal(first[name], same[name]) and not torch.equal(first[name], other[name])
    draws = [drawn(0, expert, tensor, 0, 64) for expert in "ab" for tensor in ("t", "u")]
    assert len({draw.tobytes() for draw in draws}) == len(draws)


@pytest.mark.parametrize(("position", "count"), [(0, 1), (3, 9), (8, 8), (131_072, 100), (131_071, 5)])
def test_draws_are_counted_from_the_start_of_the_tensor(position: int, count: int) -> None:
    whole = drawn(5, "x", "t", 0, position + count)
    assert np.array_equal(drawn(5, "x", "t", position, count), whole[position:])
    assert whole.dtype == np.float32 and whole.min() >= 0.0 and whole.max() < 1.0


def test_the_draws_are_these() -> None:
    assert drawn(0, "a", "t", 0, 4).tolist() == DRAWN


DRAWN = [0.9745055437088013, 0.4274153709411621, 0.13409465551376343, 0.48266565799713135]


def test_dare_keeps_the_expectation() -> None:
    delta = torch.ones(100_000)
    value = apply_op("dare", {"delta": [delta]}, density=0.25)
    assert set(value.tolist()) == {0.0, 4.0}
    assert abs(float(value.mean()) - 1.0) < 0.02


@pytest.mark.parametrize("op", ["dare", "della"])
@pytest.mark.parametrize("rescale", ["density", "l1", "none"])
def test_all_or_nothing(op: str, rescale: str) -> None:
    delta = tensor(1, -2, 0, 4)
    assert torch.equal(apply_op(op, {"delta": [delta]}, density=1.0, rescale=rescale), delta)
    assert not apply_op(op, {"delta": [delta]}, density=0.0, rescale=rescale).any()


@pytest.mark.parametrize("op", ["dare", "della", "breadcrumbs"])
def test_l1_norms_are_restored(op: str) -> None:
    delta = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    value = apply_op(op, {"delta": [delta]}, density=0.5, rescale="l1")
    assert value.abs().sum() == pytest.approx(float(delta.abs().sum()), rel=1e-5)
    assert (value == 0).any()


def test_della_keeps_large_entries_more_often() -> None:
    delta = torch.arange(1.0, 2001.0).repeat(200, 1)
    value = apply_op("della", {"delta": [delta]}, density=0.5, epsilon=0.4, rescale="none") != 0
    shares = value.float().mean(0)
    assert shares[:100].mean() == pytest.approx(0.12, abs=0.02) and shares[-100:].mean() == pytest.approx(
        0.88, abs=0.02
    )


def test_della_divides_by_each_probability() -> None:
    delta = torch.arange(1.0, 6.0).repeat(400, 1)
    value = apply_op("della", {"delta": [delta]}, density=0.5, epsilon=0.4, rescale="probability")
    for column, probability in enumerate((0.1, 0.3, 0.5, 0.7, 0.9)):
        kept = value[:, column][value[:, column] != 0]
        assert torch.allclose(kept, torch.tensor((column + 1) / probability))


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (1, 5), (2, 3, 2, 2)])
@pytest.mark.parametrize("op", ["dare", "della", "breadcrumbs"])
@pytest.mark.parametrize("rescale", ["density", "l1", "none"])
def test_no_shape_gives_anything_but_numbers(op: str, rescale: str, shape: tuple[int, ...]) -> None:
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for update in (delta, delta * 0.0):
        value = apply_op(op, {"delta": [update]}, density=0.5, rescale=rescale)
        assert value.shape == update.shape and torch.isfinite(value).all()
        assert not value[update == 0].any()


def test_della_needs_probabilities(models: Path, write_recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"'density' 0\.9 plus or minus 'epsilon' 0\.15 has to lie within 0 and 1"):
        dropped(write_recipe, {"op": "della", "density": 0.9}, "out")


def test_a_draw_of_others_is_replayed(models: Path, write_recipe: Recipe) -> None:
    base = load_file(models / "base.safetensors")
    for name in "abc":
        numbers = {key: torch.full(value.shape, 0.3 if name == "b" else 0.7) for key, value in base.items()}
        save_file(numbers, models / f"draw_{name}.safetensors")
    tensors = dropped(
        write_recipe, {"op": "dare", "density": 0.5, "rescale": "none", "uniforms": "draw_{e}.safetensors"}, "o"
    )
    expert = load_file(models / "b.safetensors")
    assert torch.equal(tensors["visual.proj"], expert["visual.proj"] - base["visual.proj"])


def test_a_draw_has_to_have_all_tensors(models: Path, write_recipe: Recipe) -> None:
    save_file({"visual.proj": torch.zeros(8, 8)}, models / "draw.safetensors")
    node = {"op": "dare", "density": 0.5, "uniforms": "draw.safetensors"}
    with pytest.raises(CheckpointError, match=r"draw\.safetensors, named by 'uniforms', lacks tensors"):
        dropped(write_recipe, node, "out")
    with pytest.raises(CheckpointError, match=r"'dropped'.*nothing"):
        dropped(write_recipe, {**node, "uniforms": "nothing.safetensors"}, "out")


@pytest.mark.parametrize(
    ("density", "gamma", "expected"),
    [
        (0.5, 0.25, tensor(0, 0, 0, -4, 5, -6, 7, 8, 0, 0)),
        (0.4, 0.0, tensor(0, 0, 0, 0, 0, 0, 7, 8, -9, 10)),
        (0.9, 0.5, tensor(1, 2, 3, -4, 5, -6, 7, 8, -9, 0)),
        (1.0, 0.5, tensor(1, 2, 3, -4, 5, -6, 7, 8, -9, 10)),
        (0.05, 0.0, torch.zeros(10)),
    ],
)
def test_breadcrumbs_by_hand(density: float, gamma: float, expected: torch.Tensor) -> None:
    delta = tensor(1, 2, 3, -4, 5, -6, 7, 8, -9, 10)
    assert torch.equal(apply_op("breadcrumbs", {"delta": [delta]}, density=density, gamma=gamma), expected)


grid = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=40).map(torch.tensor)


@settings(deadline=None)
@given(grid, st.floats(0.01, 0.99))
def test_an_exact_trim_keeps_just_so_many(delta: torch.Tensor, density: float) -> None:
    value = apply_op("trim", {"delta": [delta]}, density=density, exact=True)
    count = max(1, int(density * delta.numel()))
    assert int((value != 0).sum()) == min(count, int((delta != 0).sum()))
    dropped = delta[(value == 0) & (delta != 0)].abs()
    if dropped.numel():
        assert value[value != 0].abs().min() >= dropped.max()


@settings(deadline=None)
@given(grid, st.floats(0.01, 0.99), st.floats(0.0, 0.5))
def test_breadcrumbs_keeps_just_so_many(delta: torch.Tensor, density: float, gamma: float) -> None:
    moved = delta + torch.sign(delta + 0.5) * 0.5  # no zeros, and as many equal magnitudes
    value = apply_op("breadcrumbs", {"delta": [moved]}, density=density, gamma=gamma)
    assert int((value != 0).sum()) == int(density * delta.numel())


def test_a_trim_by_norm_keeps_the_share_and_the_last_entry() -> None:
    delta = tensor(3, 4, 0, 1, -12, 0.5)
    assert torch.equal(apply_op("trim", {"delta": [delta]}, norm_fraction=0.9), tensor(0, 4, 0, 0, -12, 0.5))
    assert torch.equal(apply_op("trim", {"delta": [delta * 0]}, norm_fraction=0.9), delta * 0)


def test_a_trim_by_deviations_keeps_what_is_far_from_the_mean() -> None:
    delta = tensor(1, 1, 1, 9)
    mean, deviation = 3.0, 4.0
    kept = apply_op("trim", {"delta": [delta]}, deviations=1.4)
    assert torch.equal(kept, tensor(0, 0, 0, 9)) and (9 - mean) / deviation > 1.4
    assert not apply_op("trim", {"delta": [delta * 0]}, deviations=0.0).any()


def test_a_trim_takes_one_measure(models: Path, write_recipe: Recipe) -> None:
    for node in ({"op": "trim"}, {"op": "trim", "density": 0.5, "deviations": 1.0}):
        with pytest.raises(RecipeError, match="needs exactly one of 'density', 'norm_fraction' and 'deviations'"):
            dropped(write_recipe, node, "out")


def test_a_norm_fraction_agrees_with_a_sort() -> None:
    delta = torch.randn(300_000, generator=torch.Generator().manual_seed(3))
    value = apply_op("trim", {"delta": [delta]}, norm_fraction=0.6)
    squares = delta.double().square().sort(descending=True).values
    count = int((squares.cumsum(0) < 0.6 * squares.sum()).sum()) + 1
    assert int((value != 0).sum()) in (count, count + 1)
    assert math.isclose(float(value.double().square().sum()), 0.6 * float(squares.sum()), rel_tol=1e-4)
