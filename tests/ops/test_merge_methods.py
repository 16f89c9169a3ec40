"""Every op on values small enough to check by hand, and the laws it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import tensor

from lines_pipeline.ops import registry
from lines_pipeline.ops.testing import (
    apply_op,
    check_blocks,
    check_compiled,
    check_example,
    check_gpu,
    check_laws,
    check_op,
    check_pickles,
    check_pure,
    example_inputs,
)

ONE, TWO, THREE = tensor(1, -4, 0, 2), tensor(3, 1, 0, -2), tensor(-1, -1, 0, 0)


EXAMPLES: list[tuple[str, dict[str, list[torch.Tensor]], dict[str, Any], torch.Tensor]] = [
    ("task-vector", {"model": [ONE], "base": [TWO]}, {}, tensor(-2, -5, 0, 4)),
    ("task-arithmetic", {"deltas": [ONE, TWO]}, {}, tensor(4, -3, 0, 0)),
    ("task-arithmetic", {"deltas": [ONE, TWO]}, {"weights": [2.0, -1.0]}, tensor(-1, -9, 0, 6)),
    ("task-arithmetic", {"deltas": [ONE, TWO]}, {"reduce": "mean"}, tensor(2, -1.5, 0, 0)),
    ("trim", {"delta": [ONE]}, {"density": 0.25}, tensor(0, -4, 0, 2)),
    ("trim", {"delta": [THREE]}, {"density": 0.25}, tensor(-1, -1, 0, 0)),
    ("trim", {"delta": [ONE]}, {"density": 1.0}, ONE),
    ("magnitude-mask", {"delta": [ONE]}, {"density": 0.5}, torch.tensor([True, True, False, True])),
    ("ties", {"deltas": [ONE, TWO, THREE]}, {"density": 1.0}, tensor(2, -2.5, 0, -2)),
    ("ties", {"deltas": [ONE, TWO, THREE]}, {"density": 1.0, "aggregate": "sum"}, tensor(4, -5, 0, -2)),
    ("ties", {"deltas": [ONE, TWO, THREE]}, {"density": 1.0, "aggregate": "max"}, tensor(3, -4, 0, 0)),
    ("scale", {"delta": [ONE]}, {"by": -0.5}, tensor(-0.5, 2, 0, -1)),
    ("apply", {"base": [ONE], "delta": [TWO]}, {"scale": 0.5}, tensor(2.5, -3.5, 0, 1)),
    ("interpolate", {"models": [ONE, TWO]}, {"t": 0.25, "weights": []}, tensor(1.5, -2.75, 0, 1)),
    ("interpolate", {"models": [ONE, TWO]}, {"weights": [1.0, 2.0]}, tensor(7, -2, 0, -2)),
    ("soup", {"models": [ONE, TWO]}, {}, tensor(2, -1.5, 0, 0)),
    (
        "tall-mask",
        {"deltas": [ONE], "merged": [TWO]},
        {"threshold": [0.5]},
        torch.tensor([False, True, False, False]),
    ),
    ("mask", {"delta": [ONE], "mask": [torch.tensor([True, False, True, True])]}, {}, tensor(1, 0, 0, 2)),
    ("consensus", {"merged": [ONE], "deltas": [ONE, TWO]}, {"min_tasks": 2}, tensor(1, 0, 0, 2)),
    ("consensus", {"merged": [ONE], "deltas": [ONE, TWO]}, {"min_tasks": 0}, ONE),
    ("consensus", {"merged": [ONE], "deltas": [ONE, TWO]}, {"min_tasks": 3}, tensor(0, 0, 0, 0)),
    ("lines-scale", {"delta": [ONE]}, {"gamma": 0.5}, ONE * 0.75),
    ("lines-scale", {"delta": [ONE]}, {"alpha": 0.25, "beta": 1.0}, ONE * 0.75),
    ("lines-scale", {"delta": [ONE], "deltas": [ONE, TWO]}, {"alpha": "auto"}, ONE * (7 / 7 / 2)),
]


@pytest.mark.parametrize(("op", "inputs", "params", "expected"), EXAMPLES)
def test_by_hand(
    op: str, inputs: dict[str, list[torch.Tensor]], params: dict[str, Any], expected: torch.Tensor
) -> None:
    check_example(op, inputs, expected, **params)


@pytest.mark.parametrize(("op", "inputs", "params"), [example[:3] for example in EXAMPLES])
def test_however_it_is_run_it_gives_the_same(
    op: str, inputs: dict[str, list[torch.Tensor]], params: dict[str, Any]
) -> None:
    for check in (check_pure, check_blocks, check_compiled, check_gpu, check_pickles):
        check(op, inputs, **params)


@pytest.mark.parametrize(
    ("op", "models", "params"),
    [
        *((op, 3, {}) for op in ("magmax", "ram", "ramplus-tl", "sce", "pcb", "emr", "multislerp", "karcher")),
        *((op, 2, {"density": 0.5}) for op in ("dare", "della", "breadcrumbs")),
        ("slerp", 2, {"t": 0.3}),
        ("nuslerp", 2, {}),
        ("model-stock", 3, {}),
        ("nearswap", 1, {"t": 0.2}),
        ("arcee-fusion", 1, {}),
    ],
)
def test_later_methods_give_the_same_however_they_are_run(op: str, models: int, params: dict[str, Any]) -> None:
    check_op(op, example_inputs(op, count=models), **params)


@pytest.mark.parametrize("op", ["task-vector", "task-arithmetic", "scale", "apply", "soup"])
def test_elementwise_methods_compile(op: str) -> None:
    pytest.importorskip("numba")
    params: dict[str, Any] = {"by": 0.3} if op == "scale" else {}
    assert check_compiled(op, **params)


LAWS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("task-arithmetic", ["identity", "permutation", "scaling"], {}),
    ("task-arithmetic", ["identity", "permutation", "scaling"], {"reduce": "mean"}),
    ("trim", ["scaling"], {"density": 0.3}),
    ("trim", ["identity"], {"density": 1.0}),
    ("magnitude-mask", ["scaling"], {"density": 0.3}),
    ("ties", ["permutation", "scaling"], {"density": 0.6}),
    ("ties", ["identity"], {"density": 1.0}),
    ("scale", ["scaling"], {"by": -0.5}),
    ("apply", ["scaling"], {"scale": 0.5}),
    ("soup", ["identity", "permutation", "scaling"], {}),
    ("interpolate", ["scaling"], {"weights": [0.25, 0.5, 0.25]}),
    ("tall-mask", ["scaling"], {"threshold": [0.5]}),
    ("consensus", ["permutation", "scaling"], {"min_tasks": 2}),
    ("mask", ["scaling"], {}),
    ("lines-scale", ["scaling"], {"alpha": 0.25, "beta": 1.0}),
    ("iso-c", ["permutation", "scaling"], {}),
    ("tsv-m", ["permutation", "scaling"], {}),
]


@pytest.mark.parametrize(("op", "laws", "params"), LAWS)
def test_laws(op: str, laws: list[str], params: dict[str, Any]) -> None:
    check_laws(op, laws=laws, **params)


def test_alpha_is_one_over_n_where_the_merged_norm_is_zero() -> None:
    zero = tensor(0, 0, 0, 0)
    op = registry()["lines-scale"]
    params = op.Params.model_validate({"alpha": "auto"})
    local = op.bind_tensor(params, {"norm_mtv": 0.0, "norm_summed_tvs": 3.0}, None, {"deltas": 4})
    assert local["scale"] == 0.25
    assert torch.equal(apply_op("lines-scale", {"delta": [zero], "deltas": [ONE]}, alpha="auto"), zero)


numbers = st.floats(-4, 4, width=16).map(lambda value: round(value * 8) / 8)
vectors = st.lists(st.lists(numbers, min_size=6, max_size=6).map(lambda v: torch.tensor(v)), min_size=1, max_size=5)


@settings(deadline=None)
@given(vectors, st.floats(0.05, 1.0))
def test_a_trim_keeps_the_largest_and_at_least_its_share(found: list[torch.Tensor], density: float) -> None:
    delta = found[0]
    kept = apply_op("trim", {"delta": [delta]}, density=density)
    dropped = delta[(kept == 0) & (delta != 0)].abs()
    assert torch.equal(kept[kept != 0], delta[kept != 0])
    assert not len(dropped) or float(dropped.max()) < float(kept[kept != 0].abs().min())
    assert int((kept != 0).sum() + (delta == 0).sum()) >= min(int(6 * density) + 1, 6) or density == 1.0


@settings(deadline=None)
@given(vectors)
def test_ties_of_one_vector_is_its_trim(found: list[torch.Tensor]) -> None:
    value = apply_op("ties", {"deltas": [found[0]]}, density=0.5)
    assert torch.equal(value, apply_op("trim", {"delta": [found[0]]}, density=0.5))


@settings(deadline=None)
@given(vectors, st.sampled_from(["mean", "sum", "max"]), st.randoms())
def test_ties_does_not_depend_on_the_order_of_experts(found: list[torch.Tensor], aggregate: str, random: Any) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    value = apply_op("ties", {"deltas": found}, density=0.6, aggregate=aggregate)
    other = apply_op("ties", {"deltas": shuffled}, density=0.6, aggregate=aggregate)
    assert torch.allclose(value, other)


@settings(deadline=None)
@given(vectors)
def test_ties_never_leaves_the_range_of_its_vectors(found: list[torch.Tensor]) -> None:
    merged = apply_op("ties", {"deltas": found}, density=1.0)
    stacked = torch.stack([*found, torch.zeros(6)])
    assert bool(((merged <= stacked.max(0).values + 1e-6) & (merged >= stacked.min(0).values - 1e-6)).all())


@pytest.mark.parametrize(
    ("op", "params", "counts"),
    [
        ("lines-scale", {"alpha": 1.0, "gamma": 0.5}, {"delta": 1, "deltas": 0}),
        ("lines-scale", {}, {"delta": 1, "deltas": 0}),
        ("lines-scale", {"alpha": "auto"}, {"delta": 1, "deltas": 0}),
        ("interpolate", {"t": 0.5}, {"models": 3}),
        ("interpolate", {}, {"models": 2}),
        ("soup", {"kind": "greedy"}, {"models": 2}),
        ("soup", {"kind": "greedy", "suite": "zoo://glyphs", "split": "test"}, {"models": 2}),
        ("consensus", {}, {"deltas": 0, "masks": 0, "merged": 1}),
    ],
)
def test_combinations_that_mean_nothing_are_refused(op: str, params: dict[str, Any], counts: dict[str, int]) -> None:
    method = registry()[op]
    assert method.check(method.Params(**params), counts)


def test_every_op_says_where_it_comes_from() -> None:
    for name, op in registry().items():
        assert op.formula and op.source and op.__doc__, name
