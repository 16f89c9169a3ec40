"""What a task vector does about tensors that a model lacks, or has in another shape or kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError

pytestmark = pytest.mark.usefixtures("shared_store")

State = dict[str, torch.Tensor]


def _state(seed: int, **shapes: tuple[int, ...]) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def run(folder: Path, nodes: Mapping[str, Any], *models: State, **choice: Any) -> lines_pipeline.RunResult:
    """A run over the first state as base and the others as experts."""
    for number, state in enumerate(models):
        save_file(state, folder / f"m{number}.safetensors")
    shared = {
        "base": {"op": "load", "path": "m0.safetensors"},
        "experts": {
            "op": "load",
            "path": "m{n}.safetensors",
            "for_each": {"n": list(range(1, len(models)))},
        },
        "updates": {"op": "task-vector", "model": "experts", "base": "base", **choice},
        "merged": {"op": "task-arithmetic", "deltas": "updates"},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "vectors", "nodes": {**shared, **nodes}}))
    return lines_pipeline.run(path, out="out")


def padded(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The leading region of a shape, zero beyond the value."""
    tensors = torch.zeros(shape)
    region = tuple(slice(0, min(sizes)) for sizes in zip(shape, value.shape, strict=True))
    tensors[region] = value[region]
    return tensors


@pytest.mark.parametrize("other", [(72, 8), (40, 8), (70, 5), (50, 11)])
def test_crop_merges_what_overlaps(other: tuple[int, int], tmp_path: Path) -> None:
    base, expert = _state(0, embed=(64, 8), w=(3, 3)), _state(1, embed=other, w=(3, 3))
    result = run(tmp_path, {}, base, expert, on_shape_mismatch="crop")
    tensors, region = load_file(result.files[0]), padded(torch.ones(other), base["embed"].shape)
    expected = torch.where(region > 0, padded(expert["embed"], base["embed"].shape), base["embed"])
    torch.testing.assert_close(tensors["embed"], expected)
    torch.testing.assert_close(tensors["w"], expert["w"])
    assert any("cropped to" in note for note in result.notes)


def test_large_crops_are_read_by_blocks(tmp_path: Path) -> None:
    shapes = [(700, 3, 80), (650, 5, 90), (710, 4, 70)]
    base, *experts = (_state(seed, kernel=shape) for seed, shape in enumerate(shapes))
    tensors = load_file(run(tmp_path, {}, base, *experts, on_shape_mismatch="crop").files[0])
    expected, shape = base["kernel"].clone(), base["kernel"].shape
    for expert in experts:
        region = padded(torch.ones(expert["kernel"].shape), shape)
        expected += torch.where(region > 0, padded(expert["kernel"], shape) - base["kernel"], 0.0)
    torch.testing.assert_close(tensors["kernel"], expected)


def test_thresholds_count_the_overlap_alone(tmp_path: Path) -> None:
    base, expert = _state(0, embed=(64, 8), w=(3, 3)), _state(1, embed=(16, 8), w=(3, 3))
    nodes = {"merged": {"op": "trim", "delta": "updates[1]", "density": 0.5}}
    result = run(tmp_path, nodes, base, expert, on_shape_mismatch="crop")
    vector = torch.cat([(expert["embed"] - base["embed"][:16]).flatten(), (expert["w"] - base["w"]).flatten()])
    cut = vector.abs().kthvalue(len(vector) - int(len(vector) * 0.5)).values
    assert result.facts["merged"]["num_params"] == len(vector)
    assert result.facts["merged"]["trim_thresholds"] == [float(cut)]
    kept = load_file(result.files[0])["embed"] - base["embed"]
    assert int((kept != 0).sum()) == int((vector[: 16 * 8].abs() >= cut).sum())


def test_crop_needs_as_many_dimensions(tmp_path: Path) -> None:
    with pytest.raises(LinesError, match=r"expected 2 dimensions as in m0\.safetensors to crop"):
        run(tmp_path, {}, _state(0, w=(4, 4)), _state(1, w=(4, 4, 1)), on_shape_mismatch="crop")


def test_a_missing_tensor_can_keep_the_base(tmp_path: Path) -> None:
    base, expert = _state(0, a=(4, 4), b=(3,)), _state(1, a=(4, 4))
    with pytest.raises(LinesError, match=r"lacks tensor 'b'.*'on_missing: base'"):
        run(tmp_path, {}, base, expert)
    result = run(tmp_path, {}, base, expert, on_missing="base")
    tensors = load_file(result.files[0])
    torch.testing.assert_close(tensors["a"], expert["a"])
    assert torch.equal(tensors["b"], base["b"])
    assert any("'b'" in note and "m0.safetensors's stay" in note for note in result.notes)


NAMES = ("encoder.w", "encoder.b", "head.w")


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        ({n: f"model.{n}" for n in NAMES}, {}, "Only the beginning .* say 'prefix: {strip: \"model.\"}' in the node"),
        ({}, {n: f"model.{n}" for n in NAMES}, "say 'prefix: {add: \"model.\"}' in the node that loads m1.safetensors"),
        (
            {n: f"module.{n}" for n in NAMES},
            {n: f"model.{n}" for n in NAMES},
            'say \'prefix: {strip: "module", add: "model"}\'',
        ),
        ({"head.w": "model.head.w"}, {}, "say 'prefix: {strip: \"model.\"}'"),
        (
            {},
            {"head.w": "model.head.w"},
            "If only the names differ, use 'prefix' or 'rename' in the node that loads m1",
        ),
        ({"head.w": "encoder.head.w"}, {}, "If only the names differ"),
        ({"head.w": "classifier.w"}, {}, "If only the names differ"),
        ({"encoder.b": "enc.b", "head.w": "h.w"}, {}, "If only the names differ"),
    ],
)
@pytest.mark.parametrize("op", ["task-vector", "soup"])
def test_names_that_differ_both_ways(
    theirs: dict[str, str], ours: dict[str, str], told: str, op: str, tmp_path: Path
) -> None:
    state = _state(0, **dict.fromkeys(NAMES, (3,)))
    base, expert = ({names.get(name, name): value for name, value in state.items()} for names in (ours, theirs))
    soup = {"model": {"op": "soup", "models": ["base", "experts[1]"]}} if op == "soup" else {}
    with pytest.raises(LinesError) as caught:
        run(tmp_path, soup, base, expert)
    match = re.search(f"(has|lacks) tensor.*{told}", str(caught.value).replace("\n", " "))
    assert match, caught.value


def test_the_proposed_prefix_makes_the_names_equal(tmp_path: Path) -> None:
    base = _state(0, **dict.fromkeys(NAMES, (3,)))
    expert = {f"module.{name}": value + 1 for name, value in base.items()}
    with pytest.raises(LinesError) as caught:
        run(tmp_path, {}, base, expert)
    proposed = re.search("'(prefix: {.*?})'", str(caught.value))
    assert proposed
    load = {"op": "load", "path": "m1.safetensors", **yaml.safe_load(proposed[1])}
    vector = {"op": "task-vector", "model": "experts", "base": "base"}
    tensors = load_file(run(tmp_path, {"experts": load, "updates": vector}, base, expert).files[0])
    for name, value in base.items():
        torch.testing.assert_close(tensors[name], value + 1)


def test_what_is_missing_is_in_no_threshold(tmp_path: Path) -> None:
    base, expert = _state(0, a=(4, 4), b=(300,)), _state(1, a=(4, 4))
    nodes = {"merged": {"op": "ties", "deltas": "updates", "density": 0.25}}
    result = run(tmp_path, nodes, base, expert, on_missing="base")
    cut = (expert["a"] - base["a"]).flatten().abs().kthvalue(12).values
    assert result.facts["merged"]["trim_thresholds"] == [float(cut)]


@pytest.mark.parametrize("side", [0, 1])
def test_an_integer_buffer_that_one_side_lacks(side: int, tmp_path: Path) -> None:
    models = [_state(0, a=(4, 4)), _state(1, a=(4, 4))]
    models[side]["position_ids"] = torch.arange(7)
    tensors = load_file(run(tmp_path, {}, *models).files[0])
    torch.testing.assert_close(tensors["a"], models[1]["a"])
    assert ("position_ids" in tensors) == (side == 0)


def test_a_buffer_that_is_integer_in_the_base_stays(tmp_path: Path) -> None:
    base, expert = _state(0, a=(4, 4)), _state(1, a=(4, 4))
    base["position_ids"], expert["position_ids"] = torch.arange(7)[None], torch.arange(9)[None].half()
    result = run(tmp_path, {}, base, expert)
    assert torch.equal(load_file(result.files[0])["position_ids"], base["position_ids"])
    assert any("'position_ids'" in note for note in result.notes)
