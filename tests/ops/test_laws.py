"""Laws that every op keeps, over awkward shapes and updates; an op opts out by a listed reason only.

Examples are drawn anew in every run. ``LINES_FUZZ_SCALE`` multiplies how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hostile_updates import APPLIED, NOT_APPLIED, VARIANTS, Case, Variant, cases, counts, result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops_opting_out import A_MASK, NO_PERMUTATION, NO_SCALING, NO_ZEROS

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops import registry
from lines_pipeline.ops.base import Granularity

EXAMPLES = 15 * int(os.environ.get("LINES_FUZZ_SCALE", "1"))
drawn = settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))

ALONE = [
    *(
        Variant(name)
        for name in (
            *("task-arithmetic", "magmax", "emr", "sce", "cart", "tsv-m", "svc"),
            *("soup", "multislerp", "karcher", "regmean", "fisher"),
        )
    ),
    Variant("task-arithmetic", {"sign": "sum", "normalize": True}),
    Variant("ties", {"density": 1.0}),
    Variant("ties", {"density": 1.0, "aggregate": "max", "zero_sign": "positive"}),
    Variant("trim", {"density": 1.0}),
    Variant("trim", {"norm_fraction": 1.0}),
    Variant("dare", {"density": 1.0}),
    Variant("della", {"density": 1.0}),
    Variant("breadcrumbs", {"density": 1.0, "gamma": 0.5}),
    Variant("partition", {"parts": 1, "part": 0}),
    Variant("lines-scale", {"gamma": 1.0}),
    Variant("lines-scale", {"alpha": "auto"}, ("deltas",)),
    Variant("scale", {"by": 1.0}),
    Variant("scale", {"by": "auto"}, ("like",)),
    Variant("consensus", {"min_tasks": 1, "threshold": 0.0}, ("deltas",)),
    Variant("tsv-c", {"rank": 1.0}),
    Variant("dc-merge", {"density": 1.0}),
    Variant("wudi", {"others": "mean"}),
    Variant("wudi-closed", {"ridge": 0.0, "others": "mean"}),
    Variant("interpolate", {"weights": [1.0]}),
    Variant("ram", {"epsilon": 0.0}),
    Variant("ramplus-tl", {"epsilon": 0.0}),
    Variant("multislerp", {}, ("base",)),
    Variant("emr", {"rescale": "entries"}),
    Variant("fisher", {"floor_on": "all", "floor_kind": "add"}),
    Variant("regmean", {"ridge": 0.0}),
]
"""Ops that give back the one task vector, or model, that they are given."""

NO_IDENTITY: Mapping[str, str] = {
    **dict.fromkeys(("iso-c", "iso-cts"), "flattens the spectrum"),
    **dict.fromkeys(("slerp", "nuslerp", "model-stock"), "needs two models"),
    **dict.fromkeys(("nearswap", "arcee-fusion"), "takes a part of what another model changed"),
    **dict.fromkeys(("task-vector", "apply"), "gives another type than it takes"),
    **dict.fromkeys(("tall-mask", "magnitude-mask"), A_MASK),
    "mask": "leaves out what its mask does",
    "larv": "scales by block",
    "ace": "leaves out the mean of the rows",
    "doge-ta": "scales each task to a norm of its own",
    "pcb": "leaves out all but a share of the entries",
    "esm": "weighs columns by their length, and doubles what it gives",
}
MODEL_MEANS = {"slerp", "nuslerp", "multislerp", "karcher", "model-stock"}
"""Means of directions, which have none where these cancel out."""


def close(found: torch.Tensor, expected: torch.Tensor, told: str) -> None:
    """Compare up to the rounding of decompositions."""
    size = float(expected.abs().max()) if expected.numel() and expected.is_floating_point() else 0.0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 + 1e-4 * size, msg=lambda text: f"{told}: {text}")


def case_of(name: str, **options: Any) -> st.SearchStrategy[Case]:
    """Draw a case with as many experts as an op takes."""
    least, most = counts(name)
    return cases(options.pop("least", least), options.pop("most", most), **options)


def test_every_op_is_applied_or_says_why_not() -> None:
    assert set(APPLIED) | NOT_APPLIED.keys() == set(registry()) and not NOT_APPLIED.keys() & set(APPLIED)
    computing = {name for name, op in registry().items() if op.granularity is not Granularity.MODEL}
    sources = {name for name, op in registry().items() if op.is_source or op.is_output}
    assert set(APPLIED) == computing - sources - {"graft"}


@pytest.mark.parametrize("reasons", [NO_ZEROS, NO_PERMUTATION, NO_SCALING])
def test_only_ops_that_are_applied_opt_out(reasons: Mapping[str, str]) -> None:
    assert set(reasons) <= {*APPLIED, *map(str, VARIANTS)} and all(reasons.values())


def test_every_op_gives_one_update_back_or_says_why_not() -> None:
    alone = {variant.op for variant in ALONE}
    assert alone | NO_IDENTITY.keys() == set(APPLIED) and not alone & NO_IDENTITY.keys()


def keeping(reasons: Mapping[str, str]) -> list[Variant]:
    """The variants of ops that do not opt out."""
    return [variant for variant in VARIANTS if variant.op not in reasons and str(variant) not in reasons]


def holds(law: Callable[[Case], None], name: str, data: st.DataObject, **options: Any) -> None:
    """Draw a case and check a law; directions that cancel out are an error of their own."""
    case = data.draw(case_of(name, **options))
    try:
        law(case)
    except CheckpointError as error:
        assert name == "multislerp" and "cancel out" in str(error)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@drawn
@given(data=st.data())
def test_results_are_finite_and_of_the_same_shape(variant: Variant, data: st.DataObject) -> None:
    def law(case: Case) -> None:
        found = result(variant, case)
        assert found.shape == case.base.shape
        assert registry()[variant.op].gives is EdgeType.MASK or bool(found.isfinite().all())

    holds(law, variant.op, data)


@pytest.mark.parametrize("variant", keeping(NO_ZEROS), ids=str)
@drawn
@given(data=st.data())
def test_no_update_gives_no_update(variant: Variant, data: st.DataObject) -> None:
    def law(case: Case) -> None:
        none = Case(case.base, [update * 0.0 for update in case.updates], case.statistics)
        weights = registry()[variant.op].gives is EdgeType.WEIGHTS
        close(result(variant, none), case.base if weights else torch.zeros_like(case.base), str(variant))

    holds(law, variant.op, data)


@pytest.mark.parametrize("variant", keeping(NO_PERMUTATION), ids=str)
@drawn
@given(data=st.data())
def test_the_order_of_experts_makes_no_difference(variant: Variant, data: st.DataObject) -> None:
    def law(case: Case) -> None:
        order = data.draw(st.permutations(range(len(case.updates))))
        params: dict[str, Any] = {"t": 0.5} if variant.op in ("slerp", "interpolate") else {}
        expected = result(variant, case, **params)
        close(
            result(variant, case.reordered(order), task=order.index(0), **params),
            expected,
            f"{variant} in order {order}",
        )

    holds(law, variant.op, data, far_base=variant.op in MODEL_MEANS)


@pytest.mark.parametrize("variant", keeping(NO_SCALING), ids=str)
@drawn
@given(data=st.data(), factor=st.sampled_from([0.25, 2.0, 16.0]))
def test_updates_times_a_factor_give_the_result_times_it(variant: Variant, data: st.DataObject, factor: float) -> None:
    def law(case: Case) -> None:
        expected, found = result(variant, case), result(variant, case.scaled(factor))
        close(found / factor if found.is_floating_point() else found, expected, f"{variant} times {factor}")

    holds(law, variant.op, data, far_base=variant.op in MODEL_MEANS)


@pytest.mark.parametrize("variant", ALONE, ids=str)
@drawn
@given(data=st.data())
def test_one_expert_comes_back(variant: Variant, data: st.DataObject) -> None:
    def law(case: Case) -> None:
        weights = registry()[variant.op].gives is EdgeType.WEIGHTS
        close(result(variant, case), case.base + case.updates[0] if weights else case.updates[0], str(variant))

    holds(law, variant.op, data, least=1, most=1)
