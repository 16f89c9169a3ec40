"""Barriers on the line between two models, against values computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lines_pipeline.core.errors import EvalError
from lines_pipeline.ops import registry
from lines_pipeline.ops.derivations import Derivation, Derived
from lines_pipeline.ops.metrics_table import Member

BARRIER = registry()["barrier"]


def members(line: Mapping[float, float], direction: str = "higher", **names: Any) -> list[Member]:
    return [
        Member(f"val[{t}]", "val", str(t), {"t": t, **names}, {"m": m}, {"m": "share"}, {"m": direction})
        for t, m in line.items()
    ]


def derivation() -> Derivation:
    of_barrier = BARRIER.derivation_of(BARRIER.Params.model_validate({"metric": "m"}))
    assert of_barrier is not None
    return of_barrier


def derived(given: list[Member]) -> Derived:
    metrics = derivation().make({"metrics": given})
    assert isinstance(metrics, Derived)
    return metrics


@pytest.mark.parametrize(
    ("line", "direction", "barrier", "at"),
    [
        ({0: 0.9, 0.5: 0.6, 1: 0.7}, "higher", 0.20, 0.5),
        ({0: 0.9, 0.5: 0.8, 1: 0.7}, "higher", 0, 0),
        ({0: 0.9, 0.5: 0.85, 1: 0.7}, "higher", 0, 0),
        ({1: 2, 0.75: 4, 0.5: 3, 0.25: 1.5, 0: 1}, "lower", 2.25, 0.75),
        ({0: 1, 1: 0}, "higher", 0, 0),
    ],
)
def test_barriers_are_those_computed_by_hand(
    line: Mapping[float, float], direction: str, barrier: float, at: float
) -> None:
    derivation_made = derived(members(line, direction))
    assert derivation_made.metrics == {"barrier": pytest.approx(barrier, abs=1e-12), "at": at}
    assert derivation_made.units == {"barrier": "share"}


def test_each_line_has_its_own_and_the_highest_counts() -> None:
    flat, deep = members({0: 1, 0.5: 1, 1: 1}, pair="a-b"), members({0: 1, 0.5: 0.25, 1: 1}, pair="a-c")
    derivation_made = derived([*flat, *deep]).metrics
    assert derivation_made == {
        "barrier": 0.75,
        "at": 0.5,
        "barrier/a-b": 0,
        "barrier/a-c": 0.75,
        "at/a-b": 0,
        "at/a-c": 0.5,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({0: 1, 0.5: 1}, "a line needs members where 't' is 0 and 1, found 0, 0.5"),
        ({0: 1, 1: 1, 1.5: 1}, "expected each 't' of a line once, from 0 to 1, found 0, 1, 1.5"),
        ({"low": 1, 1: 1}, "'t' is no number in 1 of 2 members"),
    ],
)
def test_what_is_no_line_is_told_before_anything_runs(line: Mapping[Any, float], message: str) -> None:
    mistakes = [(mistake.path, mistake.message) for mistake in derivation().check({"metrics": members(line)})]
    assert mistakes == [(("x",), message)]


def test_a_figure_that_is_no_number_is_an_error() -> None:
    with pytest.raises(EvalError, match=r"'val\[0\.5\]': 'm' is no finite number"):
        derived(members({0: 1, 0.5: float("nan"), 1: 1}))
