"""The kind ``python``: a function of the user's own judges; its file declares metrics, units and directions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from toy_suite import ENCODER, write_model

import lines_pipeline
from lines_pipeline.core.errors import EvalError, LinesError, RecipeError
from lines_pipeline.core.events import Event, MetricsComputed, ParamsChosen
from lines_pipeline.core.trust import trust

pytestmark = pytest.mark.usefixtures("shared_store")

DISTANCE = """
GOALS = {"near": 0.5, "far": 2.0}


def score(model, task, split):
    total = sum(float(weight.sum()) for weight in model.parameters())
    return abs(total - GOALS[task])
"""
METRICS: Any = {"distance": {"unit": "m", "direction": "lower"}}

Lab = Callable[..., Path]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Writes a trusted folder with ``metrics.py``, a suite of it, and a recipe that tunes the scale of one weight."""

    def write(python: str = DISTANCE, metrics: Any = METRICS, tune: Any = None, **suite: Any) -> Path:
        folder = tmp_path / "lab"
        folder.mkdir(exist_ok=True)
        trust(folder)
        (folder / "enc.py").write_text(ENCODER)
        (folder / "metrics.py").write_text(python)
        write_model(folder / "base.safetensors", 0.0)
        write_model(folder / "a.safetensors", 1.0)
        content = {"kind": "python", "function": "metrics.py:score", "metrics": metrics, "tasks": ["near", "far"]}
        content |= {"model": {"factory": "enc.py:build"}, **suite}
        content = {key: value for key, value in content.items() if value is not None}
        (folder / "suite.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        nodes = {
            "base": {"op": "load", "path": "base.safetensors"},
            "expert": {"op": "load", "path": "a.safetensors"},
            "update": {"op": "task-vector", "model": "expert", "base": "base"},
            "model": {"op": "apply", "base": "base", "delta": "update", "scale": 1.0},
            "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
        }
        top = {"tune": tune} if tune else {}
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "lab", "nodes": nodes, **top}, sort_keys=False))
        return folder / "recipe.yaml"

    return write


def judge(recipe: Path) -> dict[str, float]:
    return dict(lines_pipeline.run(recipe, out="out").metrics["val"])


def test_a_number_a_task_with_unit_and_direction(lab: Lab, shared_store: str) -> None:
    result = lines_pipeline.run(lab(), out="out")
    assert result.metrics["val"] == {
        "distance/near": 0.5,
        "distance/far": 1.0,
        "mean_distance": 0.75,
        "worst_distance": 1,
    }
    assert set(result.units["val"].values()) == {"m"}
    run = MlflowClient(shared_store).get_run(result.run_id)
    assert run.data.metrics["val/mean_distance"] == 0.75
    assert run.data.tags["metric.distance"] == "m, lower is better"


@pytest.mark.parametrize(("direction", "chosen"), [(None, 1.25), ("maximize", 3.0)])
def test_tuning_minimises_what_is_better_lower_unless_told_otherwise(
    direction: str | None, chosen: float, lab: Lab
) -> None:
    values = [3.0, 0.0, 1.25]
    tune = {"parameters": {"model.scale": {"values": values}}, "objective": "val.worst_distance"}
    events: list[Event] = []
    recipe = lab(tune={**tune, "direction": direction} if direction else tune)
    result = lines_pipeline.run(recipe, out="out", sinks=[events.append])
    assert result.chosen == {"model.scale": chosen}
    assert [event.objective for event in events if isinstance(event, ParamsChosen)] == [{1.25: 0.75, 3.0: 2.5}[chosen]]
    assert [event.cached for event in events if isinstance(event, MetricsComputed)] == [True]


@pytest.mark.parametrize("check", [lines_pipeline.validate, lines_pipeline.plan, lines_pipeline.run])
def test_an_objective_is_checked_against_the_declared_metrics_before_anything_runs(
    check: Callable[[Path], object], lab: Lab
) -> None:
    tune = {"parameters": {"model.scale": {"values": [0.5]}}, "objective": "val.mean_accuracy"}
    with pytest.raises(RecipeError, match=r"'val' has no metric 'mean_accuracy'; it gives: .* of distance"):
        check(lab("raise SystemExit('imported')", tune=tune))


def test_an_objective_of_both_directions_needs_one(lab: Lab) -> None:
    metrics = {"gain": {}, "loss": {"direction": "lower"}}
    tune = {"parameters": {"model.scale": {"values": [0.5]}}, "objective": "val.mean_gain + val.mean_loss"}
    with pytest.raises(RecipeError, match="of some metrics in the objective more is better, of others less"):
        lines_pipeline.validate(lab(metrics=metrics, tune=tune))
    tune["objective"] = "val.mean_gain - val.mean_loss"
    assert lines_pipeline.validate(lab(metrics=metrics, tune=tune)).steps == 5


def test_arrays_are_per_sample_results_with_intervals(lab: Lab) -> None:
    python = """
import numpy as np
def score(model, task, split):
    right = np.arange(100) < 80
    return {"right": right, "error": np.where(right, 0.0, 2.0), "size": 7, "clusters": np.arange(100) // 10}
"""
    metrics = {"right": {"unit": "share"}, "error": {"direction": "lower"}, "size": {"averaging": "none"}}
    found = judge(lab(python, metrics))
    assert (found["right/near"], found["error/near"], found["size/near"]) == (0.8, 0.4, 7.0)
    assert found["right/near/low"] < 0.65 and found["right/near/high"] > 0.9
    assert "size/near/low" not in found and "mean_size" not in found
    assert judge(lab(python, metrics)) == found


def test_without_a_factory_the_function_gets_a_model_folder(lab: Lab) -> None:
    python = """
from safetensors.torch import load_file
def score(folder, task, split):
    assert split == "val"
    print(sorted(path.name for path in folder.iterdir()))
    return float(load_file(folder / "model.safetensors")["blocks.0.weight"].sum())
"""
    metrics = judge(lab(python, {"weight": {}}, model=None))
    assert metrics["mean_weight"] == 1.0


def test_scores_are_made_again_where_the_python_or_its_files_change(lab: Lab) -> None:
    python = """
from pathlib import Path
def score(model, task, split):
    return float((Path(__file__).parent / "goal.txt").read_text())
"""
    recipe = lab(python, files=["goal.txt"])
    assert lines_pipeline.validate(recipe).notes[0].endswith("suite.yaml: goal.txt: no such file")
    (recipe.parent / "goal.txt").write_text("1.5")
    assert judge(recipe)["mean_distance"] == 1.5
    (recipe.parent / "goal.txt").write_text("2.25")
    assert judge(recipe)["mean_distance"] == 2.25
    recipe = lab(python.replace("return float", "return 2 * float"), files=["goal.txt"])
    assert judge(recipe)["mean_distance"] == 4.5


def test_it_runs_only_where_the_folder_is_trusted(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = lab("raise SystemExit('imported')\n" + DISTANCE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert "runs Python: metrics.py:score" in lines_pipeline.validate(recipe).notes[0]
    with pytest.raises(EvalError, match=r"runs Python, metrics\.py:score .*lines-pipeline trust"):
        lines_pipeline.run(recipe)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "raises": (
        {"python": "def score(model, task, split):\n    return 1 / 0\n"},
        r"task 'near': function metrics\.py:score raised ZeroDivisionError: division by zero \(.*lab/metrics\.py:2\)",
    ),
    "no such name": ({"function": "metrics.py:scor"}, r"suite\.yaml:2:11: .*has no 'scor' \(did you mean 'score'\?\)"),
    "no callable": ({"function": "metrics"}, r"'function': expected package\.module:callable or file\.py:callable"),
    "a text": (
        {"python": "def score(*a): return 'good'\n"},
        r"'distance' is a str, expected a number, or one a sample",
    ),
    "undeclared": (
        {"python": "def score(*a): return {'distanc': 1}\n"},
        r"gave 'distanc', which the file does not declare \(did you mean 'distance'\?\)",
    ),
    "too few": ({"python": "def score(*a): return {}\n"}, r"gave no 'distance', which the file declares"),
    "one of two": (
        {"python": "def score(*a): return 1\n", "metrics": {"a": {}, "b": {}}},
        r"gave a int, expected a dict with a, b",
    ),
    "uneven": (
        {"python": "def score(*a): return {'a': [1, 2], 'b': [1]}\n", "metrics": {"a": {}, "b": {}}},
        "gave 2 of a, 1 of b: not one a sample",
    ),
    "a taken name": ({"metrics": {"mean_x": {}}}, r"'mean_x' is no name for a metric"),
    "a wrong direction": ({"metrics": {"x": {"direction": "up"}}}, r"suite\.yaml:5:16: .*expected 'higher' or 'lower'"),
    "an unknown baseline": (
        {"tasks": {"near": {"expert": {"val": {"distanc": 1.0}}}}},
        r"suite\.yaml:\d+:\d+: 'distanc' is not declared in 'metrics' \(did you mean 'distance'\?\)",
    ),
    "an unknown kind": (
        {"kind": "pyton"},
        r"unknown kind of suite 'pyton' \(did you mean 'python'\?\)",
    ),
}


@pytest.mark.parametrize(("fields", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_place(fields: dict[str, Any], message: str, lab: Lab) -> None:
    with pytest.raises(LinesError, match=message):
        judge(lab(**fields))


def test_recorded_baselines_normalize_by_the_direction(lab: Lab) -> None:
    recorded = {"near": {"expert": {"val": {"distance": 0.25}}}, "far": {"expert": {"val": {"distance": 2.0}}}}
    metrics = judge(lab(tasks=recorded))
    assert (metrics["normalized_distance/near"], metrics["normalized_distance/far"]) == (0.5, 2.0)
    assert metrics["mean_normalized_distance"] == 1.25
