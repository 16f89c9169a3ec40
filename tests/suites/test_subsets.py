"""``subset`` of ``evaluate``: the first samples of each task judge, in every kind of suite that can take a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from toy_suite import above, below, write_model, write_suite, write_tuned
from toy_texts import write_bert, write_text_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError, RecipeError
from lines_pipeline.ops.sample_parts import SamplePart
from lines_pipeline.suites.base import Suite
from lines_pipeline.suites.dividing import require_divisible
from lines_pipeline.suites.intervals import intervals
from lines_pipeline.suites.opening import open_suite
from lines_pipeline.suites.samples import Samples
from lines_pipeline.zoo.glyphs.bases import base_file

GLYPHS = "numeral-armenian"


@pytest.fixture
def folder(toy: Path) -> Path:
    """A model of sum 0.5, right on 3 of the first 4 images, and on 3 of all 6."""
    write_suite(toy, {"rise": {"val": [*above(0.25, 0.75), *below(0.75, 0.625), *above(1.0), *below(0.0)]}})
    write_model(toy / "model.safetensors", 0.5)
    return toy


def judged(folder: Path, **fields: Any) -> lines_pipeline.RunResult:
    return lines_pipeline.run(recipe(folder, **fields), out=folder / "out", trust=True)


def recipe(folder: Path, **fields: Any) -> Path:
    nodes = {
        "model": {"op": "load", "path": "model.safetensors"},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val", **fields},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "subset", "nodes": nodes}))
    return folder / "recipe.yaml"


@pytest.mark.usefixtures("shared_store")
def test_the_first_samples_judge_and_give_the_intervals(folder: Path) -> None:
    whole, part = judged(folder), judged(folder, subset=4)
    assert whole.metrics["val"]["accuracy/rise"] == 0.5 and part.metrics["val"]["accuracy/rise"] == 0.75
    assert part.cached == () and judged(folder, subset=4).cached == judged(folder).cached == ("val",)
    assert judged(folder, subset=5).metrics["val"]["accuracy/rise"] == 0.6
    state = load_file(folder / "model.safetensors")
    right = open_suite("suite.yaml", folder).evaluate(state, ["rise"], "val").samples["rise"].values["accuracy"]
    first = Samples({"accuracy": right[:4]})
    low, high = intervals(first)["accuracy"]
    assert (part.metrics["val"]["accuracy/rise/low"], part.metrics["val"]["accuracy/rise/high"]) == (low, high)
    assert judged(folder, subset=100).metrics["val"]["accuracy/rise"] == 0.5


def test_plan_tells_of_it(folder: Path) -> None:
    text = lines_pipeline.plan(recipe(folder, subset=4), trust=True).render()
    assert "note: node 'val': models are judged by the first 4 samples of each task" in text


@pytest.mark.parametrize("subset", [0, -1, 2.5])
def test_a_subset_is_a_number_of_samples(subset: float, folder: Path) -> None:
    with pytest.raises(RecipeError, match="'subset'"):
        lines_pipeline.validate(recipe(folder, subset=subset))


def test_a_suite_that_judges_by_all_samples_or_none(folder: Path) -> None:
    suite = {"kind": "python", "function": "judge.py:judge", "metrics": {"score": {}}, "tasks": ["rise"]}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    (folder / "judge.py").write_text("def judge(model, task, split):\n    return 1.0\n")
    with pytest.raises(EvalError, match=r"recipe\.yaml:\d+:\d+: node 'val': the suite suite\.yaml .*'subset'"):
        lines_pipeline.validate(recipe(folder, subset=4), trust=True)


@pytest.mark.usefixtures("shared_store")
def test_trials_are_stopped_within_the_subset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(folder / "base.safetensors", 0.0)
    write_model(folder / "a.safetensors", 1.0)
    asked = []
    numbers = SamplePart.numbers

    def noted(part: SamplePart, *given: Any) -> Any:
        asked.append(part)
        return numbers(part, *given)

    monkeypatch.setattr(SamplePart, "numbers", noted)
    tune = {
        "parameters": {"model.scale": {"values": [0.5, 0.0]}},
        "objective": "val.accuracy/rise",
        "pruning": {"shares": [0.5], "keep": 0.5},
    }
    val = {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val", "subset": 4}
    path = write_tuned(folder, tune, {"val": val})
    lines_pipeline.run(path, out=folder / "out", trust=True)
    assert {(part.share, part.first) for part in asked} == {(0.5, 4), (1.0, 4)}


def first_of(suite: Suite, model: Any, task: str, count: int) -> None:
    """A part of a suite gives what the whole gives of the first samples."""
    whole = suite.evaluate(model, [task], "val").samples[task]
    part = require_divisible(suite, "suite").part(SamplePart(first=count)).evaluate(model, [task], "val")
    for name, values in part.samples[task].values.items():
        assert len(values) == count
        np.testing.assert_allclose(values, whole.values[name][:count], atol=1e-5)
    accuracy = float(np.mean(whole.values["accuracy"][:count]))
    assert part.values[task]["accuracy"] == pytest.approx(accuracy)
    share = require_divisible(suite, "suite").part(SamplePart(0.5)).evaluate(model, [task], "val").samples[task]
    kept = SamplePart(0.5).numbers(task, len(whole.values["accuracy"]), whole.clusters)
    assert share.values["accuracy"].tolist() == whole.values["accuracy"][kept].tolist()


def test_a_part_of_the_glyphs() -> None:
    first_of(open_suite("zoo://glyphs", Path()), load_file(base_file(0)), GLYPHS, 50)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_part_of_texts(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    base = write_bert(tmp_path / "base")
    write_text_suite(tmp_path)
    first_of(open_suite("suite.yaml", tmp_path), load_file(base / "model.safetensors"), "films", 3)


def test_a_part_of_a_suite_of_images(folder: Path) -> None:
    first_of(open_suite("suite.yaml", folder), load_file(folder / "model.safetensors"), "rise", 4)
