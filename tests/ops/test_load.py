"""What ``load`` takes: globs to drop, and task vectors and masks that a run has saved."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TIES_LINES
from safetensors.torch import load_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError

pytestmark = pytest.mark.usefixtures("shared_store")
Recipe = Callable[..., Path]

PARTS = {
    "sum": {"op": "task-arithmetic", "deltas": "updates"},
    "kept": {"op": "magnitude-mask", "delta": "sum", "density": 0.3},
    "merged": {"op": "mask", "delta": "sum", "mask": "kept"},
    "model": {"op": "apply", "base": "base", "delta": "merged"},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    "delta": {"op": "save", "model": "sum", "path": "delta.safetensors"},
}


@pytest.mark.parametrize("stored", [{}, {"packed": True}, {"packed": True, "max_shard_size": "1KB"}])
def test_saved_task_vectors_and_masks_can_be_loaded(stored: dict[str, Any], models: Path, write_recipe: Recipe) -> None:
    nodes = {**PARTS, "mask": {"op": "save", "model": "kept", "path": "mask/model.safetensors", **stored}}
    result = lines_pipeline.run(write_recipe(nodes), out="parts")
    again: dict[str, Any] = {
        "base": {"op": "load", "path": "base.safetensors"},
        "delta": {"op": "load", "path": "../parts/delta.safetensors", "type": "delta"},
        "kept": {"op": "load", "path": "../parts/mask" + ("" if "max_shard_size" in stored else "/model.safetensors")},
        "merged": {"op": "mask", "delta": "delta", "mask": "kept"},
        "model": PARTS["model"],
        "saved": PARTS["saved"],
        "copied": {"op": "save", "model": "kept", "path": "mask.safetensors"},
    }
    again["kept"] |= {"type": "mask"}
    recipe = models / "again.yaml"
    recipe.write_text(yaml.safe_dump({"name": "again", "nodes": again}))
    run_result = lines_pipeline.run(recipe, out="again")
    first, second = (
        load_file(
            next(file for file in each_result.files if file.name == "model.safetensors" and "mask" not in file.parts)
        )
        for each_result in (result, run_result)
    )
    assert all(torch.equal(first[name], value) for name, value in second.items())
    copied = load_file(Path("again") / "mask.safetensors")
    assert copied["visual.proj"].dtype == torch.bool and copied["visual.proj"].shape == (8, 8)


@pytest.mark.parametrize("kind", ["weights", "mask"])
def test_a_task_vector_is_not_taken_for_something_else(kind: str, models: Path, write_recipe: Recipe) -> None:
    lines_pipeline.run(write_recipe(PARTS), out="parts")
    nodes = {
        "x": {"op": "load", "path": "../parts/delta.safetensors", "type": kind},
        "y": {"op": "save", "model": "x", "path": "y.safetensors"},
    }
    with pytest.raises(LinesError, match="holds a task vector: give the node that loads it 'type: delta'"):
        lines_pipeline.validate(write_recipe(nodes))


def test_a_model_is_no_mask(write_recipe: Recipe) -> None:
    nodes = {
        "x": {"op": "load", "path": "base.safetensors", "type": "mask"},
        "y": {"op": "save", "model": "x", "path": "y.safetensors"},
    }
    with pytest.raises(LinesError, match="mask"):
        lines_pipeline.validate(write_recipe(nodes))


def test_the_type_is_that_of_the_edge(write_recipe: Recipe) -> None:
    nodes = {"x": {"op": "load", "path": "base.safetensors", "type": "delta"}, **TIES_LINES}
    nodes["model"] = {"op": "apply", "base": "x", "delta": "scaled"}
    with pytest.raises(LinesError, match="'base' takes weights, but 'x' gives delta"):
        lines_pipeline.validate(write_recipe(nodes))
    with pytest.raises(
        LinesError, match="'type': expected 'weights', 'delta', 'mask', 'statistics' or 'coefficients', found 'metrics'"
    ):
        lines_pipeline.validate(write_recipe({**TIES_LINES, "x": {"op": "load", "path": "a", "type": "metrics"}}))


def test_what_is_dropped_is_in_no_output_and_told(models: Path, write_recipe: Recipe) -> None:
    dropped = {"drop": ["*.ln_1.bias", "position_ids"]}
    nodes = {**TIES_LINES, "base": {"op": "load", "path": "base.safetensors", **dropped}}
    result = lines_pipeline.run(write_recipe(nodes), out="out")
    base, tensors = load_file(models / "base.safetensors"), load_file(result.files[0])
    assert set(base) - set(tensors) == {name for name in base if name.endswith("ln_1.bias")} | {"position_ids"}
    (note,) = (note for note in lines_pipeline.plan(write_recipe(nodes)).notes if "dropped" in note)
    parameters = sum(value.numel() for value in base.values())
    assert f"dropped, 5 in all with {(4 * 8 + 5) / parameters:.2%} of the parameters" in note
    assert any("dropped" in note for note in result.notes)


def test_what_experts_drop_keeps_the_base(models: Path, write_recipe: Recipe) -> None:
    experts = {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b"]}, "drop": ["visual.proj"]}
    result = lines_pipeline.run(write_recipe({**TIES_LINES, "experts": experts}), out="out")
    base, tensors = load_file(models / "base.safetensors"), load_file(result.files[0])
    assert torch.equal(tensors["visual.proj"], base["visual.proj"])
    assert any("'visual.proj'" in note and "base.safetensors's stay" in note for note in result.notes)


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_the_spelling_of_0_1_names_the_new_ones(key: str, write_recipe: Recipe) -> None:
    nodes = {**TIES_LINES, "base": {"op": "load", "path": "base.safetensors", key: ["visual.proj"]}}
    with pytest.raises(LinesError, match=rf"'{key}' on 'load' is gone: '{key}' on 'task-vector' .*'drop' on 'load'"):
        lines_pipeline.validate(write_recipe(nodes))


def test_a_glob_to_drop_that_matches_nothing(write_recipe: Recipe) -> None:
    nodes = {**TIES_LINES, "base": {"op": "load", "path": "base.safetensors", "drop": ["visual.prj"]}}
    with pytest.raises(LinesError, match=r"node 'base': the glob 'visual\.prj' matches no tensor \(did you mean"):
        lines_pipeline.validate(write_recipe(nodes))


def test_tensors_that_cannot_be_read_are_dropped_as_the_message_says(models: Path, write_recipe: Recipe) -> None:
    name = "q[0]" + "x" * 300
    state = {**load_file(models / "a.safetensors"), name: torch.ones(2, dtype=torch.complex64)}
    torch.save(state, models / "odd.pt")
    nodes = {"odd": {"op": "load", "path": "odd.pt"}, "saved": {"op": "save", "model": "odd", "path": "m.safetensors"}}
    with pytest.raises(LinesError, match="complex64") as error:
        lines_pipeline.validate(write_recipe(nodes))
    (remedy,) = re.findall(r"drop: \[.*?\"\]", str(error.value))
    recipe = write_recipe({**nodes, "odd": {**nodes["odd"], **yaml.safe_load(remedy)}})
    assert any("cannot be read" in note for note in lines_pipeline.validate(recipe).notes)
    assert load_file(lines_pipeline.run(recipe, out="out").files[0]).keys() == state.keys() - {name}
