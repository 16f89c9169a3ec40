"""Models with heads of their own over one encoder: what is left out may differ between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError

pytestmark = pytest.mark.usefixtures("shared_store")

LABELS = {"base": 2, "e2": 2, "e3": 3, "e4": 4}
HEAD = {"exclude": ["classifier.*"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base and experts with heads of 2, 3 and 4 labels, which are the last tensors of their files."""
    for seed, (name, labels) in enumerate(LABELS.items()):
        save_file(_model(seed, labels), tmp_path / f"{name}.safetensors")
    return tmp_path


def _model(seed: int, labels: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {f"bert.layer.{i}.weight": torch.randn(16, 16, generator=generator) for i in range(3)}
    head = {
        "classifier.weight": torch.randn(labels, 70_000, generator=generator),
        "classifier.bias": torch.randn(labels, generator=generator),
    }
    return state | head


def write(folder: Path, nodes: Mapping[str, Any], experts: list[str], **tv: Any) -> Path:
    shared = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": experts}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base", **tv},
        "merged": {"op": "task-arithmetic", "deltas": "updates", "reduce": "mean"},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "heads", "nodes": {**shared, **nodes}}))
    return path


def tensors(folder: Path, *names: str) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / f"{name}.safetensors") for name in names]


@pytest.mark.parametrize("choice", [HEAD, {"on_shape_mismatch": "base"}])
def test_the_encoders_are_merged_and_the_head_is_the_bases(choice: dict[str, Any], folder: Path) -> None:
    recipe = write(folder, {}, ["e3", "e4"], **choice)
    result = lines_pipeline.run(recipe, out="out")
    (values,) = tensors(folder / "out", "model")
    base, *experts = tensors(folder, "base", "e3", "e4")
    for name, value in base.items():
        mean = sum(expert[name] - value for expert in experts) / 2 if name not in _head(base) else 0.0
        torch.testing.assert_close(values[name], value + mean)
    message = "'classifier.bias', 'classifier.weight'"
    assert any(message in note and "base.safetensors's stay" in note for note in result.notes)
    assert any(message in note for note in lines_pipeline.plan(recipe).notes)
    assert any(message in note for note in lines_pipeline.validate(recipe).notes)


def _head(state: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name in state if name.startswith("classifier.")]


def test_digests_do_not_depend_on_the_other_models_nor_on_the_cache(folder: Path) -> None:
    digests = []
    for number, experts in enumerate((["e3"], ["e4", "e3"], ["e2", "e3", "e4"], ["e3"])):
        lines_pipeline.run(write(folder, {}, experts, **HEAD), out=f"out{number}", cache=number != 3)
        with safe_open(folder / f"out{number}" / "model.safetensors", "pt") as file:
            printed = json.loads(file.metadata()["inputs"])
        digests.append((printed["base"], printed["experts[e3]"]))
    assert len(set(digests)) == 1


def test_heads_that_differ_need_a_graft_each(folder: Path) -> None:
    nodes = {
        "whole": {
            "op": "graft",
            "model": "model",
            "donor": "experts",
            "include": ["classifier.*"],
        },
        "saved": {"op": "save", "model": "whole", "path": "{e}.safetensors"},
    }
    lines_pipeline.run(write(folder, nodes, ["e2", "e3", "e4"], **HEAD), out="out")
    base, *experts = tensors(folder, "base", "e2", "e3", "e4")
    for expert, merged in zip(experts, tensors(folder / "out", "e2", "e3", "e4"), strict=True):
        for name, value in expert.items():
            mean = base[name] + sum(e[name] - base[name] for e in experts) / 3 if name not in _head(base) else value
            torch.testing.assert_close(merged[name], mean)


def test_two_families_may_have_tensors_of_one_name(folder: Path) -> None:
    """One sweep writes models that have a tensor in different shapes."""
    nodes = {
        "small": {"op": "interpolate", "models": ["base", "experts[e2]"], "t": 0.5},
        "large": {"op": "interpolate", "models": ["experts[e4]", "other"], "t": 0.25},
        "other": {"op": "load", "path": "other.safetensors"},
        "one": {"op": "save", "model": "small", "path": "small.safetensors"},
        "two": {"op": "save", "model": "large", "path": "large.safetensors"},
    }
    save_file(_model(9, 4), folder / "other.safetensors")
    lines_pipeline.run(write(folder, nodes, ["e2", "e4"], **HEAD), out="out")
    base, e2, e4, other = tensors(folder, "base", "e2", "e4", "other")
    small, large = tensors(folder / "out", "small", "large")
    for name in base:
        torch.testing.assert_close(small[name], (base[name] + e2[name]) / 2)
        torch.testing.assert_close(large[name], 0.75 * e4[name] + 0.25 * other[name])


def test_a_tensor_that_is_left_out_may_be_unfit_to_merge(folder: Path) -> None:
    (broken,) = tensors(folder, "e3")
    broken["classifier.bias"][0] = float("nan")
    save_file(broken, folder / "e3.safetensors")
    lines_pipeline.run(write(folder, {}, ["e3", "e4"], **HEAD), out="out")
    (merged,), (base,) = tensors(folder / "out", "model"), tensors(folder, "base")
    assert torch.equal(merged["classifier.bias"], base["classifier.bias"])


def test_heads_may_have_names_of_their_own(folder: Path) -> None:
    (state,) = tensors(folder, "e3")
    renamed = {name.replace("classifier", "qa_outputs"): value for name, value in state.items()}
    save_file(renamed, folder / "qa.safetensors")
    (base,) = tensors(folder, "base")
    save_file({n: v for n, v in base.items() if n not in _head(base)}, folder / "base.safetensors")
    recipe = write(folder, {}, ["qa", "e4"], exclude=["classifier.*", "qa_outputs.*"])
    result = lines_pipeline.run(recipe, out="out")
    assert tensors(folder / "out", "model")[0].keys() == tensors(folder, "base")[0].keys()
    assert any("'qa_outputs.bias'" in note and "in no output" in note for note in result.notes)


def test_without_a_choice_the_remedies_are_named(folder: Path) -> None:
    with pytest.raises(LinesError, match=r"'classifier\.bias'.*\[3\], expected \[2\].*'on_shape_mismatch: base'"):
        lines_pipeline.validate(write(folder, {}, ["e3"]))


def test_all_globs_that_match_nothing_are_refused_together(folder: Path) -> None:
    with pytest.raises(LinesError) as caught:
        lines_pipeline.validate(write(folder, {}, ["e2"], exclude=["clasifier.*", "nothing"]))
    first, second = str(caught.value).splitlines()
    assert "'clasifier.*' matches no tensor (did you mean 'classifier" in first
    assert "'nothing' matches no tensor" in second


@pytest.mark.parametrize("integer", ["base", "expert"])
def test_a_tensor_that_is_integer_in_one_file_keeps_the_bases_values(integer: str, tmp_path: Path) -> None:
    values = {"base": torch.ones(2), "expert": torch.full((2,), 3.0)}
    values[integer] = values[integer].long()
    for name, value in values.items():
        save_file({"w": torch.full((2,), float(len(name))), "counts": value}, tmp_path / f"{name}.safetensors")
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "expert": {"op": "load", "path": "expert.safetensors"},
        "delta": {"op": "task-vector", "model": "expert", "base": "base"},
        "model": {"op": "apply", "base": "base", "delta": "delta"},
        "saved": {"op": "save", "model": "model", "path": "m.safetensors"},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "typed", "nodes": nodes}))
    assert any("'counts': floating-point in one" in note for note in lines_pipeline.validate(recipe).notes)
    state = load_file(lines_pipeline.run(recipe, out="out").files[0])
    assert torch.equal(state["counts"], values["base"]) and state["counts"].dtype == values["base"].dtype
    assert torch.equal(state["w"], torch.full((2,), 6.0))
