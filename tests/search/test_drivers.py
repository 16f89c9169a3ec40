"""Drivers of ops that give metrics: what they ask for is evaluated together, whichever op asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import Event, MetricsComputed
from lines_pipeline.core.types import EdgeType
from lines_pipeline.evaluation import evaluator
from lines_pipeline.evaluation.worker import Evaluation, evaluate_all
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.ops import registry
from lines_pipeline.ops.base import Granularity, Ids, Op, OpParams, Port
from lines_pipeline.ops.drivers import Driver, Evaluated
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.suites.base import Scores

Recipe = Callable[..., Path]

NODES: dict[str, dict[str, Any]] = {
    "models": {"op": "load", "path": "{m}.safetensors", "for_each": {"m": ["a", "b"]}},
    "mean": {"op": "soup", "models": "models"},
    "val": {"op": "evaluate", "model": "mean", "suite": "suite.yaml", "split": "val"},
}


class Check(Op[OpParams]):
    """Gives the metrics of a candidate on the validation data of ``suite.yaml``."""

    name = "check"
    formula = ""
    source = "this test"
    gives = EdgeType.METRICS
    is_output = True
    inputs = {"candidate": Port(EdgeType.WEIGHTS)}
    granularity = Granularity.MODEL

    def suite_of(self, params: OpParams, inputs: Ids) -> SuiteUse:
        return SuiteUse("suite.yaml", "val", models=inputs["candidate"])

    def driver_of(self, params: OpParams) -> Driver | None:
        return lambda inputs, context: Evaluated(self.suite_of(params, inputs))


class Undriven(Check):
    name = "undriven"

    def driver_of(self, params: OpParams) -> Driver | None:
        return None


@pytest.fixture
def recipe(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Writes a recipe of ``NODES`` and others; ``check`` and ``undriven`` are ops that it may name."""
    for op in (Check(), Undriven()):
        monkeypatch.setitem(registry().own, op.name, op)
    for name, total in {"a": -0.625, "b": 0.9375}.items():
        write_model(toy / f"{name}.safetensors", total)
    tasks = {"rise": above(1 / 8, 2 / 8, 3 / 8), "fall": below(5 / 8, 6 / 8, 7 / 8)}
    write_suite(toy, {task: {"val": images} for task, images in tasks.items()})

    def write(nodes: dict[str, Any], **top: Any) -> Path:
        path = toy / "recipe.yaml"
        path.write_text(yaml.safe_dump({"name": "driven", "nodes": {**NODES, **nodes}, **top}, sort_keys=False))
        return path

    return write


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of models of every call that evaluates."""
    counts: list[int] = []

    def counted(scheduler: Scheduler, evaluations: Sequence[Evaluation], memory: int | None = None) -> list[Scores]:
        counts.append(len(evaluations))
        return evaluate_all(scheduler, evaluations, memory)

    monkeypatch.setattr(evaluator, "evaluate_all", counted)
    return counts


def test_models_of_all_steps_are_evaluated_in_one_call_and_equal_ones_once(
    recipe: Recipe, evaluated: list[int]
) -> None:
    events: list[Event] = []
    path = recipe({"same": {"op": "check", "candidate": "mean"}, "each": {"op": "check", "candidate": "models"}})
    result = lines_pipeline.run(path, out="out", tracking=False, sinks=[events.append])
    assert evaluated == [3]
    assert result.metrics["same"] == result.metrics["val"]
    assert result.metrics["same"]["accuracy/rise"] == 1 / 3  # the sum is 0.15625: above 1/8 alone, below all of fall
    assert result.metrics["same"]["accuracy/fall"] == 1.0
    assert result.units["same"]["mean_loss"] == "nats"
    texts = [event.step for event in events if isinstance(event, MetricsComputed)]
    assert texts == ["each[a]", "each[b]", "same", "val"]


def test_scores_are_remembered_whichever_op_asks(recipe: Recipe, evaluated: list[int]) -> None:
    first = lines_pipeline.run(recipe({}), out="out", tracking=False)
    again = lines_pipeline.run(recipe({"same": {"op": "check", "candidate": "mean"}}), out="out", tracking=False)
    assert evaluated == [1, 0]
    assert again.cached == ("same", "val") and again.metrics["same"] == first.metrics["val"]


def test_trials_are_chosen_by_the_metrics_of_any_op(recipe: Recipe) -> None:
    nodes = {
        "mixed": {"op": "interpolate", "models": ["models[a]", "models[b]"], "t": 0.0},
        "same": {"op": "check", "candidate": "mixed"},
    }
    tune = {"parameters": {"mixed.t": {"values": [0.0, 0.75, 1.0]}}, "objective": "same.mean_accuracy"}
    result = lines_pipeline.run(recipe(nodes, tune=tune), out="out", tracking=False)
    assert result.chosen == {"mixed.t": 0.75}  # a sum of 0.546875 is right everywhere


def test_its_metrics_normalize_those_of_other_nodes(recipe: Recipe) -> None:
    nodes = {
        "own": {"op": "check", "candidate": "models[b]"},
        "val": {**NODES["val"], "baselines": {"expert": "own"}},
    }
    metrics = lines_pipeline.run(recipe(nodes), out="out", tracking=False).metrics
    assert metrics["val"]["normalized_accuracy/rise"] == (1 / 3) / 1.0
    assert "normalized_accuracy/fall" not in metrics["val"]  # nothing is right there


def test_an_op_that_gives_metrics_without_a_driver_is_named(recipe: Recipe) -> None:
    path = recipe({"odd": {"op": "undriven", "candidate": "mean"}})
    with pytest.raises(EvalError, match=r"node 'odd': 'undriven' gives metrics, but .*expected 'Evaluated'"):
        lines_pipeline.run(path, out="out", tracking=False)
