"""``graft``: tensors of one model in another."""

from __future__ import annotations

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


def write(folder: Path, graft: Mapping[str, Any], **more: Any) -> Path:
    model = {"body.w": torch.full((4, 4), 1.0), "head.w": torch.full((2, 4), 1.0)}
    donor = {
        "body.w": torch.full((4, 4), 2.0),
        "head.w": torch.full((3, 4), 2.0, dtype=torch.float16),
        "head.labels": torch.arange(3),
        "extra.w": torch.full((5,), 2.0),
    }
    save_file(model, folder / "model.safetensors")
    save_file(donor, folder / "donor.safetensors")
    nodes = {
        "body": {"op": "load", "path": "model.safetensors"},
        "donor": {"op": "load", "path": "donor.safetensors"},
        "whole": {"op": "graft", "model": "body", "donor": "donor", **graft},
        "saved": {"op": "save", "model": "whole", "path": "out.safetensors"},
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "grafted", "nodes": nodes}))
    return path


def test_the_donors_tensors_come_as_they_are(tmp_path: Path) -> None:
    result = lines_pipeline.run(write(tmp_path, {"include": ["head.*"]}), out="out")
    tensors, donor = load_file(result.files[0]), load_file(tmp_path / "donor.safetensors")
    assert sorted(tensors) == ["body.w", "head.labels", "head.w"]
    assert torch.equal(tensors["body.w"], torch.ones(4, 4))
    assert torch.equal(tensors["head.labels"], donor["head.labels"])
    assert tensors["head.w"].dtype == torch.float16 and torch.equal(tensors["head.w"], donor["head.w"])
    assert any("'head.w': in place of model.safetensors's (donor.safetensors)" in note for note in result.notes)
    assert any("'head.labels': added to model.safetensors (donor.safetensors)" in note for note in result.notes)


def test_exclude_narrows_what_is_taken(tmp_path: Path) -> None:
    recipe = write(tmp_path, {"include": ["*"], "exclude": ["head.*", "body.*"]})
    tensors = load_file(lines_pipeline.run(recipe, out="out").files[0])
    assert {name: float(value.flatten()[0]) for name, value in tensors.items()} == {
        "body.w": 1.0,
        "extra.w": 2.0,
        "head.w": 1.0,
    }


def test_a_graft_can_be_merged_on(tmp_path: Path) -> None:
    more = {
        "soup": {"op": "soup", "models": ["whole", "donor"], "exclude": ["extra.*"]},
        "mean": {"op": "save", "model": "soup", "path": "mean.safetensors"},
    }
    result = lines_pipeline.run(write(tmp_path, {"include": ["head.*"]}, **more), out="out")
    tensors = load_file(next(file for file in result.files if file.name == "mean.safetensors"))
    assert torch.equal(tensors["body.w"], torch.full((4, 4), 1.5))
    assert torch.equal(tensors["head.w"], torch.full((3, 4), 2.0, dtype=torch.float16))


@pytest.mark.parametrize(
    ("graft", "message"),
    [
        ({}, "'include' is missing: the patterns of the tensors that 'graft' takes"),
        ({"include": ["haed.*"]}, r"the glob 'haed\.\*' matches no tensor"),
    ],
)
def test_a_graft_says_what_it_takes(graft: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LinesError, match=message):
        lines_pipeline.validate(write(tmp_path, graft))
