"""Schedules of LiNeS: the scale of every block, tables, towers, and what lies outside the blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import PlanError, RecipeError
from lines_pipeline.io.layers.ends import is_before_blocks

Recipe = Callable[..., Path]
BLOCK = "visual.transformer.resblocks.{}.mlp.c_fc.weight"


def scales(recipe: Recipe, **params: Any) -> dict[str, float]:
    """What each tensor of the first update is multiplied with."""
    nodes = {
        "scaled": {"op": "lines-scale", "delta": "updates[a]", **params},
        "saved": {"op": "save", "model": "scaled", "path": "scaled.safetensors"},
        "whole": {"op": "save", "model": "updates[a]", "path": "whole.safetensors"},
    }
    result = lines_pipeline.run(recipe(nodes), out="out", cache=False, tracking=False)
    scaled, whole = (load_file(path) for path in sorted(result.files))
    return {name: float((scaled[name] * whole[name]).sum() / whole[name].square().sum()) for name in whole}


def of_blocks(factors: dict[str, float]) -> list[float]:
    return [factors[BLOCK.format(block)] for block in range(4)]


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("linear", [0, 1 / 3, 2 / 3, 1]),
        ("quadratic", [0, 1 / 9, 4 / 9, 1]),
        ("sqrt", [0, math.sqrt(1 / 3), math.sqrt(2 / 3), 1]),
        ("cosine", [0, 0.25, 0.75, 1]),
        ("step", [0, 0, 1, 1]),
        ("deep-down", [1, 2 / 3, 1 / 3, 0]),
    ],
)
def test_schedules_by_hand(schedule: str, shares: list[float], models: Path, write_recipe: Recipe) -> None:
    factors = scales(write_recipe, schedule=schedule, alpha=0.2, beta=0.5)
    assert of_blocks(factors) == pytest.approx([0.2 + 0.5 * share for share in shares], rel=1e-4)
    assert factors["visual.proj"] == pytest.approx(0.2, rel=1e-4)
    factors = scales(write_recipe, schedule=schedule, gamma=0.25)
    assert of_blocks(factors) == pytest.approx([0.25 + 0.75 * share for share in shares], rel=1e-4)


def norms_of(models: Path) -> dict[str, float]:
    """The L1 norm of each tensor of the first update."""
    base, expert = (load_file(models / f"{name}.safetensors") for name in ("base", "a"))
    return {name: float((expert[name] - one).abs().sum()) for name, one in base.items() if one.is_floating_point()}


@pytest.mark.parametrize(
    "own", [{"alpha": 0.2, "beta": 0.5}, {"gamma": 0.25}, {"alpha": 0.2, "outside": "by-position"}]
)
def test_uniform_is_one_scale_that_leaves_as_much_as_linear(
    own: dict[str, Any], models: Path, write_recipe: Recipe
) -> None:
    norms = norms_of(models)
    linear = scales(write_recipe, schedule="linear", **own)
    mean = sum(linear[name] * norm for name, norm in norms.items()) / sum(norms.values())
    found = scales(write_recipe, schedule="uniform", **own)
    assert found == pytest.approx(dict.fromkeys(norms, mean), rel=1e-4)


def test_uniform_takes_an_automatic_alpha_and_is_told_once_norms_are_known(models: Path, write_recipe: Recipe) -> None:
    nodes = {
        "merged": {"op": "ties", "deltas": "updates", "density": 0.5},
        **{
            schedule: {
                "op": "lines-scale", "delta": "merged", "deltas": "updates",
                "schedule": schedule, "alpha": "auto", "beta": 0.5,
            }
            for schedule in ("linear", "uniform")
        },
        "one": {"op": "save", "model": "linear", "path": "linear.safetensors"},
        "other": {"op": "save", "model": "uniform", "path": "uniform.safetensors"},
    }  # fmt: skip
    recipe = write_recipe(nodes)
    assert "visual block 0: the mean of linear's scales" in lines_pipeline.plan(recipe, out="out").render()
    result = lines_pipeline.run(recipe, out="out", tracking=False)
    linear, uniform = (load_file(path) for path in sorted(result.files))
    sizes = [sum(float(value.double().abs().sum()) for value in one.values()) for one in (linear, uniform)]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)
    assert result.facts["uniform"].keys() == result.facts["linear"].keys()
    told = lines_pipeline.plan(recipe, out="again").render()
    alone = float(uniform[BLOCK.format(0)].abs().sum()) / float(linear[BLOCK.format(0)].abs().sum())
    assert f"visual block 3: {alone * result.facts['linear']['alpha']:.4f}"[:-1] in told


def test_uniform_of_no_update_is_none(models: Path, write_recipe: Recipe) -> None:
    for name in "abc":
        save_file(load_file(models / "base.safetensors"), models / f"{name}.safetensors")
    nodes = {
        "scaled": {"op": "lines-scale", "delta": "updates[a]", "schedule": "uniform", "alpha": 0.2, "beta": 0.5},
        "saved": {"op": "save", "model": "scaled", "path": "scaled.safetensors"},
    }
    result = lines_pipeline.run(write_recipe(nodes), out="out", tracking=False)
    assert not any(bool(value.any()) for value in load_file(result.files[0]).values())


def test_the_middle_of_an_odd_depth_is_deep() -> None:
    from lines_pipeline.ops.base import Place
    from lines_pipeline.ops.lines_scale import LinesScaleParams

    step = LinesScaleParams(schedule="step", alpha=0.0, beta=1.0)
    assert [step.scale(0.0, Place(block, 5)) for block in range(5)] == [0, 0, 1, 1, 1]


def test_a_table_is_the_scale_of_each_block(models: Path, write_recipe: Recipe) -> None:
    factors = scales(write_recipe, schedule="table", table=[0, 0.5, 0.25, 2], alpha=0.125)
    assert of_blocks(factors) == pytest.approx([0, 0.5, 0.25, 2], rel=1e-4)
    assert factors["visual.proj"] == pytest.approx(0.125, rel=1e-4)


def test_two_towers_take_a_table_each(models: Path, write_recipe: Recipe) -> None:
    generator = torch.Generator().manual_seed(4)
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        for block in range(4):
            state[BLOCK.format(block).removeprefix("visual.")] = torch.randn(32, 8, generator=generator)
        save_file(state, models / f"{name}.safetensors")
    tables = [[1, 2, 3, 4], [5, 6, 7, 8]]
    factors = scales(write_recipe, schedule="table", table=tables, alpha=0.5)
    text = [factors[BLOCK.format(block).removeprefix("visual.")] for block in range(4)]
    assert sorted([of_blocks(factors), text]) == [pytest.approx(row, rel=1e-4) for row in tables]
    factors = scales(write_recipe, schedule="table", table=tables[0], alpha=0.5)
    assert of_blocks(factors) == pytest.approx(tables[0], rel=1e-4)
    with pytest.raises(PlanError, match="'table' has 3 tables, expected one, or one for each tower"):
        scales(write_recipe, schedule="table", table=[*tables, [1, 2, 3, 4]], alpha=0.5)


def test_what_is_outside_may_go_with_the_nearest_block(models: Path, write_recipe: Recipe) -> None:
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        state["visual.class_embedding"] = state["visual.proj"][0] * 3
        save_file(state, models / f"{name}.safetensors")
    factors = scales(write_recipe, gamma=0.25, outside="by-position")
    assert factors["visual.class_embedding"] == pytest.approx(0.25, rel=1e-4)
    assert factors["visual.proj"] == pytest.approx(1.0, rel=1e-4)
    factors = scales(write_recipe, gamma=0.25, schedule="deep-down", outside="by-position")
    assert factors["visual.class_embedding"] == pytest.approx(1.0, rel=1e-4)
    assert factors["visual.proj"] == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("visual.conv1.weight", True),
        ("visual.ln_pre.bias", True),
        ("visual.positional_embedding", True),
        ("model.embed_tokens.weight", True),
        ("transformer.wte.weight", True),
        ("encoder.embeddings.LayerNorm.weight", True),
        ("visual.ln_post.weight", False),
        ("visual.proj", False),
        ("logit_scale", False),
        ("model.norm.weight", False),
        ("lm_head.weight", False),
        ("text_model.final_layer_norm.weight", False),
    ],
)
def test_ends_are_told_by_names(name: str, before: bool) -> None:
    assert is_before_blocks(name) == before


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"schedule": "table", "alpha": 1.0}, "'table' and 'schedule: table' go together"),
        ({"table": [1, 2], "alpha": 1.0}, "'table' and 'schedule: table' go together"),
        ({"schedule": "table", "table": [1, 2, 3, 4], "gamma": 0.5}, "it takes neither 'beta' nor 'gamma'"),
        ({"schedule": "table", "table": [1, 2, 3, 4]}, "needs 'alpha', the scale outside the blocks"),
        ({"schedule": "steep", "alpha": 1.0}, "'schedule': expected"),
    ],
)
def test_mistakes_are_told(params: dict[str, Any], message: str, models: Path, write_recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=message):
        scales(write_recipe, **params)


def test_a_table_of_another_length_is_told_by_the_plan(models: Path, write_recipe: Recipe) -> None:
    with pytest.raises(
        PlanError, match=r"'table' has 3 numbers for 'visual', expected one a block: visual has 4 blocks"
    ):
        scales(write_recipe, schedule="table", table=[1, 2, 3], alpha=1.0)


def test_a_plan_tells_the_scales(models: Path, write_recipe: Recipe) -> None:
    def planned(**params: Any) -> Any:
        nodes = {
            "scaled": {"op": "lines-scale", "delta": "updates[a]", "deltas": "updates", "alpha": "auto", **params},
            "saved": {"op": "save", "model": "scaled", "path": "scaled.safetensors"},
        }
        return lines_pipeline.plan(write_recipe(nodes)).to_dict()["lines"][0]

    assert planned(beta=0.5, schedule="quadratic")["scales"]["visual"][1] == "auto + 0.5 * 0.111111"
    factors = planned(schedule="table", table=[1, 0.5, 2, 3], outside="by-position")
    assert factors["scales"]["visual"] == ["1", "0.5", "2", "3"] and factors["outside"] == "as the nearest block"


def test_a_uniform_control_has_the_same_total_update(models: Path, write_recipe: Recipe) -> None:
    nodes = {
        "scaled": {"op": "lines-scale", "delta": "updates[a]", "gamma": 0.2},
        "control": {"op": "scale", "delta": "updates[a]", "by": "auto", "like": "scaled"},
        "lines": {"op": "save", "model": "scaled", "path": "lines.safetensors"},
        "saved": {"op": "save", "model": "control", "path": "control.safetensors"},
    }
    result = lines_pipeline.run(write_recipe(nodes), out="out", tracking=False)
    control, lines = (load_file(path) for path in sorted(result.files))
    assert sum(float(update.abs().sum()) for update in control.values()) == pytest.approx(
        sum(float(update.abs().sum()) for update in lines.values()), rel=1e-5
    )
    base, expert = (load_file(models / f"{name}.safetensors") for name in ("base", "a"))
    by = result.facts["control"]["by"]
    assert torch.allclose(control["visual.proj"], (expert["visual.proj"] - base["visual.proj"]) * by)
    nodes["control"] = {"op": "scale", "delta": "updates[a]", "by": "auto"}
    with pytest.raises(RecipeError, match="'by: auto' and 'like'"):
        lines_pipeline.run(write_recipe(nodes), out="out", tracking=False)
