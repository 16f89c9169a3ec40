"""Greedy soups: the order of candidates, which are kept, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError, RecipeError
from lines_pipeline.core.events import Event, MetricsComputed, StageStarted, TableComputed

pytestmark = pytest.mark.usefixtures("shared_store")

Recipe = Callable[..., Path]

LOW, MIDDLE, HIGH = -0.625, 0.3125, 0.9375
"""Sums of models. All images are right in (3/8, 5/8]; LOW gets 3 of 6 right, MIDDLE 5 and HIGH 3."""


@pytest.fixture
def recipe(toy: Path) -> Recipe:
    """Writes a recipe with a greedy soup of models with the given sums, named ``m0``, ``m1`` ..."""
    tasks = {"rise": above(1 / 8, 2 / 8, 3 / 8), "fall": below(5 / 8, 6 / 8, 7 / 8)}
    write_suite(toy, {task: {"val": images} for task, images in tasks.items()})

    def write(sums: Sequence[float], nodes: dict[str, Any] | None = None, /, tune: Any = None, **soup: Any) -> Path:
        names = [f"m{index}" for index in range(len(sums))]
        for name, total in zip(names, sums, strict=True):
            write_model(toy / f"{name}.safetensors", total)
        shared = {
            "models": {"op": "load", "path": "{m}.safetensors", "for_each": {"m": names}},
            "soup": {"op": "soup", "models": "models", "kind": "greedy", "suite": "suite.yaml", **soup},
            "val": {"op": "evaluate", "model": "soup", "suite": "suite.yaml", "split": "val"},
            "saved": {"op": "save", "model": "soup", "path": "soup.safetensors"},
        }
        path = toy / "recipe.yaml"
        content = {"name": "greedy", "nodes": {**shared, **(nodes or {})}} | ({"tune": tune} if tune else {})
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def cooked(recipe: Path) -> tuple[float, list[dict[str, Any]], list[Event]]:
    """The sum of the soup, what was told of every candidate, and all events."""
    events: list[Event] = []
    result = lines_pipeline.run(recipe, out="out", sinks=[events.append])
    rows = [dict(row) for event in events if isinstance(event, TableComputed) for row in event.rows]
    return load_file(result.files[0])["blocks.0.weight"].item(), rows, events


def test_two_of_three_are_kept_as_worked_out_by_hand(recipe: Recipe) -> None:
    total, rows, _ = cooked(recipe([LOW, HIGH, MIDDLE]))
    assert rows == [
        {"model": "models[m2]", "alone": (2 / 3 + 1) / 2, "soup": (2 / 3 + 1) / 2, "kept": True},
        {"model": "models[m0]", "alone": 0.5, "soup": 0.5, "kept": False},
        {"model": "models[m1]", "alone": 0.5, "soup": 1.0, "kept": True},
    ]
    assert total == (MIDDLE + HIGH) / 2


def test_the_soup_is_judged_like_any_model(recipe: Recipe) -> None:
    _, _, events = cooked(recipe([LOW, HIGH, MIDDLE]))
    judged = [(event.step, event.metrics["mean_accuracy"]) for event in events if isinstance(event, MetricsComputed)]
    assert judged == [("val", 1.0)]


@pytest.mark.parametrize("sums", [[MIDDLE, HIGH, LOW], [HIGH, MIDDLE, LOW], [HIGH, LOW, MIDDLE]])
def test_candidates_are_tried_from_the_best_on_and_equals_as_listed(sums: list[float], recipe: Recipe) -> None:
    total, rows, _ = cooked(recipe(sums))
    tried = [sums[int(row["model"].removeprefix("models[m").removesuffix("]"))] for row in rows]
    assert tried == sorted(sums, key=lambda value: {MIDDLE: 0, LOW: 1, HIGH: 1}[value])
    assert total == (MIDDLE + HIGH) / 2


def test_a_candidate_that_changes_nothing_is_kept(recipe: Recipe) -> None:
    total, rows, _ = cooked(recipe([0.5, 0.4375, 0.53125]))
    assert [(row["model"], row["kept"]) for row in rows] == [(f"models[m{index}]", True) for index in range(3)]
    assert total == pytest.approx((0.5 + 0.4375 + 0.53125) / 3)


def test_the_best_alone_where_nothing_helps(recipe: Recipe) -> None:
    total, rows, _ = cooked(recipe([LOW, 0.5, -2.0]))
    assert [row["kept"] for row in rows] == [True, False, False]
    assert total == 0.5


def test_the_objective_decides(recipe: Recipe) -> None:
    total, rows, _ = cooked(recipe([LOW, HIGH, MIDDLE], objective="accuracy/fall"))
    assert [(row["model"], row["alone"], row["kept"]) for row in rows] == [
        ("models[m0]", 1.0, True),
        ("models[m2]", 1.0, True),
        ("models[m1]", 0.0, True),  # LOW, MIDDLE and HIGH together are below every image of the task
    ]
    assert total == pytest.approx((LOW + HIGH + MIDDLE) / 3)


def test_a_repeated_soup_passes_over_nothing(recipe: Recipe) -> None:
    path = recipe([LOW, HIGH, MIDDLE])
    first, rows, _ = cooked(path)
    again, remembered, events = cooked(path)
    assert (again, remembered) == (first, rows)
    assert not [event for event in events if isinstance(event, StageStarted)]


def test_a_soup_goes_on_into_other_nodes_and_trials(recipe: Recipe) -> None:
    nodes = {
        "mixed": {"op": "interpolate", "models": ["models[m0]", "soup"], "t": 0.5},
        "val": {"op": "evaluate", "model": "mixed", "suite": "suite.yaml", "split": "val"},
        "saved": {"op": "save", "model": "mixed", "path": "mixed.safetensors"},
    }
    tune = {"parameters": {"mixed.t": {"values": [0.0, 0.5, 1.0]}}, "objective": "val.mean_accuracy"}
    total, _, _ = cooked(recipe([LOW, HIGH, MIDDLE], nodes, tune=tune))
    assert total == (MIDDLE + HIGH) / 2  # t = 1: the soup alone is right everywhere


def test_what_was_tried_is_recorded(shared_store: str, recipe: Recipe) -> None:
    result = lines_pipeline.run(recipe([LOW, HIGH, MIDDLE]), out="out")
    tables = MlflowClient(tracking_uri=shared_store).list_artifacts(result.run_id, "tables/greedy_soup")
    assert [table.path for table in tables] == ["tables/greedy_soup/soup.json"]


def test_choosing_on_the_test_split_is_refused(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+:\d+: node 'soup': .*test split.*'split: val'"):
        lines_pipeline.validate(recipe([LOW, HIGH], split="test"))


def test_a_greedy_soup_needs_a_suite(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="node 'soup': a greedy soup needs 'suite'"):
        lines_pipeline.validate(recipe([LOW, HIGH], suite=None))


@pytest.mark.parametrize("objective", ["mean_acuracy", "accuracy/birds"])
def test_an_objective_that_the_suite_does_not_declare(objective: str, recipe: Recipe) -> None:
    known = "<metric>/<task>, mean_<metric>"
    with pytest.raises(RecipeError, match=f"node 'soup': .*no metric '{objective}'.*; it gives: {known}"):
        lines_pipeline.validate(recipe([LOW, HIGH], objective=objective))


def test_an_objective_that_the_suite_cannot_give(recipe: Recipe) -> None:
    with pytest.raises(EvalError, match="node 'soup': no metric 'mean_top5_accuracy'; the suite gives"):
        lines_pipeline.run(recipe([LOW, HIGH], objective="mean_top5_accuracy"), out="out")
    assert not Path("out/soup.safetensors").exists()


def test_where_lower_is_better_a_model_that_lowers_it_is_kept(recipe: Recipe) -> None:
    _, rows, _ = cooked(recipe([LOW, HIGH, MIDDLE], objective="mean_loss"))
    alone = [row["alone"] for row in rows]
    assert alone == sorted(alone) and rows[0]["kept"]
    soups = [row["soup"] for row in rows if row["kept"]]
    assert soups == sorted(soups, reverse=True)


def test_some_tasks_may_judge(recipe: Recipe) -> None:
    _, rows, _ = cooked(recipe([LOW, HIGH, MIDDLE], tasks=["rise"]))
    assert rows[0] == {"model": "models[m1]", "alone": 1.0, "soup": 1.0, "kept": True}
