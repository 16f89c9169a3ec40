"""Names as MLflow can hold them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from lines_pipeline.tracking.names import means_first, mlflow_name

ODD = st.text(alphabet="_xa40@/.[] é\n%", max_size=12)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("val/accuracy/digits", "val/accuracy/digits"),
        ("scaled.beta", "scaled.beta"),
        ("val[digits]/mean_accuracy", "val/digits/mean_accuracy"),
        ("val/accuracy/top@1", "val/accuracy/top_x40_1"),
        ("val/accuracy/top_x40_1", "val/accuracy/top_x5f_x40_1"),
        ("experts[/data/a]", "experts_x2f_/data/a"),
        ("val/accuracy/..", "val/accuracy/_x2e__x2e_"),
        ("..b/.c", "_x2e__x2e_b/.c"),
    ],
)
def test_names_stay_readable(name: str, held: str) -> None:
    assert mlflow_name(name) == held


@given(ODD)
def test_mlflow_takes_every_name(name: str) -> None:
    _validate_metric_name(mlflow_name(name))  # type: ignore[no-untyped-call]


@given(ODD, ODD)
def test_no_two_names_become_one(one: str, other: str) -> None:
    one, other = f"val/{one}", f"val/{other}"
    assert (mlflow_name(one) == mlflow_name(other)) == (one == other)


def test_long_names_stay_apart() -> None:
    names = {mlflow_name("a" * 300 + end) for end in ("x", "y")}
    assert len(names) == 2 and max(map(len, names)) <= 250


def test_means_come_first_and_times_last() -> None:
    names = ["pass/seconds", "val/accuracy/a", "val/mean_accuracy", "val/zebra/mean_accuracy", "tune/objective"]
    assert sorted(names, key=means_first) == [
        "tune/objective", "val/mean_accuracy", "val/zebra/mean_accuracy", "val/accuracy/a", "pass/seconds",
    ]  # fmt: skip
