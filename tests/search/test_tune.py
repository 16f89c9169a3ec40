"""``tune``: which trials are run, in what order, what they read, and what becomes of the best one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file
from toy_suite import above, below, write_model, write_suite, write_tuned

import lines_pipeline
from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import (
    Event,
    MetricsComputed,
    ParamsChosen,
    StageFinished,
    StageStarted,
    TrialFinished,
    TrialStarted,
)
from lines_pipeline.evaluation import evaluator as judging

pytestmark = pytest.mark.usefixtures("shared_store")

IMAGES = (0.125, 0.375, 0.625, 0.875)
QUARTERS = {"low": 0.25, "high": 1.0, "step": 0.25}
TUNE: Mapping[str, Any] = {"parameters": {"model.scale": QUARTERS}, "objective": "val.mean_accuracy"}
"""The model's sum is its scale: a step to the right gets one more image of ``rise`` right, and one less of ``fall``."""


@pytest.fixture
def recipe(toy: Path) -> Callable[..., Path]:
    """Writes a recipe whose model has the sum ``model.scale * scaled.by``, with a suite that splits at ``IMAGES``."""
    write_model(toy / "base.safetensors", 0.0)
    write_model(toy / "a.safetensors", 1.0)
    splits = {"val": IMAGES, "test": IMAGES[:2]}
    tasks = {"rise": {s: above(*i) for s, i in splits.items()}, "fall": {s: below(*i) for s, i in splits.items()}}
    write_suite(toy, tasks)

    def write(tune: Mapping[str, Any], **top: Any) -> Path:
        nodes = {
            "test": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "test"},
            "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
        }
        return write_tuned(toy, tune, nodes, **top)

    return write


Recipe = Callable[..., Path]


def followed(recipe: Path, **options: Any) -> tuple[lines_pipeline.RunResult, list[Event]]:
    """A run and its events."""
    events: list[Event] = []
    return lines_pipeline.run(recipe, out="out", sinks=[events.append], **options), events


def tried(events: list[Event]) -> list[dict[str, Any]]:
    """The values of every trial, in order."""
    return [dict(event.params) for event in events if isinstance(event, TrialStarted)]


def objectives(events: list[Event]) -> list[float]:
    """The objective of every trial, in order."""
    return [event.objective for event in events if isinstance(event, TrialFinished)]


def test_a_grid_goes_through_ranges_upwards(recipe: Recipe) -> None:
    objective = {"objective": "val.accuracy/rise"}
    result, events = followed(recipe({**TUNE, **objective}))
    assert tried(events) == [{"model.scale": value} for value in (0.25, 0.5, 0.75, 1.0)]
    assert objectives(events) == [0.25, 0.5, 0.75, 1.0]
    assert result.chosen == {"model.scale": 1.0}


def test_a_grid_of_two_changes_the_last_parameter_first(recipe: Recipe) -> None:
    parameters = {"scaled.by": {"values": [1.0, 0.5]}, "model.scale": {"values": [0.5, 1.0]}}
    _, events = followed(recipe({"parameters": parameters, "objective": "val.accuracy/rise"}))
    assert [tuple(values.values()) for values in tried(events)] == [(1.0, 0.5), (1.0, 1.0), (0.5, 0.5), (0.5, 1.0)]
    assert [list(values) for values in tried(events)] == [["scaled.by", "model.scale"]] * 4
    assert objectives(events) == [0.5, 1.0, 0.25, 0.5]


@pytest.mark.parametrize(("values", "chosen"), [([0.5, 0.75], 0.5), ([0.75, 0.5], 0.75)])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_first_of_equals_wins(values: list[float], chosen: float, direction: str, recipe: Recipe) -> None:
    tune = {"parameters": {"model.scale": {"values": values}}, "objective": "val.mean_accuracy"}
    result, events = followed(recipe({**tune, "direction": direction}))
    assert objectives(events) == [0.5, 0.5]
    assert result.chosen == {"model.scale": chosen}


@pytest.mark.parametrize(
    ("objective", "direction", "chosen", "value"),
    [
        ("val.accuracy/rise", "maximize", 1.0, 1.0),
        ("val.accuracy/rise", "minimize", 0.25, 0.25),
        ("2 * val.accuracy/rise + val.accuracy/fall", "maximize", 1.0, 2.0),
        ("val.accuracy/rise + 3 * val.accuracy/fall", "maximize", 0.25, 2.5),
        ("val.accuracy/rise + 3 * val.accuracy/fall", "minimize", 1.0, 1.0),
        ("(val.accuracy/rise - val.accuracy/fall) / 2 + 1", "maximize", 1.0, 1.5),
    ],
)
def test_an_objective_is_a_sum_of_weighted_metrics(
    objective: str, direction: str, chosen: float, value: float, recipe: Recipe
) -> None:
    result, events = followed(recipe({**TUNE, "objective": objective, "direction": direction}))
    assert result.chosen == {"model.scale": chosen}
    assert [event.objective for event in events if isinstance(event, ParamsChosen)] == [value]


def test_chosen_values_replace_those_of_the_recipe(recipe: Recipe) -> None:
    result, _ = followed(recipe({**TUNE, "objective": "val.accuracy/rise - 2 * val.accuracy/fall"}))
    assert load_file(result.files[0])["blocks.0.weight"].item() == result.chosen["model.scale"] == 1.0
    assert result.metrics["val"]["accuracy/rise"] == 1.0
    test = result.metrics["test"]
    assert (test["accuracy/rise"], test["accuracy/fall"], test["mean_accuracy"]) == (1.0, 0.0, 0.5)


def test_without_tuning_the_values_are_used_as_written(recipe: Recipe) -> None:
    path = recipe(TUNE)
    result, events = followed(path, tune=False)
    assert tried(events) == [] and result.chosen == {}
    assert load_file(result.files[0])["blocks.0.weight"].item() == 0.0
    assert lines_pipeline.plan(path).trials == 4
    assert lines_pipeline.plan(path, tune=False).trials == 0


def test_values_may_be_anything_that_the_parameter_takes(toy: Path, recipe: Recipe) -> None:
    path = recipe(TUNE)
    content = yaml.safe_load(path.read_text())
    content["nodes"]["scaled"] = {"op": "task-arithmetic", "deltas": ["update", "update"]}
    content["nodes"]["model"]["scale"] = 1.0
    content["tune"]["parameters"] = {"scaled.weights": {"values": [[0.25, 0.25], [1.0, -0.25], 0.125]}}
    content["tune"]["objective"] = "val.accuracy/rise"
    path.write_text(yaml.safe_dump(content))
    result, events = followed(path)
    assert objectives(events) == [0.5, 0.75, 0.25]
    assert list(result.chosen["scaled.weights"]) == [1.0, -0.25]


def test_trials_judge_only_what_the_objective_needs(recipe: Recipe) -> None:
    _, events = followed(recipe(TUNE))
    for event in events:
        if isinstance(event, TrialFinished):
            assert {name.partition("/")[0] for name in event.metrics} == {"val"}
    chosen = next(index for index, event in enumerate(events) if isinstance(event, ParamsChosen))
    judged = [(index > chosen, event.step) for index, event in enumerate(events) if isinstance(event, MetricsComputed)]
    assert sorted(judged) == [(True, "test"), (True, "val")]


def test_models_of_trials_are_not_kept(tmp_path: Path, recipe: Recipe) -> None:
    followed(recipe(TUNE))
    values = tmp_path / "cache" / "lines-pipeline" / "nodes" / "values"
    kept = [load_file(path)["blocks.0.weight"].item() for path in values.glob("*.safetensors")]
    assert [value for value in kept if value in (0.5, 0.75, 1.0)] == []  # the first of equals is 0.25


def test_models_of_trials_are_not_kept_where_judging_them_fails(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise EvalError("out of order")

    monkeypatch.setattr(judging, "evaluate_all", fails)
    with pytest.raises(EvalError, match="out of order"):
        lines_pipeline.run(recipe(TUNE), out="out")
    assert list((tmp_path / "cache").rglob("values/*")) == []


def test_a_repeated_search_passes_over_nothing(recipe: Recipe) -> None:
    path = recipe(TUNE)
    first, _ = followed(path)
    again, events = followed(path)
    assert not [event for event in events if isinstance(event, StageStarted)]
    assert again.chosen == first.chosen and again.metrics == first.metrics


def test_trials_are_nested_runs(shared_store: str, recipe: Recipe) -> None:
    result, _ = followed(recipe({**TUNE, "objective": "val.accuracy/rise"}))
    client = MlflowClient(tracking_uri=shared_store)
    parent = client.get_run(result.run_id)
    assert parent.data.params["model.scale"] == "1.0"
    assert parent.data.metrics["tune/objective"] == 1.0
    trials = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'", order_by=["start_time"]
    )
    assert sorted(run.info.run_name for run in trials) == [f"trial-{number:03d}" for number in range(4)]
    for run in trials:
        assert run.info.status == "FINISHED"
        assert run.data.metrics["tune/objective"] == run.data.metrics["val/accuracy/rise"]
        assert float(run.data.params["model.scale"]) == run.data.metrics["val/accuracy/rise"]


@pytest.fixture
def lines_recipe(toy: Path) -> Callable[..., Path]:
    """Writes a recipe of three experts of three blocks, each block 0.25 in their TIES, and LiNeS with beta searched."""
    for name, weight in {"base": 0.0, "a": 0.125, "b": 0.25, "c": 0.375}.items():
        write_model(toy / f"{name}.safetensors", weight, weight, weight)
    write_suite(toy, {"rise": {"val": above(*(step / 8 for step in range(16)))}}, blocks=3)

    def write(**scaled: Any) -> Path:
        nodes = {
            "base": {"op": "load", "path": "base.safetensors"},
            "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b", "c"]}},
            "updates": {"op": "task-vector", "model": "experts", "base": "base"},
            "merged": {"op": "ties", "deltas": "updates", "density": 1.0},
            "scaled": {"op": "lines-scale", "delta": "merged", "beta": 0.5, **scaled},
            "model": {"op": "apply", "base": "base", "delta": "scaled"},
            "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
            "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
        }
        parameters = {"scaled.beta": {"low": 0, "high": 2, "step": 0.5}}
        path = toy / "lines.yaml"
        tune = {"parameters": parameters, "objective": "val.mean_accuracy"}
        path.write_text(yaml.safe_dump({"name": "lines", "nodes": nodes, "tune": tune}))
        return path

    return write


MODEL_BYTES = 3 * 4


def test_a_trial_that_changes_beta_reads_no_expert(lines_recipe: Recipe) -> None:
    result, events = followed(lines_recipe(alpha=1.0))
    first = next(index for index, event in enumerate(events) if isinstance(event, TrialStarted))
    before = [event.bytes_read for event in events[:first] if isinstance(event, StageFinished)]
    after = [event.bytes_read for event in events[first:] if isinstance(event, StageFinished)]
    assert set(before) == {4 * MODEL_BYTES}
    assert after == [2 * MODEL_BYTES] * 6  # the base and the merged update: five trials, and the model that is kept
    # the sum is 0.25 * (3 * alpha + 1.5 * beta): 0.75 + 0.375 * beta, in eighths 6 + 3 * beta
    assert objectives(events) == [6 / 16, 8 / 16, 9 / 16, 11 / 16, 12 / 16]
    tensors = load_file(result.files[0])
    assert [tensors[f"blocks.{block}.weight"].item() for block in range(3)] == [0.25, 0.5, 0.75]


def test_alpha_is_measured_on_the_experts_once(lines_recipe: Recipe) -> None:
    result, events = followed(lines_recipe(alpha="auto", deltas="updates"))
    trials = [index for index, event in enumerate(events) if isinstance(event, TrialStarted)]
    read = [event.bytes_read for event in events[trials[0] : trials[1]] if isinstance(event, StageFinished)]
    later = [event.bytes_read for event in events[trials[1] :] if isinstance(event, StageFinished)]
    assert read == [5 * MODEL_BYTES, 2 * MODEL_BYTES]  # base, merged update and experts for alpha; then as ever
    assert later == [2 * MODEL_BYTES] * 5
    assert result.facts["scaled"]["alpha"] == 1.0  # |0.125 + 0.25 + 0.375| / |0.25| / 3 experts


def test_a_search_does_not_depend_on_the_cache(lines_recipe: Recipe) -> None:
    path = lines_recipe(alpha="auto", deltas="updates")
    cached, _ = followed(path)
    content = cached.files[0].read_bytes()
    fresh, events = followed(path, cache=False)
    assert fresh.chosen == cached.chosen
    assert fresh.files[0].read_bytes() == content
    assert len(tried(events)) == 5


RANGES = {"scaled.by": {"low": 0.5, "high": 2.0}, "model.scale": {"low": 0.125, "high": 1.0, "log": True}}


def sampled(recipe: Recipe, sampler: str, seed: int, parameters: Mapping[str, Any] = RANGES) -> list[tuple[Any, ...]]:
    """The values that a sampler tries in 12 trials."""
    tune = {"parameters": dict(parameters), "objective": "val.accuracy/rise", "sampler": sampler, "trials": 12}
    _, events = followed(recipe(tune, seed=seed))
    return [tuple(values.values()) for values in tried(events)]


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_samplers_are_decided_by_the_seed(sampler: str, recipe: Recipe) -> None:
    pytest.importorskip({"cmaes": "cmaes"}.get(sampler, "optuna"))
    samples = sampled(recipe, sampler, 0)
    assert len(set(samples)) == 12
    assert all(0.5 <= by <= 2.0 and 0.125 <= scale <= 1.0 for by, scale in samples)
    assert sampled(recipe, sampler, 0) == samples
    assert sampled(recipe, sampler, 1) != samples


def test_samplers_keep_to_steps_and_lists(recipe: Recipe) -> None:
    pytest.importorskip("optuna")
    samples = sampled(recipe, "tpe", 0, {"scaled.by": {"values": [0.5, 1.0]}, "model.scale": QUARTERS})
    assert {by for by, _ in samples} == {0.5, 1.0}
    assert {scale for _, scale in samples} <= {0.25, 0.5, 0.75, 1.0}


def test_a_sampler_without_its_extra_says_what_to_install(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(EvalError, match=r"sampler random: needs the extra 'search': pip install"):
        sampled(recipe, "random", 0)


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
@pytest.mark.parametrize(("trials", "tried"), [(5, 5), (50, 6)])
def test_no_sampler_spends_a_trial_on_a_repeat(
    sampler: str, trials: int, tried: int, recipe: Callable[..., Path]
) -> None:
    parameters = {"model.scale": {"low": 0.25, "high": 1.5, "step": 0.25}}
    tune = {"parameters": parameters, "objective": "val.accuracy/rise", "sampler": sampler, "trials": trials}
    events: list[Event] = []
    path = recipe(tune)
    lines_pipeline.run(path, sinks=[events.append])
    values = [event.params["model.scale"] for event in events if isinstance(event, TrialStarted)]
    assert len(values) == len(set(values)) == tried == lines_pipeline.plan(path).trials
