"""Fronts and hypervolumes, against values computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lines_pipeline.core.errors import EvalError
from lines_pipeline.ops import registry
from lines_pipeline.ops.derivations import Derived
from lines_pipeline.ops.metrics_table import Member

PARETO = registry()["pareto"]
NAMES = ("first", "second", "third", "fourth")

Points = Sequence[Sequence[float]]


def members(points: Points, directions: Sequence[str] = ()) -> list[Member]:
    """Members ``a``, ``b``, ... whose metrics are the points."""
    by_name = dict(zip(NAMES, directions, strict=False))
    return [
        Member(f"val[{key}]", "val", key, {"model": key}, dict(zip(NAMES, point, strict=False)), directions=by_name)
        for key, point in zip("abcdefghij", points, strict=False)
    ]


def derived(
    points: Points, parent: Sequence[float] = (), better: Sequence[str] = (), **params: Any
) -> dict[str, float]:
    """What ``pareto`` makes of points; ``better`` says of every objective whether higher or lower is."""
    checked = PARETO.Params.model_validate({"objectives": NAMES[: len(points[0])], **params})
    given_members = {"metrics": members(points, better)}
    if parent:
        given_members["parent"] = [Member("base", "base", metrics=dict(zip(NAMES, parent, strict=False)))]
    derivation = PARETO.derivation_of(checked)
    assert derivation is not None
    made_of_members = derivation.make(given_members)
    assert isinstance(made_of_members, Derived)
    return dict(made_of_members.metrics)


def on_front(metrics: dict[str, float]) -> str:
    return "".join(
        name.removeprefix("on_front/") for name, value in metrics.items() if name[:8] == "on_front" and value
    )


@pytest.mark.parametrize(
    ("points", "front", "volume"),
    [
        ([(1, 3), (2, 2), (3, 1)], "abc", 6),
        ([(1, 3), (2, 2), (3, 1), (1, 1)], "abc", 6),
        ([(2, 2), (2, 2)], "ab", 4),
        ([(2, 2), (2, 1)], "a", 4),
        ([(-1, 5), (2, 2)], "ab", 4),
        ([(1, 1, 1)], "a", 1),
        ([(1, 2, 3), (3, 2, 1)], "ab", 10),
        ([(1, 1, 2), (1, 2, 1), (2, 1, 1), (1, 1, 1)], "abc", 4),
    ],
)
def test_fronts_and_volumes_are_those_computed_by_hand(points: Points, front: str, volume: float) -> None:
    metrics = derived(points)
    assert metrics["hypervolume"] == volume
    assert on_front(metrics) == front and metrics["front_size"] == len(front)


def test_a_reference_moves_the_volume() -> None:
    assert derived([(1, 3), (2, 2), (3, 1)], reference=[1, 1])["hypervolume"] == 1
    assert derived([(1, 3), (2, 2), (3, 1)], parent=[1, 1])["hypervolume"] == 1


def test_what_is_minimized_is_negated() -> None:
    points = [(1, -3), (2, -2), (3, -1), (1, -1)]
    derivation_made = derived(points, directions=["maximize", "minimize"], reference=[0, 0])
    declared = derived(points, better=["higher", "lower"], reference=[0, 0])
    assert derivation_made == declared
    assert derivation_made["hypervolume"] == 6 and on_front(derivation_made) == "abc"


def test_what_is_minimized_needs_a_reference() -> None:
    with pytest.raises(EvalError, match="'second' is minimized, so that 0 is no reference; give 'reference'"):
        derived([(1, 1)], directions=["maximize", "minimize"])


def test_a_figure_that_is_no_number_is_on_no_front() -> None:
    metrics = derived([(1, float("nan")), (1, 1)])
    assert on_front(metrics) == "b" and metrics["hypervolume"] == 1


def test_a_metric_that_a_member_lacks_is_told() -> None:
    derivation = PARETO.derivation_of(PARETO.Params.model_validate({"objectives": ["first", "secund"]}))
    assert derivation is not None
    with pytest.raises(EvalError, match=r"'val\[a\]' has no metric 'secund' \(did you mean 'second'\?\)"):
        derivation.make({"metrics": members([(1, 2)])})


POINTS = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=6)


@given(POINTS, st.randoms(use_true_random=False))
def test_volumes_are_counted_cell_by_cell(points: list[tuple[int, int, int]], random: Any) -> None:
    """Of whole numbers, the volume is the number of unit cells that some point is above."""
    cells = {(x, y, z) for point in points for x in range(point[0]) for y in range(point[1]) for z in range(point[2])}
    shuffled = random.sample(points, len(points))
    assert derived(points)["hypervolume"] == derived(shuffled)["hypervolume"] == len(cells)


@given(POINTS)
def test_points_that_are_dominated_add_nothing(points: list[tuple[int, int, int]]) -> None:
    metrics = derived(points)
    front = [point for key, point in zip("abcdefghij", points, strict=False) if metrics[f"on_front/{key}"]]
    assert derived(front)["hypervolume"] == metrics["hypervolume"]
    assert derived(front)["front_size"] == len(front)
