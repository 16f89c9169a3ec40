"""Trials that are stopped early, remembered after a run was killed, kept, and drawn."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from toy_suite import above, write_model, write_suite, write_tuned

import lines_pipeline
from lines_pipeline.core.errors import EvalError, RecipeError
from lines_pipeline.core.events import Event, FigureDrawn, TableComputed, TrialFinished, TrialStarted
from lines_pipeline.evaluation import evaluator
from lines_pipeline.evaluation.worker import Evaluation, evaluate_all

Recipe = Callable[..., Path]

IMAGES = tuple((step + 0.5) / 64 for step in range(64))
"""A model whose sum is s gets the share s of them right."""
GRID = {"parameters": {"model.scale": {"values": [0.5, 0.25, 0.75, 0.125, 1.0]}}, "objective": "val.accuracy/rise"}
PRUNED = {**GRID, "pruning": {"shares": [0.25, 0.5], "keep": 0.5}}


@pytest.fixture
def recipe(toy: Path) -> Recipe:
    """Writes a recipe whose model has the sum ``model.scale * scaled.by``."""
    write_model(toy / "base.safetensors", 0.0)
    write_model(toy / "a.safetensors", 1.0)
    write_suite(toy, {"rise": {"val": above(*IMAGES)}})

    def write(tune: Mapping[str, Any], nodes: Mapping[str, Any] | None = None, **top: Any) -> Path:
        return write_tuned(toy, tune, nodes or {}, **top)

    return write


def followed(recipe: Path, **options: Any) -> tuple[lines_pipeline.RunResult, list[Event]]:
    events: list[Event] = []
    return lines_pipeline.run(recipe, out="out", sinks=[events.append], tracking=False, **options), events


def finished(events: list[Event]) -> list[TrialFinished]:
    return [event for event in events if isinstance(event, TrialFinished)]


def test_hopeless_trials_are_stopped_and_the_choice_is_among_the_others(recipe: Recipe) -> None:
    result, events = followed(recipe(PRUNED))
    assert [event.share for event in finished(events)] == [1.0, 0.25, 1.0, 0.25, 1.0]
    assert result.chosen == {"model.scale": 1.0}
    whole = {event.number: event.objective for event in finished(events) if event.share == 1}
    assert whole == {0: 0.5, 2: 0.75, 4: 1.0}
    unpruned, _ = followed(recipe(GRID))
    assert unpruned.chosen == result.chosen


def test_a_part_is_judged_in_place_of_all(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[float] = []

    def counted(scheduler: Any, evaluations: list[Evaluation], memory: int | None = None) -> Any:
        scores = evaluate_all(scheduler, evaluations, memory)
        judged.extend(len(one.samples["rise"].values["accuracy"]) for one in scores)
        return scores

    monkeypatch.setattr(evaluator, "evaluate_all", counted)
    followed(recipe(PRUNED))
    assert judged == [16, 32, 64, 16, 16, 32, 64, 16, 16, 32, 64]  # the chosen model's scores are remembered


def test_a_lower_objective_may_be_the_better_one(recipe: Recipe) -> None:
    result, events = followed(recipe({**PRUNED, "direction": "minimize"}))
    assert [event.share for event in finished(events)] == [1.0, 1.0, 0.25, 1.0, 0.25]
    assert result.chosen == {"model.scale": 0.125}


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_samplers_are_told_of_stopped_trials(sampler: str, recipe: Recipe) -> None:
    pytest.importorskip("cmaes" if sampler == "cmaes" else "optuna")
    parameters = {"scaled.by": {"low": 0.5, "high": 2.0}, "model.scale": {"low": 0.0, "high": 0.5}}
    tune = {**PRUNED, "parameters": parameters, "sampler": sampler, "trials": 12}
    result, events = followed(recipe(tune))
    assert {event.share for event in finished(events)} > {1.0}
    best = max(event.objective for event in finished(events) if event.share == 1)
    assert result.metrics["val"]["accuracy/rise"] == best
    again, repeated = followed(recipe(tune))
    assert again.chosen == result.chosen and [one.cached for one in finished(repeated)] == [True] * 12


KILLED = """
import os, signal, sys
import lines_pipeline
from lines_pipeline.core.events import TrialFinished

def kill(event):
    if isinstance(event, TrialFinished) and event.number == 4:
        os.kill(os.getpid(), signal.SIGKILL)

lines_pipeline.run(sys.argv[1], out="out", sinks=[kill], tracking=False, trust=True)
"""


@pytest.mark.parametrize(("sampler", "pruning"), [("random", None), ("tpe", {"shares": [0.25], "keep": 0.5})])
def test_after_a_kill_the_next_run_makes_the_trials_that_are_missing(
    sampler: str, pruning: Mapping[str, Any] | None, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    parameters = {"scaled.by": {"low": 0.5, "high": 2.0}, "model.scale": {"low": 0.0, "high": 0.5}}
    path = recipe({**GRID, "parameters": parameters, "sampler": sampler, "trials": 12, "pruning": pruning})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    resumed, events = followed(path)
    assert [event.cached for event in finished(events)] == [True] * 5 + [False] * 7
    assert "note: tune: 5 of 12 trials are remembered from an earlier run" in resumed.notes
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    whole, at_once = followed(path)
    assert [event.cached for event in finished(at_once)] == [False] * 12
    assert resumed.chosen == whole.chosen
    tried = [[dict(event.params) for event in some if isinstance(event, TrialStarted)] for some in (events, at_once)]
    assert tried[0] == tried[1] and len(tried[0]) == 12


def test_all_trials_are_in_the_result_the_folder_and_the_events(recipe: Recipe) -> None:
    result, events = followed(recipe(PRUNED))
    assert [(one["trial"], one["values"], one["outcome"]) for one in result.trials] == [
        (0, {"model.scale": 0.5}, "complete"),
        (1, {"model.scale": 0.25}, "stopped"),
        (2, {"model.scale": 0.75}, "complete"),
        (3, {"model.scale": 0.125}, "stopped"),
        (4, {"model.scale": 1.0}, "complete"),
    ]
    assert result.trials[4]["metrics"]["val/accuracy/rise"] == 1.0 and result.trials[1]["metrics"] == {}
    assert json.loads(json.dumps(result.to_dict()))["trials"] == list(result.trials)
    names = [file.relative_to(Path("out").resolve()).as_posix() for file in result.files]
    assert names == ["tune/objective.svg", "tune/trials.csv", "tune/model.scale.svg"]
    rows = list(csv.DictReader(io.StringIO(result.files[1].read_text())))
    assert [row["objective"] for row in rows] == [str(one["objective"]) for one in result.trials]
    assert [row["share"] for row in rows] == ["1.0", "0.25", "1.0", "0.25", "1.0"]
    assert [row["val/accuracy/rise"] for row in rows] == ["0.5", "", "0.75", "", "1.0"]
    assert result.files[0].read_text().startswith("<?xml")
    tables = [event for event in events if isinstance(event, TableComputed)]
    assert [(table.name, table.rows) for table in tables] == [("tune/trials", result.trials)]
    drawn = [event for event in events if isinstance(event, FigureDrawn)]
    assert [list(event.texts) for event in drawn] == [names]


def test_equal_searches_write_equal_files_and_untuned_runs_none(recipe: Recipe) -> None:
    path = recipe({**GRID, "parameters": {"model.scale": {"values": [0.5, 1]}, "scaled.by": {"values": [1.0, 0.5]}}})
    first, _ = followed(path)
    contents = [file.read_bytes() for file in first.files]
    again, _ = followed(path, cache=False)
    assert [file.read_bytes() for file in again.files] == contents and len(contents) == 4
    untuned, _ = followed(path, tune=False)
    assert untuned.files == () and untuned.trials == () and "trials" not in untuned.to_dict()


def test_values_that_are_lists_are_kept_and_drawn(recipe: Recipe) -> None:
    merged = {"op": "task-arithmetic", "deltas": ["update", "update"]}
    model = {"op": "apply", "base": "base", "delta": "scaled", "scale": 1.0}
    values = [[0.25, 0.25], [0.5, 0.25], 0.125]
    tune = {**GRID, "parameters": {"scaled.weights": {"values": values}}}
    result, _ = followed(recipe(tune, {"scaled": merged, "model": model}))
    rows = list(csv.DictReader(io.StringIO(result.files[1].read_text())))
    assert [row["scaled.weights"] for row in rows] == ["[0.25, 0.25]", "[0.5, 0.25]", "0.125"]
    assert [one["values"]["scaled.weights"] for one in result.trials] == values


@pytest.mark.usefixtures("shared_store")
def test_a_stopped_trial_is_recorded_apart(shared_store: str, recipe: Recipe) -> None:
    path = recipe(PRUNED)
    lines_pipeline.run(path, out="out")
    result = lines_pipeline.run(path, out="out")
    client = MlflowClient(tracking_uri=shared_store)
    experiment = client.get_run(result.run_id).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    found = {run.info.run_name: run.data for run in runs}
    assert set(found["trial-001"].metrics) == {"tune/objective_when_stopped", "tune/share"}
    assert found["trial-004"].metrics["tune/objective"] == 1.0
    assert {data.tags.get("cached") for data in found.values()} == {"true"}
    assert client.list_artifacts(result.run_id, "tables/tune")[0].path == "tables/tune/trials.json"
    figures = {one.path for one in client.list_artifacts(result.run_id, "figures/tune")}
    assert figures == {"figures/tune/objective.svg", "figures/tune/model.scale.svg", "figures/tune/trials.csv"}


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({"shares": [0.5, 0.25]}, "expected shares that grow, found 0.5, 0.25"),
        ({"shares": [1.0]}, "expected a number below 1, found 1.0"),
        ({"shares": []}, "expected a share at least, found an empty list"),
        ({"keep": 0}, "expected a number above 0"),
        ({"start": 1}, "unknown key 'start'"),
    ],
)
def test_pruning_that_means_nothing(pruning: Mapping[str, Any], message: str, recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=message):
        lines_pipeline.validate(recipe({**GRID, "pruning": pruning}))


def test_no_node_may_write_among_the_trials(recipe: Recipe) -> None:
    saved = {"op": "save", "model": "model", "path": "tune/model.safetensors"}
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+:\d+: node 'saved': .*in 'tune/' are the trials of 'tune'"):
        lines_pipeline.validate(recipe(GRID, {"saved": saved}))


def test_a_suite_that_judges_by_all_samples_or_none(recipe: Recipe) -> None:
    path = recipe(PRUNED)
    (path.parent / "suite.yaml").write_text(
        yaml.safe_dump({"kind": "python", "function": "judge.py:judge", "metrics": {"score": {}}, "tasks": ["rise"]})
    )
    (path.parent / "judge.py").write_text("def judge(model, task, split):\n    return 1.0\n")
    path.write_text(path.read_text().replace("val.accuracy/rise", "val.score/rise"))
    with pytest.raises(EvalError, match=r"suite suite\.yaml judges a model by all samples .* leave 'pruning' out"):
        lines_pipeline.validate(path, trust=True)
