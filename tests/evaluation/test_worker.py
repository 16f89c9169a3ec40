"""Evaluations as things to send: dealt out by tasks, put together again, and refused where files are not the same."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from toy_suite import above, below, write_model, write_suite

from lines_pipeline.core.errors import EngineError, EvalError
from lines_pipeline.evaluation.worker import Evaluation, ModelFile, evaluate, evaluate_all
from lines_pipeline.executor.schedulers.local import Serial
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.ops.roles import Combination
from lines_pipeline.suites.labelled_tensors import LabelledTensors
from lines_pipeline.suites.opening import open_suite


@dataclass(frozen=True)
class Workers(Serial):
    """So many at once, the last first; remembers how many tasks each evaluation of each call had."""

    sizes: Sequence[Sequence[int]] = ()

    def call(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        assert [[len(member.tasks) for member in group.evaluations] for group in items] == list(self.sizes)
        return [function(item) for item in reversed(items)][::-1]


@pytest.fixture
def evaluation(toy: Path) -> Evaluation:
    """Three tasks, of which a model with the sum 0.5 gets 1/2, 1 and 0 right."""
    tasks = {"half": above(0.25, 0.75), "all": above(0.25), "none": below(0.25)}
    write_suite(toy, {task: {"val": images} for task, images in tasks.items()})
    write_model(toy / "model.safetensors", 0.5)
    digest = open_suite("suite.yaml", toy).digest("val")
    model = ModelFile(SourceFile.of(toy / "model.safetensors"))
    return Evaluation("val", (model,), "suite.yaml", toy, digest, tuple(tasks), "val", "cpu")


@pytest.mark.parametrize(
    ("workers", "sizes"), [(1, [[3, 3]]), (3, [[3], [3]]), (4, [[2], [1], [2], [1]]), (20, [[1]] * 6)]
)
def test_tasks_are_dealt_to_workers_that_would_be_idle(
    workers: int, sizes: list[list[int]], evaluation: Evaluation
) -> None:
    scores = evaluate_all(Workers(calls_at_once=workers, sizes=sizes), [evaluation, evaluation])
    values = [[(task, figures["accuracy"]) for task, figures in score.values.items()] for score in scores]
    assert values == [[("half", 0.5), ("all", 1.0), ("none", 0.0)]] * 2


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_an_ensemble_is_dealt_by_tasks_and_scored_the_same(combine: Combination, evaluation: Evaluation) -> None:
    write_model(evaluation.folder / "other.safetensors", -0.25)
    other = ModelFile(SourceFile.of(evaluation.folder / "other.safetensors"))
    ensemble = replace(evaluation, models=(*evaluation.models, other), combine=combine)
    (whole,) = evaluate_all(Workers(calls_at_once=1, sizes=[[3]]), [ensemble])
    (dealt,) = evaluate_all(Workers(calls_at_once=3, sizes=[[1], [1], [1]]), [ensemble])
    assert dealt.values == whole.values and list(dealt.values) == ["half", "all", "none"]
    assert whole.values != evaluate(evaluation).values


@pytest.mark.parametrize(("memory", "times"), [(None, 1), (10**9, 1), (10**8, 5)], ids=["free", "room", "no room"])
def test_data_are_read_once_for_all_models_where_memory_allows(
    memory: int | None, times: int, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    original = LabelledTensors.of

    def counted(tensors: Any, source: str, where: str) -> LabelledTensors:
        read[source] += 1
        return original(tensors, source, where)

    monkeypatch.setattr(LabelledTensors, "of", counted)
    scores = evaluate_all(Serial(), [evaluation] * 5, memory)
    assert read == {f"{task}_val.safetensors": times for task in ("half", "all", "none")}
    assert [score.values for score in scores] == [evaluate(evaluation).values] * 5


def test_evaluations_on_other_data_are_not_put_together(evaluation: Evaluation) -> None:
    others = [evaluation, replace(evaluation, split="test"), evaluation]
    with pytest.raises(EvalError, match="not the suite that the driver has"):
        evaluate_all(Workers(calls_at_once=1, sizes=[[3, 3], [3]]), others)


def test_nothing_to_evaluate() -> None:
    assert evaluate_all(Workers(calls_at_once=4), []) == []


def test_another_model_at_the_same_path_is_refused(evaluation: Evaluation) -> None:
    os.utime(evaluation.models[0].weights.path, (1, 1))
    with pytest.raises(EngineError, match=r"model\.safetensors: \d+ bytes with a time of 1, the driver has"):
        evaluate(evaluation)


def test_other_data_at_the_same_path_are_refused(evaluation: Evaluation) -> None:
    os.utime(evaluation.folder / "all_val.safetensors", (1, 1))
    with pytest.raises(EvalError, match=r"node 'val': .*suite\.yaml: not the suite that the driver has"):
        evaluate(evaluation)
