"""Metrics that are normalized by other nodes of the recipe, in place of what the suite records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError, LinesError, RecipeError
from lines_pipeline.core.events import Event, TrialFinished

pytestmark = pytest.mark.usefixtures("shared_store")

IMAGES = (0.125, 0.375, 0.625, 0.875)
EXPERTS = {"rise": 0.75, "fall": 0.25}
"""The sum of each task's expert: each gets 3 of 4 right on its own task, and 1 of 4 on the other."""

Recipe = Callable[..., Path]


@pytest.fixture
def recipe(toy: Path) -> Recipe:
    """Writes a recipe that evaluates experts, the base (sum 0.5) and a model of the scale 0.5 (sum 0.5)."""
    write_model(toy / "base.safetensors", 0.5)
    for task, total in EXPERTS.items():
        write_model(toy / f"{task}.safetensors", total)
    tasks = {"rise": {"val": above(*IMAGES)}, "fall": {"val": below(*IMAGES)}}
    write_suite(toy, tasks, expert_accuracy={task: {"val": 1.0} for task in tasks})

    def write(nodes: dict[str, Any] = {}, tune: Any = None, **evaluate: Any) -> Path:
        judge = {"op": "evaluate", "suite": "suite.yaml", "split": "val"}
        every = {
            "base": {"op": "load", "path": "base.safetensors"},
            "experts": {"op": "load", "path": "{task}.safetensors", "for_each": {"task": ["rise", "fall"]}},
            "experts_val": {**judge, "model": "experts", "tasks": ["{task}"]},
            "base_val": {**judge, "model": "base"},
            "updates": {"op": "task-vector", "model": "experts", "base": "base"},
            "merged": {"op": "task-arithmetic", "deltas": "updates"},
            "model": {"op": "apply", "base": "base", "delta": "merged"},
            "val": {**judge, "model": "model", **evaluate},
            **nodes,
        }
        top = {"tune": tune} if tune else {}
        path = toy / "recipe.yaml"
        path.write_text(yaml.safe_dump({"name": "toy", "nodes": every, **top}, sort_keys=False))
        return path

    return write


def test_each_task_is_held_against_its_own_expert(recipe: Recipe) -> None:
    path = recipe(baselines={"expert": "experts_val", "pretrained": "base_val"}, target="rise")
    metrics = lines_pipeline.run(path).metrics
    assert metrics["experts_val[rise]"]["accuracy/rise"] == metrics["experts_val[fall]"]["accuracy/fall"] == 0.75
    val = metrics["val"]
    assert val["normalized_accuracy/rise"] == val["normalized_accuracy/fall"] == 0.5 / 0.75
    assert val["mean_normalized_accuracy"] == val["target_normalized_accuracy"] == 0.5 / 0.75
    assert val["control_normalized_accuracy"] == 1.0
    loss = metrics["experts_val[rise]"]["loss/rise"] / val["loss/rise"]
    assert val["normalized_loss/rise"] == pytest.approx(loss)


def test_without_them_the_suite_normalizes(recipe: Recipe) -> None:
    val = lines_pipeline.run(recipe()).metrics["val"]
    assert val["mean_normalized_accuracy"] == 0.5 and "normalized_loss/rise" not in val


def test_one_node_may_be_the_baseline_of_all_tasks(recipe: Recipe) -> None:
    val = lines_pipeline.run(recipe(baselines={"expert": "base_val"})).metrics["val"]
    assert val["normalized_accuracy/rise"] == val["normalized_accuracy/fall"] == val["mean_normalized_loss"] == 1.0


@pytest.mark.parametrize("cache", [True, False])
def test_trials_are_normalized_by_what_is_judged_once(cache: bool, recipe: Recipe) -> None:
    tune = {"parameters": {"model.scale": {"values": [0.0, 1.0]}}, "objective": "val.mean_normalized_accuracy"}
    events: list[Event] = []
    path = recipe(tune=tune, baselines={"expert": "experts_val"})
    lines_pipeline.run(path, out="out", cache=cache, sinks=[events.append])
    values = [event.objective for event in events if isinstance(event, TrialFinished)]
    assert values == [0.5 / 0.75, 0.5 / 0.75]


MISTAKES: dict[str, tuple[dict[str, Any], type[LinesError], str]] = {
    "no member for a task": (
        {"baselines": {"expert": "other"}, "nodes": {"other": {"for_each": {"task": ["rise", "fal"]}}}},
        EvalError,
        r"recipe\.yaml:\d+:\d+: node 'val': 'other' has no member for the task 'fall' \(did you mean 'fal'\?\)",
    ),
    "a member that judges another task": (
        {"baselines": {"expert": "other"}, "nodes": {"other": {"tasks": ["rise"]}}},
        EvalError,
        r"node 'val': 'other\[fall\]' does not judge the task 'fall', only: rise",
    ),
    "no metrics": (
        {"baselines": {"expert": "base"}},
        RecipeError,
        r"node 'val': 'baselines\.expert' takes metrics, but 'base' gives weights",
    ),
    "an unknown role": (
        {"baselines": {"expart": "base_val"}},
        RecipeError,
        r"recipe\.yaml:\d+:7: node 'val': unknown key 'expart' \(did you mean 'expert'\?\)",
    ),
    "an unknown node": (
        {"baselines": {"expert": "experts_vall"}},
        RecipeError,
        r"unknown node 'experts_vall' \(did you mean 'experts_val'\?\)",
    ),
    "no map": (
        {"baselines": "base_val"},
        RecipeError,
        r"'baselines': expected a map from expert or pretrained to nodes",
    ),
}


@pytest.mark.parametrize(("fields", "kind", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_before_anything_runs(
    fields: dict[str, Any], kind: type[LinesError], message: str, recipe: Recipe
) -> None:
    other = {"op": "evaluate", "suite": "suite.yaml", "split": "val", "model": "experts", "tasks": ["{task}"]}
    nodes = fields.get("nodes", {})
    if "other" in nodes:
        nodes = {"other": {**other, **nodes["other"]}}
        if "for_each" in nodes["other"]:
            nodes["other"] |= {"model": "base", "tasks": ["rise", "fall"]}
    with pytest.raises(kind, match=message):
        lines_pipeline.validate(recipe(nodes, baselines=fields["baselines"]))


@pytest.mark.parametrize("split", ["test", "ood"])
def test_choosing_by_what_depends_on_held_out_data_is_refused(split: str, recipe: Recipe) -> None:
    tune = {"parameters": {"model.scale": {"values": [0.0, 1.0]}}, "objective": "val.mean_normalized_accuracy"}
    nodes = {"base_test": {"op": "evaluate", "suite": "suite.yaml", "split": split, "model": "base"}}
    with pytest.raises(RecipeError, match=f"the objective depends on 'base_test' with 'split: {split}'"):
        lines_pipeline.validate(recipe(nodes, tune, baselines={"expert": "base_test"}))


@pytest.mark.parametrize(
    ("metric", "fields", "lacks"),
    [
        (
            "mean_normalized_loss",
            {},
            "no positive 'loss' of the expert on 'val' for 'rise', 'fall'; write 'expert",
        ),
        ("normalized_loss/fall", {}, "no positive 'loss' of the expert on 'val' for 'rise', 'fall'"),
        ("mean_normalized_accuracy", {"split": "train"}, "no positive 'accuracy' of the expert on 'train'"),
        ("target_normalized_loss", {"target": "rise"}, "no positive 'loss' of the expert"),
        (
            "control_normalized_accuracy",
            {"target": "rise"},
            "no positive 'accuracy' of the pretrained model on 'val' for 'fall'; .*'baselines: {pretrained",
        ),
    ],
)
def test_an_objective_that_nothing_normalizes_is_refused(
    metric: str, fields: dict[str, Any], lacks: str, recipe: Recipe
) -> None:
    tune = {"parameters": {"model.scale": {"values": [0.0, 1.0]}}, "objective": f"val.{metric}"}
    message = rf"recipe\.yaml:\d+:14: 'val' cannot give '{metric}': suite\.yaml records {lacks}"
    with pytest.raises(RecipeError, match=message):
        lines_pipeline.validate(recipe(tune=tune, **fields))


def test_an_objective_that_is_normalized_passes(recipe: Recipe) -> None:
    tune = {"parameters": {"model.scale": {"values": [0.0, 1.0]}}}
    by_nodes = {"target": "rise", "baselines": {"expert": "experts_val", "pretrained": "base_val"}}
    for metric, fields in (
        ("mean_normalized_accuracy", {}),
        ("mean_normalized_loss", {"baselines": {"expert": "experts_val"}}),
        ("control_normalized_accuracy", by_nodes),
    ):
        lines_pipeline.validate(recipe(tune={**tune, "objective": f"val.{metric}"}, **fields))


def test_a_greedy_soup_and_a_figure_are_refused_what_nothing_normalizes(recipe: Recipe) -> None:
    soup = {"op": "soup", "models": "experts", "kind": "greedy", "suite": "suite.yaml", "split": "val"}
    with pytest.raises(
        RecipeError, match=r"'soup' cannot give 'mean_normalized_loss': suite\.yaml records no positive"
    ):
        lines_pipeline.validate(recipe({"soup": {**soup, "objective": "mean_normalized_loss"}}))
    plot = {"op": "plot", "metrics": "experts_val", "x": "task", "y": "mean_normalized_loss", "path": "plot.svg"}
    with pytest.raises(RecipeError, match=r"no column 'mean_normalized_loss': suite\.yaml records no positive 'loss'"):
        lines_pipeline.validate(recipe({"plot": plot}))
