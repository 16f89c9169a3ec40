"""Samplers: the same trials however many are asked for at a time."""

from __future__ import annotations

import pytest

from lines_pipeline.recipe.schema import Tune
from lines_pipeline.search.samplers import Values, open_sampler

LISTED = {"a.x": {"low": 0.0, "high": 1.0, "step": 0.25}, "b.y": {"values": ("p", "q")}}
RANGES = {"a.x": {"low": 0.0, "high": 1.0, "step": 0.25}, "b.y": {"low": -1.0, "high": 1.0}}


def proposed(sampler: str, count: int) -> list[list[Values]]:
    """What is proposed for so many at a time, in batches; a trial's objective is its first value."""
    trials, parameters = None if sampler == "grid" else 10, RANGES if sampler == "cmaes" else LISTED
    tune = Tune.model_validate(
        {"parameters": parameters, "objective": "val.mean_accuracy", "sampler": sampler, "trials": trials}
    )
    asked, batches = open_sampler(tune, 7, "maximize"), list[list[Values]]()
    while batch := asked.ask(count):
        asked.tell([float(values["a.x"]) for values in batch])
        batches.append(batch)
    return batches


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "cmaes"])
def test_batches_hold_the_trials_of_one_at_a_time(sampler: str) -> None:
    if sampler != "grid":
        pytest.importorskip("cmaes" if sampler == "cmaes" else "optuna")
    single = [values for batch in proposed(sampler, 1) for values in batch]
    assert [values for batch in proposed(sampler, 4) for values in batch] == single
    assert len(single) == 10


@pytest.mark.parametrize(
    ("sampler", "sizes"), [("grid", [4, 4, 2]), ("random", [4, 4, 2]), ("tpe", [1] * 10), ("cmaes", [1] * 10)]
)
def test_trials_that_learn_from_each_other_come_one_by_one(sampler: str, sizes: list[int]) -> None:
    if sampler != "grid":
        pytest.importorskip("cmaes" if sampler == "cmaes" else "optuna")
    assert [len(batch) for batch in proposed(sampler, 4)] == sizes
