"""The embedded suite normalizes by experts that it builds itself: those of its tasks, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import Event, ZooProgress
from lines_pipeline.suites.opening import open_suite
from lines_pipeline.zoo.glyphs.bases import base_file
from lines_pipeline.zoo.glyphs.families import FAMILIES

TASK = "numeral-armenian"
EXPERTS = FAMILIES["glyphs"]


@pytest.mark.slow
@pytest.mark.usefixtures("shared_store")
def test_the_embedded_model_is_tuned_by_a_loss_and_judged_once(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pretrained = load_file(base_file(0))
    noisy = {name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in pretrained.items()}
    save_file(noisy, tmp_path / "noisy.safetensors")
    judge = {"op": "evaluate", "suite": "zoo://glyphs", "tasks": [TASK], "split": "val"}
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
    found = result.metrics["val"]
    assert result.chosen == {"model.scale": 0.0} and result.cached == ("val",)
    assert (
        found[f"accuracy/{TASK}"] < found[f"top5_accuracy/{TASK}"] <= 1 and 0 < found[f"calibration_error/{TASK}"] < 1
    )
    assert found[f"accuracy/{TASK}/low"] < found[f"accuracy/{TASK}"] < found[f"accuracy/{TASK}/high"]
    assert found[f"normalized_loss/{TASK}"] < 1 and result.units["val"][f"normalized_loss/{TASK}"] == "share"
    width = found[f"accuracy/{TASK}/high"] - found[f"accuracy/{TASK}/low"]
    binomial = 2 * 1.96 * (found[f"accuracy/{TASK}"] * (1 - found[f"accuracy/{TASK}"]) / 200) ** 0.5
    assert width > 1.1 * binomial  # images of one shape are right or wrong together


@pytest.mark.slow
@pytest.mark.usefixtures("shared_store")
def test_an_evaluation_builds_the_experts_of_its_tasks_alone(tmp_path: Path) -> None:
    recipe, seen = tmp_path / "recipe.yaml", list[Event]()
    nodes = {
        "model": {"op": "load", "path": "zoo://glyphs/pretrained"},
        "val": {"op": "evaluate", "model": "model", "suite": "zoo://glyphs", "tasks": [TASK], "split": "val"},
    }
    recipe.write_text(yaml.safe_dump({"name": "judged", "nodes": nodes}))
    first = lines_pipeline.run(recipe, out="out", sinks=[seen.append]).metrics["val"]
    built = {event.expert for event in seen if isinstance(event, ZooProgress)}
    assert {uri.rpartition("/")[2] for uri in built} == {TASK}
    assert [path.name for path in EXPERTS.folder(0, 0).glob("*.safetensors")] == [f"{TASK}.safetensors"]
    assert 0 < first[f"normalized_accuracy/{TASK}"] < 1

    remembered = EXPERTS.folder(0, 0) / "baselines.json"
    content = remembered.read_text()
    digit = next(index for index, letter in enumerate(content) if letter == "." and content[index - 1] == "0") + 1
    remembered.write_text(content[:digit] + ("1" if content[digit] != "1" else "2") + content[digit + 1 :])
    assert lines_pipeline.run(recipe, out="out").metrics["val"] == first


def test_a_suite_has_the_heads_of_its_own_pretrained_model_and_the_tasks_of_its_family() -> None:
    suites = {uri: open_suite(uri, Path()) for uri in ("zoo://glyphs", "zoo://glyphs@base1", "zoo://glyphs-domains")}
    assert [len(suite.tasks) for suite in suites.values()] == [20, 20, 20]
    first, second = (suites[uri].heads()[TASK].weight for uri in ("zoo://glyphs", "zoo://glyphs@base1"))
    assert first.shape == second.shape == (9, 64) and not torch.equal(first, second)
    assert len({suite.digest(split) for suite in suites.values() for split in ("val", "test", "ood")}) == 9
    assert open_suite("zoo://glyphs@seed5", Path()).digest("val") == suites["zoo://glyphs"].digest("val")


def test_all_splits_but_training_are_evaluated_with_a_cluster_a_sample() -> None:
    suite, state = open_suite("zoo://glyphs", Path()), load_file(base_file(0))
    for split in ("val", "test", "ood"):
        scores = suite.evaluate(state, [TASK], split)
        clusters = scores.samples[TASK].clusters
        assert clusters is not None and 50 < len(set(clusters.tolist())) < len(clusters)
        assert 0.1 < scores.values[TASK]["accuracy"] < 0.9
    with pytest.raises(EvalError, match="'train' is for training, expected one of val, test, ood"):
        suite.check([TASK], "train")
