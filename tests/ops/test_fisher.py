"""``fisher``: each entry weighted by its Fisher information, which files hold as statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from layer_suite import given
from safetensors import safe_open
from safetensors.torch import load_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError

State = dict[str, torch.Tensor]
Node = dict[str, Any]


def recipe_of(folder: Path, nodes: dict[str, Node]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "fisher", "nodes": nodes}, sort_keys=False))
    return path


def nodes_for(folder: Path, models: list[State], measured: list[State], **params: Any) -> dict[str, Node]:
    """The nodes that merge models by what was measured of them, after their files are written."""
    return {
        **given(folder, models, measured),
        "merged": {"op": "fisher", "models": "models", "statistics": "measured", **params},
        "saved": {"op": "save", "model": "merged", "path": "merged.safetensors"},
    }


def merge(folder: Path, models: list[State], measured: list[State], **params: Any) -> State:
    recipe = recipe_of(folder, nodes_for(folder, models, measured, **params))
    result = lines_pipeline.run(recipe, out=folder / "out", tracking=False)
    tensors: State = load_file(result.files[0])
    return tensors


def one(*values: float) -> State:
    return {"w": torch.tensor(values)}


def test_entries_are_weighted_by_their_share_of_the_information(tmp_path: Path) -> None:
    models, measured = [one(1.0, 2.0), one(5.0, 10.0)], [one(3.0, 4.0), one(0.0, 2.0)]
    plain = merge(tmp_path, models, measured, normalize=False)
    assert plain["w"].tolist() == [1.0, pytest.approx((4 * 2 + 2 * 10) / 6)]
    normalized = merge(tmp_path, models, measured)  # norms 5 and 2
    assert normalized["w"].tolist() == [1.0, pytest.approx((0.8 * 2 + 1.0 * 10) / 1.8)]
    weighted = merge(tmp_path, models, measured, weights=[1.0, 3.0])
    assert weighted["w"].tolist() == [1.0, pytest.approx((0.8 * 2 + 3.0 * 10) / 3.8)]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, 1.0),
        ({"floor_on": "all"}, 3.0),
        ({"floor_on": "all", "floor_kind": "add"}, 3.0),
        ({"floor": 0.0}, 3.0),
        ({"floor": 0.0, "floor_kind": "add"}, 3.0),
        ({"weights": [0.0, 1.0]}, 3.0),
    ],
)
def test_what_nothing_is_known_of_takes_the_first_or_the_mean(
    params: dict[str, Any], expected: float, tmp_path: Path
) -> None:
    models = [one(1.0, 8.0), one(5.0, 8.0)]
    assert merge(tmp_path, models, [one(0.0, 1.0), one(0.0, 1.0)], **params)["w"].tolist() == [expected, 8.0]
    assert merge(tmp_path, models, [one(0.0, 0.0), one(0.0, 0.0)], **params)["w"].tolist() == [expected, 8.0]


def test_equal_information_gives_the_mean_whatever_its_scale(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    models = [{"a": torch.randn(4, 5, generator=generator), "b": torch.randn((), generator=generator)} for _ in "123"]
    flat = [{name: torch.full_like(value, 10.0**number) for name, value in models[0].items()} for number in range(3)]
    tensors = merge(tmp_path, models, flat)
    for name, value in tensors.items():
        torch.testing.assert_close(value, sum(model[name] for model in models) / 3)


def test_a_tensor_without_information_stays_the_first_models_and_is_told(tmp_path: Path) -> None:
    models = [{"w": torch.ones(2), "frozen": torch.ones(3)}, {"w": torch.zeros(2), "frozen": torch.zeros(3)}]
    nodes = nodes_for(tmp_path, models, [one(1.0, 1.0), one(1.0, 3.0)], normalize=False)
    result = lines_pipeline.run(recipe_of(tmp_path, nodes), out=tmp_path / "out", tracking=False)
    tensors = load_file(result.files[0])
    assert tensors["w"].tolist() == [0.5, 0.25] and tensors["frozen"].tolist() == [1.0, 1.0, 1.0]
    assert any("'frozen'" in note and "in no statistics" in note for note in result.notes)


@pytest.mark.parametrize("params", [{}, {"floor": 0.0}, {"floor_on": "all", "floor_kind": "add"}])
def test_compiled_loops_give_the_same_bits(params: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(0)
    models = [{"w": torch.randn(300, 7, generator=generator).bfloat16()} for _ in "123"]
    measured = [{"w": torch.rand(300, 7, generator=generator).square() * (model["w"] > 0)} for model in models]
    nodes = nodes_for(tmp_path, models, measured, **params)
    values = []
    for mode in ("never", "always"):
        path = tmp_path / f"{mode}.yaml"
        path.write_text(yaml.safe_dump({"name": mode, "engine": {"compile": mode}, "nodes": nodes}, sort_keys=False))
        result = lines_pipeline.run(path, out=tmp_path / mode, tracking=False, cache=False)
        assert not any("compile" in note for note in result.notes)
        values.append(load_file(result.files[0])["w"].view(torch.int16))
    assert torch.equal(*values)


@pytest.mark.parametrize(
    ("measured", "params", "words"),
    [
        ([one(1.0), one(1.0)], {}, "tensor 'w' has shape"),
        ([one(1.0, 1.0), {"v": torch.ones(2)}], {}, "which .*m0.safetensors lacks"),
        ([one(1.0, 1.0), one(1.0, 1.0)], {"weights": [1.0, -1.0]}, "expected none below 0"),
        ([one(1.0, 1.0), one(1.0, 1.0)], {"statistics": "models"}, "'statistics' takes statistics, but 'models' gives"),
        ([one(1.0, 1.0), one(1.0, 1.0)], {"statistics": "measured[0]"}, "needs one of 'statistics' a model"),
    ],
)
def test_mistakes(measured: list[State], params: dict[str, Any], words: str, tmp_path: Path) -> None:
    nodes = nodes_for(tmp_path, [one(1.0, 2.0), one(3.0, 4.0)], measured, **params)
    with pytest.raises(LinesError, match=words):
        lines_pipeline.validate(recipe_of(tmp_path, nodes))


def test_statistics_are_saved_as_such_and_taken_for_nothing_else(tmp_path: Path) -> None:
    nodes = nodes_for(tmp_path, [one(1.0)], [one(0.25)])
    kept = {**nodes, "kept": {"op": "save", "model": "measured[0]", "path": "kept.safetensors"}}
    lines_pipeline.run(recipe_of(tmp_path, kept), out=tmp_path / "out", tracking=False)
    path = tmp_path / "out" / "kept.safetensors"
    assert load_file(path)["w"].tolist() == [0.25]
    with safe_open(path, "pt") as file:
        assert file.metadata()["type"] == "statistics"
    again = {**nodes, "models": {"op": "load", "path": "out/kept.safetensors"}}
    with pytest.raises(LinesError, match="holds statistics of a model: give the node that loads it 'type: statistics'"):
        lines_pipeline.validate(recipe_of(tmp_path, again))
    read = {**nodes, "measured": {"op": "load", "path": "out/kept.safetensors", "type": "statistics"}}
    assert lines_pipeline.run(recipe_of(tmp_path, read), out=tmp_path / "out", tracking=False).files
