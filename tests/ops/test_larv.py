"""``larv``: scales of blocks from the matrices of a task vector and of the base."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.ops.statistics.beside_base import EffectiveRanks, Figures, effective_rank

Recipe = Callable[..., Path]
State = dict[str, torch.Tensor]
BLOCK = "visual.transformer.resblocks.{}.mlp.c_fc.weight"


def nodes_of(delta: str = "updates[a]", **params: Any) -> dict[str, Any]:
    return {
        "scaled": {"op": "larv", "delta": delta, "base": "base", **params},
        "saved": {"op": "save", "model": "scaled", "path": "scaled.safetensors"},
        "whole": {"op": "save", "model": delta, "path": "whole.safetensors"},
    }


def scales(recipe: Recipe, **params: Any) -> dict[str, float]:
    """What each tensor of the first update is multiplied with."""
    result = lines_pipeline.run(recipe(nodes_of(**params)), out="out", cache=False, tracking=False)
    scaled, whole = (load_file(path) for path in sorted(result.files))
    ratios = {name: float((scaled[name] * value).sum() / value.square().sum()) for name, value in whole.items()}
    for name, ratio in ratios.items():
        torch.testing.assert_close(scaled[name], whole[name] * ratio, rtol=1e-5, atol=1e-8)
    return ratios


def expected_scores(models: Path, eta: float, rho: float) -> list[float]:
    """The scores of the four blocks of the first update, as the equations are written."""
    base, expert = (load_file(models / f"{name}.safetensors") for name in ("base", "a"))
    richness, conflicts = [], []
    for block in range(4):
        before = base[BLOCK.format(block)]
        update = (expert[BLOCK.format(block)] - before).double()
        before = before.double()
        shares = [torch.linalg.svdvals(one).square() / one.square().sum() for one in (before, update)]
        ranks = [float((-(share * share.log()).sum()).exp()) for share in shares]
        richness.append(ranks[0] / (ranks[1] + 1e-8))
        outer, inner = (side - side.T for side in (before @ update.T, before.T @ update))
        conflicts.append(float((outer.norm() + inner.norm()) / (2 * before.norm() * update.norm())))
    values = torch.tensor(conflicts, dtype=torch.float64)
    standing = (values - values.mean()) / values.std(correction=0)
    return [
        richness[block] ** eta * ((block + 1) / 4) ** rho / (1 + math.log1p(math.exp(standing[block])))
        for block in range(4)
    ]


@pytest.mark.parametrize(("eta", "rho"), [(1.0, 0.5), (2.0, 0.0), (0.0, 1.0)])
def test_scales_are_those_of_the_equations(eta: float, rho: float, models: Path, write_recipe: Recipe) -> None:
    found = scales(write_recipe, eta=eta, rho=rho)
    expected = [1 + 0.5 * math.tanh(3 * (score - 1)) for score in expected_scores(models, eta, rho)]
    assert [found[BLOCK.format(block)] for block in range(4)] == pytest.approx(expected, rel=1e-5)
    biases = [found[f"visual.transformer.resblocks.{block}.ln_1.bias"] for block in range(4)]
    assert biases == pytest.approx(expected, rel=1e-5)
    assert found["visual.proj"] == pytest.approx(1.0) == found["logit_scale"]


def test_tiers_go_by_the_rank_of_the_score(models: Path, write_recipe: Recipe) -> None:
    scores = expected_scores(models, 1.0, 0.5)
    found = scales(write_recipe, form="tiers", tiers=[0.5, 2.0])
    expected = [2.0 if score >= sorted(scores)[2] else 0.5 for score in scores]
    assert [found[BLOCK.format(block)] for block in range(4)] == pytest.approx(expected, rel=1e-5)


def test_an_update_without_conflict_and_as_rich_as_the_base_scales_by_depth(models: Path, write_recipe: Recipe) -> None:
    """Symmetric matrices that commute: no conflict anywhere, so that z is 0, and both effective ranks are 2."""
    base = load_file(models / "base.safetensors")
    for block in range(4):
        base[BLOCK.format(block)] = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    save_file(base, models / "base.safetensors")
    for name in "abc":
        expert = {name: value * 1.5 if value.is_floating_point() else value for name, value in base.items()}
        save_file(expert, models / f"{name}.safetensors")
    found = scales(write_recipe, rho=1.0)
    scores = [(block + 1) / 4 / (1 + math.log(2)) for block in range(4)]
    expected = [1 + 0.5 * math.tanh(3 * (score - 1)) for score in scores]
    assert [found[BLOCK.format(block)] for block in range(4)] == pytest.approx(expected, rel=1e-5)


def test_a_block_without_an_update_has_no_part_in_the_mean(models: Path, write_recipe: Recipe) -> None:
    base, expert = (load_file(models / f"{name}.safetensors") for name in ("base", "a"))
    before = scales(write_recipe)
    expert[BLOCK.format(0)] = base[BLOCK.format(0)]
    save_file(expert, models / "a.safetensors")
    result = lines_pipeline.run(write_recipe(nodes_of()), out="out", cache=False, tracking=False)
    scaled, whole = (load_file(path) for path in sorted(result.files))
    assert not scaled[BLOCK.format(0)].any()
    bias = "visual.transformer.resblocks.0.ln_1.bias"
    assert torch.equal(scaled[bias], whole[bias])
    changed = float(scaled[BLOCK.format(3)].norm() / whole[BLOCK.format(3)].norm())
    assert changed != pytest.approx(before[BLOCK.format(3)], rel=1e-4)


def test_no_update_stays_none(models: Path, write_recipe: Recipe) -> None:
    save_file(load_file(models / "base.safetensors"), models / "a.safetensors")
    result = lines_pipeline.run(write_recipe(nodes_of()), out="out", tracking=False)
    assert not any(bool(value.any()) for path in result.files for value in load_file(path).values())


def test_it_maps_over_task_vectors_and_a_plan_tells_the_scales_once_known(models: Path, write_recipe: Recipe) -> None:
    nodes = {
        "scaled": {"op": "larv", "delta": "updates", "base": "base"},
        "merged": {"op": "task-arithmetic", "deltas": "scaled"},
        "saved": {"op": "save", "model": "merged", "path": "update.safetensors"},
    }
    recipe = write_recipe(nodes)
    plan = lines_pipeline.plan(recipe, out="out")
    assert "visual block 3: by its matrices and the base's" in plan.render()
    lines_pipeline.run(recipe, out="out", tracking=False)
    told = lines_pipeline.plan(recipe, out="again").render()
    scale = 1 + 0.5 * math.tanh(3 * (expected_scores(models, 1.0, 0.5)[3] - 1))
    assert f"visual block 3: {scale:.5f}"[:-1] in told


def test_the_base_is_measured_once_for_all_task_vectors(models: Path, write_recipe: Recipe) -> None:
    nodes = {
        "scaled": {"op": "larv", "delta": "updates", "base": "base"},
        "merged": {"op": "task-arithmetic", "deltas": "scaled"},
        "saved": {"op": "save", "model": "merged", "path": "update.safetensors"},
    }
    measured: list[tuple[int, ...]] = []

    def measure(statistic: EffectiveRanks, matrix: torch.Tensor) -> float | None:
        measured.append(tuple(matrix.shape))
        return effective_rank(matrix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EffectiveRanks, "measure", measure)
        lines_pipeline.run(write_recipe(nodes), out="out", cache=False, tracking=False, scheduler="serial")
    matrices = [
        v for n, v in load_file(models / "base.safetensors").items() if v.dim() == 2 and any(map(str.isdigit, n))
    ]
    assert len(measured) == len(matrices)


def test_larger_matrices_are_put_together_from_their_blocks(models: Path, write_recipe: Recipe) -> None:
    generator = torch.Generator().manual_seed(5)
    states = {name: load_file(models / f"{name}.safetensors") for name in ("base", "a", "b", "c")}
    for state in states.values():
        for block in range(4):
            state[BLOCK.format(block)] = torch.randn(420, 330, generator=generator)
    for name, state in states.items():
        save_file(state, models / f"{name}.safetensors")
    recipe, read = write_recipe(nodes_of()), []
    for memory in (None, lines_pipeline.plan(write_recipe(nodes_of()), workers=1).peak_bytes - 10**6):
        result = lines_pipeline.run(recipe, out="out", cache=False, tracking=False, workers=1, memory=memory)
        read.append(load_file(sorted(result.files)[0])[BLOCK.format(2)])
    assert torch.equal(*read)
    update = states["a"][BLOCK.format(2)] - states["base"][BLOCK.format(2)]
    scale = 1 + 0.5 * math.tanh(3 * (expected_scores(models, 1.0, 0.5)[2] - 1))
    torch.testing.assert_close(read[0], update * scale, rtol=1e-4, atol=1e-5)


def test_figures_are_the_same_for_the_transpose_and_scale_free() -> None:
    generator = torch.Generator().manual_seed(6)
    base, update = torch.randn(2, 9, 5, generator=generator)
    figures = Figures.of(base, update)
    assert figures is not None
    assert Figures.of(base.T, update.T) == pytest.approx(figures)
    assert Figures.of(base * 4, update * 0.5) == pytest.approx(figures)
    assert Figures.of(base, torch.zeros_like(base)) is None
    assert Figures.of(base, base * 3) == pytest.approx((effective_rank(base), 0.0), abs=1e-6)
    assert effective_rank(torch.zeros(3, 2)) is None
    assert effective_rank(update) == effective_rank(update.T) == pytest.approx(figures.rank)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"form": "steps"}, "'form': expected"),
        ({"tiers": [1.0]}, "'tiers'"),
        ({"eta": -1}, "'eta'"),
        ({"blocks": r"resblocks\.\d+"}, "expected a group for the block's index"),
    ],
)
def test_mistakes_are_told(params: dict[str, Any], message: str, models: Path, write_recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=message):
        lines_pipeline.validate(write_recipe(nodes_of(**params)))
