"""The curve of WiSE-FT and its summary, against values computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lines_pipeline.ops import registry
from lines_pipeline.ops.derivations import Derivation, Derived
from lines_pipeline.ops.metrics_table import Member, table_of

WISE_FT = registry()["wise-ft"]
OWN = {0: 0.7, 0.25: 0.8, 0.5: 0.896, 0.75: 0.9, 1: 0.9}
OTHER = {0: 0.5, 0.25: 0.6, 0.5: 0.65, 0.75: 0.625, 1: 0.5}


def members(node: str, line: Mapping[float, float], metric: str = "m", direction: str = "higher") -> list[Member]:
    return [
        Member(f"{node}[{g}]", node, str(g), {"g": g}, {metric: value}, {metric: "share"}, {metric: direction})
        for g, value in line.items()
    ]


def derivation(**params: Any) -> Derivation:
    made = WISE_FT.derivation_of(WISE_FT.Params.model_validate({"metric": "m", **params}))
    assert made is not None
    return made


def derived(own: list[Member], other: list[Member], **params: Any) -> Derived:
    made = derivation(**params).make({"id": own, "ood": other})
    assert isinstance(made, Derived)
    return made


def test_the_curve_and_its_summary_are_those_computed_by_hand() -> None:
    made = derived(members("val", OWN), members("shifted", OTHER))
    expected = {f"id/{g:g}": value for g, value in OWN.items()} | {f"ood/{g:g}": value for g, value in OTHER.items()}
    expected |= {f"id_over_base/{g:g}": value - 0.7 for g, value in OWN.items()}
    expected |= {f"id_over_expert/{g:g}": value - 0.9 for g, value in OWN.items()}
    expected |= {f"ood_over_{end}/{g:g}": value - 0.5 for end in ("base", "expert") for g, value in OTHER.items()}
    expected |= {"half_id": 0.896, "half_ood": 0.65, "best_ood": 0.65, "best_at": 0.5}
    expected["area"] = 0.896 * 0.65 + (0.9 - 0.896) * 0.625
    assert made.metrics == pytest.approx(expected)
    assert {name for name in made.metrics if name not in made.units} == {"best_at", "area"}
    assert set(made.units.values()) == {"share"}


@pytest.mark.parametrize(("tolerance", "at"), [(0, 0.75), (0.004 + 1e-9, 0.5), (0.2, 0.5)])
def test_the_best_loses_no_more_than_the_tolerance(tolerance: float, at: float) -> None:
    assert derived(members("val", OWN), members("shifted", OTHER), tolerance=tolerance).metrics["best_at"] == at


def test_of_losses_the_least_are_best_and_have_no_area() -> None:
    own, other = (
        members("val", {0: 2, 0.5: 1, 1: 1}, "loss", "lower"),
        members("ood", {0: 3, 0.5: 2, 1: 4}, "loss", "lower"),
    )
    made = derived(own, other, metric="loss").metrics
    assert (made["best_at"], made["best_ood"]) == (0.5, 2)
    assert "area" not in made


def test_figures_out_of_distribution_may_have_another_name() -> None:
    made = derived(members("val", OWN), members("ood", OTHER, "other"), ood_metric="other")
    assert made.metrics["ood/0.25"] == 0.6


def test_the_curve_has_a_row_a_place() -> None:
    made = derived(members("val", OWN), members("shifted", OTHER))
    table = table_of([Member("curve", "curve", metrics=made.metrics, by=WISE_FT.metrics_by)], ["id", "ood"])
    assert [(row["place"], row["id"], row["ood"]) for row in table.rows] == [(g, OWN[g], OTHER[g]) for g in OWN]


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        ({0.25: 1, 1: 1}, {0.25: 1, 1: 1}, "a line needs members where 'g' is 0 and 1"),
        ({0: 1, 1: 1}, {0: 1, 0.5: 1, 1: 1}, "'ood' has other values of 'g' than 'id'"),
    ],
)
def test_lines_that_are_none_are_told_before_anything_runs(
    own: Mapping[float, float], other: Mapping[float, float], message: str
) -> None:
    (diagnostic,) = derivation().check({"id": members("val", own), "ood": members("ood", other)})
    assert message in diagnostic.message
