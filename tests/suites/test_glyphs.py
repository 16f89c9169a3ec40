"""The embedded suite normalizes by experts that it builds itself: those of its tasks, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.events import Event, ZooProgress
from lines_pipeline.zoo.glyph_tasks import PRETRAINED, experts_folder


@pytest.mark.slow
@pytest.mark.usefixtures("shared_store")
def test_the_embedded_model_is_tuned_by_a_loss_and_judged_once(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pretrained = load_file(PRETRAINED)
    noisy = {name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in pretrained.items()}
    save_file(noisy, tmp_path / "noisy.safetensors")
    judge = {"op": "evaluate", "suite": "zoo://glyphs", "tasks": ["digits"], "split": "val"}
    nodes = {
        "base": {"op": "load", "path": "zoo://glyphs/pretrained"},
        "noisy": {"op": "load", "path": "noisy.safetensors"},
        "update": {"op": "task-vector", "model": "noisy", "base": "base"},
        "model": {"op": "apply", "base": "base", "delta": "update"},
        "val": {**judge, "model": "model"},
    }
    tune = {"parameters": {"model.scale": {"values": [1.0, 0.0, 0.5]}}, "objective": "val.mean_loss"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "judged", "nodes": nodes, "tune": tune}))
    result = lines_pipeline.run(recipe, out="out")
    metrics = result.metrics["val"]
    assert result.chosen == {"model.scale": 0.0} and result.cached == ("val",)
    assert (
        metrics["accuracy/digits"] < metrics["top5_accuracy/digits"] <= 1
        and 0 < metrics["calibration_error/digits"] < 1
    )
    assert metrics["accuracy/digits/low"] < metrics["accuracy/digits"] < metrics["accuracy/digits/high"]
    assert metrics["normalized_loss/digits"] < 1 and result.units["val"]["normalized_loss/digits"] == "share"
    width = metrics["accuracy/digits/high"] - metrics["accuracy/digits/low"]
    binomial = 2 * 1.96 * (metrics["accuracy/digits"] * (1 - metrics["accuracy/digits"]) / 250) ** 0.5
    assert width > 1.3 * binomial  # images of one glyph are right or wrong together


@pytest.mark.slow
@pytest.mark.usefixtures("shared_store")
def test_an_evaluation_builds_the_experts_of_its_tasks_alone(tmp_path: Path) -> None:
    recipe, events = tmp_path / "recipe.yaml", list[Event]()
    nodes = {
        "model": {"op": "load", "path": "zoo://glyphs/pretrained"},
        "val": {"op": "evaluate", "model": "model", "suite": "zoo://glyphs", "tasks": ["digits"], "split": "val"},
    }
    recipe.write_text(yaml.safe_dump({"name": "judged", "nodes": nodes}))
    first = lines_pipeline.run(recipe, out="out", sinks=[events.append]).metrics["val"]
    built = {event.expert for event in events if isinstance(event, ZooProgress)}
    assert {uri.rpartition("/")[2] for uri in built} == {"digits"}
    assert [path.name for path in experts_folder(0).glob("*.safetensors")] == ["digits.safetensors"]
    assert 0 < first["normalized_accuracy/digits"] < 1

    remembered = experts_folder(0) / "baselines.json"
    content = remembered.read_text()
    digit = next(index for index, letter in enumerate(content) if letter == "." and content[index - 1] == "0") + 1
    remembered.write_text(content[:digit] + ("1" if content[digit] != "1" else "2") + content[digit + 1 :])
    assert lines_pipeline.run(recipe, out="out").metrics["val"] == first
