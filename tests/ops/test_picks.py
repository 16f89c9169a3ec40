"""Methods that pick, weigh and elect entries of task vectors: by hand, and the laws that they keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tensors import tensor

import lines_pipeline
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.ops.testing import apply_op, check_compiled

Recipe = Callable[..., Path]
PICKS = ("magmax", "ram", "ramplus-tl", "sce", "pcb")
ONE, TWO, THREE = tensor(1, -4, 0, 2), tensor(3, 1, 0, -2), tensor(-1, -1, 0, 0)


@pytest.mark.parametrize(
    ("op", "deltas", "params", "expected"),
    [
        ("magmax", [ONE, TWO, THREE], {}, tensor(3, -4, 0, -2)),
        ("magmax", [TWO, ONE, THREE], {}, tensor(3, -4, 0, 2)),
        ("ram", [ONE, TWO, THREE], {}, tensor(1, -4 / 3, 0, 0)),
        ("ram", [ONE, TWO, THREE], {"epsilon": 1.0}, tensor(3, -4, 0, 0)),
        ("ramplus-tl", [tensor(1, 0, 2, 0), tensor(0, 3, 2, 0)], {}, tensor(1.02, 3.06, 2, 0)),
        ("ramplus-tl", [tensor(1, 0, 2, 0), tensor(0, 3, 2, 0)], {"r": 0.5, "alpha": 9.0}, tensor(1.5, 4.5, 2, 0)),
        ("sce", [tensor(1, 1, 0, 1), tensor(3, -1, 0, 3)], {}, tensor(30 / 11, 1, 0, 30 / 11)),
        ("sce", [tensor(0, 0, 2, 1), tensor(0, 4, 2, -1)], {"density": 0.5}, tensor(0, 4, 0, 0)),
        ("task-arithmetic", [ONE, TWO], {"sign": "sum"}, tensor(4, -4, 0, 2)),
        ("task-arithmetic", [ONE, TWO], {"weights": [1.0, 3.0], "normalize": True}, tensor(2.5, -0.25, 0, -1)),
        (
            "task-arithmetic",
            [ONE, TWO],
            {"weights": [1.0, 3.0], "normalize": True, "sign": "sum"},
            tensor(2.5, -4, 0, -2),
        ),
        ("task-arithmetic", [ONE, TWO], {"weights": [1.0, -1.0], "normalize": True}, ONE - TWO),
        ("ties", [ONE, TWO, THREE], {"density": 1.0, "zero_sign": "positive"}, tensor(2, -2.5, 0, 2)),
        (
            "ties",
            [ONE, TWO],
            {"density": 1.0, "aggregate": "sum", "normalize": True, "weights": [1.0, 3.0], "zero_sign": "positive"},
            tensor(2.5, -4, 0, -2),
        ),
        ("ties", [tensor(4, 3, 0, 0), tensor(-1, 0, 0, 0)], {"density": 1.0, "sign": "norm-mass"}, tensor(-1, 3, 0, 0)),
        (
            "ties",
            [tensor(4, 3, 0, 0), tensor(-1, 0, 0, 0)],
            {"density": 1.0, "sign": "norm-fraction"},
            tensor(-1, 3, 0, 0),
        ),
        ("ties", [ONE, TWO], {"density": [0.25, 1.0], "exact": True, "aggregate": "sum"}, tensor(3, -4, 0, -2)),
    ],
)
def test_by_hand(op: str, deltas: list[torch.Tensor], params: dict[str, Any], expected: torch.Tensor) -> None:
    assert torch.allclose(apply_op(op, {"deltas": deltas}, **params), expected, atol=1e-6)


def test_emr_by_hand() -> None:
    one, other = tensor(1, -2, 3, 0), tensor(2, 1, -1, 0)
    unified = tensor(2, -2, 3, 0)
    first = apply_op("emr", {"deltas": [one, one, other]})
    second = apply_op("emr", {"deltas": [other, one, other]})
    assert torch.allclose(first, unified * 6 / 7)
    assert torch.allclose(second, tensor(2, 0, 0, 0) * 4 / 2)
    assert torch.allclose(apply_op("emr", {"deltas": [one, one]}), one)
    zero = one * 0
    assert not apply_op("emr", {"deltas": [zero, zero, other]}).any()


def test_emr_compares_means_of_tensors_or_all_entries(models: Path, write_recipe: Recipe) -> None:
    by_name = {}
    for rescale in ("tensor-mean", "entries"):
        nodes = {
            "tasks": {"op": "emr", "deltas": "updates", "rescale": rescale},
            "saved": {"op": "save", "model": "tasks", "path": "{e}.safetensors", "for_each": {"e": ["a", "b", "c"]}},
        }
        result = lines_pipeline.run(write_recipe(nodes), out=rescale, tracking=False)
        by_name[rescale] = result.facts["tasks"]["rescalers"]
        base, files = load_file(models / "base.safetensors"), [load_file(path) for path in result.files]
        for name, merged, rescaler in zip("abc", files, by_name[rescale], strict=True):
            expert = load_file(models / f"{name}.safetensors")
            deltas = {key: expert[key] - base[key] for key in merged}
            own = [deltas[key].abs() for key in merged]
            masked = [merged[key].abs() / rescaler for key in merged]
            size = torch.mean if rescale == "tensor-mean" else torch.sum
            ratio = sum(size(value).item() for value in own) / sum(size(value).item() for value in masked)
            assert ratio == pytest.approx(rescaler, rel=1e-4)
    assert by_name["tensor-mean"] != by_name["entries"]


def test_sign_from_gives_the_signs() -> None:
    signs = tensor(-1, 1, 1, 0)
    value = apply_op("ties", {"deltas": [ONE, TWO, THREE], "sign_from": [signs]}, density=1.0)
    assert torch.equal(value, tensor(-1, 1, 0, -2))  # where the given sign is 0, as the source, the negative ones
    value = apply_op("ties", {"deltas": [ONE, TWO], "sign_from": [signs]}, density=1.0, zero_sign="positive")
    assert torch.equal(value, tensor(0, 1, 0, 2))
    value = apply_op("ties", {"deltas": [ONE, TWO, THREE], "sign_from": [signs]}, density=1.0, aggregate="max")
    assert torch.equal(value, tensor(-1, 1, 0, 0))
    value = apply_op("ties", {"deltas": [ONE, TWO], "sign_from": [-signs]}, density=1.0)
    assert torch.equal(value, tensor(2, -4, 0, -2))


@pytest.mark.parametrize(
    ("op", "params"),
    [
        ("task-arithmetic", {"sign": "sum"}),
        ("task-arithmetic", {}),
        ("ties", {"density": 1.0, "aggregate": "sum"}),
        ("ties", {"density": 1.0, "aggregate": "sum", "zero_sign": "positive"}),
    ],
)
@pytest.mark.parametrize("weights", [[0.4, -0.7, 0.3], [0.1, 0.2, -0.3], [-0.7, 0.3, 0.4], [1e-3, 2e-3, -3e-3]])
def test_weights_that_cancel_out_divide_by_1(op: str, params: dict[str, Any], weights: list[float]) -> None:
    """Rounding leaves less than 1e-7 of such sums, not 0."""
    deltas = [tensor(2.0, -1.0, 0.0) * (1 if weight > 0 else -1) for weight in weights]
    expected = tensor(2.0, -1.0, 0.0) * sum(map(abs, weights))
    value = apply_op(op, {"deltas": deltas}, weights=weights, normalize=True, **params)
    torch.testing.assert_close(value, expected)
    check_compiled(op, {"deltas": deltas}, weights=weights, normalize=True, **params)


numbers = st.floats(-4, 4, width=16).map(lambda value: round(value * 8) / 8)
vectors = st.lists(st.lists(numbers, min_size=6, max_size=6).map(torch.tensor), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(vectors)
@pytest.mark.parametrize("op", PICKS)
def test_zero_updates_give_zero_updates(op: str, found: list[torch.Tensor]) -> None:
    assert not apply_op(op, {"deltas": [one * 0 for one in found]}).any()
    padded = [torch.cat((one, torch.zeros(3))) for one in found]
    assert not apply_op(op, {"deltas": padded})[6:].any()


@settings(deadline=None, max_examples=40)
@given(vectors)
@pytest.mark.parametrize("op", ["ram", "ramplus-tl", "sce", "pcb"])
def test_the_order_of_experts_means_nothing(op: str, found: list[torch.Tensor]) -> None:
    value, other = apply_op(op, {"deltas": found}), apply_op(op, {"deltas": found[::-1]})
    assert torch.allclose(value, other, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(vectors)
@pytest.mark.parametrize("op", ["magmax", "ram", "sce"])
def test_one_expert_is_its_own_merge(op: str, found: list[torch.Tensor]) -> None:
    assert torch.allclose(apply_op(op, {"deltas": found[:1]}), found[0], atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(vectors, st.sampled_from([2.0, 0.5, 4.0]))
@pytest.mark.parametrize("op", ["magmax"])
def test_magmax_scales_with_its_vectors(op: str, found: list[torch.Tensor], factor: float) -> None:
    scaled = apply_op(op, {"deltas": [one * factor for one in found]})
    assert torch.equal(scaled, apply_op(op, {"deltas": found}) * factor)


def test_sce_keeps_the_entries_that_vary_most() -> None:
    generator = torch.Generator().manual_seed(5)
    deltas = [torch.randn(50, 40, generator=generator) for _ in range(3)]
    value = apply_op("sce", {"deltas": deltas}, density=0.3)
    kept = torch.stack(deltas).var(0, unbiased=False).reshape(-1).topk(600).indices
    assert set(value.reshape(-1).nonzero().reshape(-1).tolist()) == set(kept.tolist())


@pytest.mark.parametrize("count", [3, 6, 7])
def test_sce_with_a_cut_drops_what_all_experts_changed_alike(count: int) -> None:
    generator = torch.Generator().manual_seed(7)
    shared, own = torch.randn(60, generator=generator), torch.randn(count, 20, generator=generator)
    assert not apply_op("sce", {"deltas": [shared] * count}, density=0.9).any()
    value = apply_op("sce", {"deltas": [torch.cat((shared, one)) for one in own]}, density=0.5)
    assert not value[:60].any() and int(value[60:].count_nonzero()) == 10


def test_pcb_agrees_with_its_definition() -> None:
    generator = torch.Generator().manual_seed(6)
    deltas = torch.randn(3, 30_000, generator=generator).double()
    whole, d = deltas.sum(0), deltas.shape[1]
    sizes = deltas.abs()
    ordered = sizes.sort(dim=1).values
    sizes = torch.max(torch.min(sizes, ordered[:, [int(0.9999 * d - 1)]]), ordered[:, [int(1e-4 * d)]])
    scaled = (sizes - sizes.amin(1, True)) / (sizes.amax(1, True) - sizes.amin(1, True))
    balance = (3 * scaled**2).exp() * (deltas * whole).tanh()
    balance = balance.clamp(min=balance.sort(dim=1).values[:, [int(d * 0.8)]])
    share = (balance - balance.amin(1, True)) / (balance.amax(1, True) - balance.amin(1, True))
    expected = (deltas.sign() * sizes * share).sum(0) / share.sum(0).clamp(min=1e-12)
    value = apply_op("pcb", {"deltas": list(deltas.float())}, density=0.2)
    assert torch.allclose(value.double(), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_shape_and_type_comes_out_finite_and_alike(
    dtype: torch.dtype, models: Path, write_recipe: Recipe
) -> None:
    generator = torch.Generator().manual_seed(3)
    shared = torch.randn(3, 2, generator=generator)
    for name in ("base", "a", "b", "c"):
        state = load_file(models / ("base.safetensors" if name == "a" else f"{name}.safetensors"))
        state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
        state |= {"kernel": torch.ones(2, 3, 2, 2) * len(name), "frozen": shared, "nothing": torch.zeros(0, 3)}
        save_file(state, models / f"{name}.safetensors")
    nodes: dict[str, Any] = {op: {"op": op, "deltas": "updates"} for op in PICKS}
    nodes["few"] = {"op": "sce", "deltas": "updates", "density": 0.4}
    nodes["tasks"] = {"op": "emr", "deltas": "updates"}
    nodes["merged"] = {"op": "task-arithmetic", "deltas": [*PICKS, "few", "tasks"]}
    nodes["model"] = {"op": "apply", "base": "base", "delta": "merged"}
    nodes["saved"] = {"op": "save", "model": "model", "path": "model.safetensors"}
    recipe = write_recipe(nodes)
    first, second = (
        load_file(lines_pipeline.run(recipe, out=out, cache=False, tracking=False, **options).files[0])
        for out, options in (("one", {"scheduler": "serial"}), ("two", {"workers": 3}))
    )
    base = load_file(models / "base.safetensors")
    for key, value in first.items():
        assert torch.equal(value, second[key]) and torch.isfinite(value.float()).all()
        assert value.dtype == base[key].dtype
    assert torch.equal(first["frozen"], base["frozen"]) and torch.equal(first["position_ids"], base["position_ids"])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"op": "task-arithmetic", "reduce": "mean", "normalize": True},
            "give 'reduce: mean' or 'normalize', not both",
        ),
        ({"op": "ties", "normalize": True}, "'normalize' is for 'aggregate: sum'"),
        ({"op": "ties", "sign": "norm-mass", "sign_from": "updates[a]"}, "give 'sign_from' or 'sign', not both"),
        ({"op": "ties", "density": [0.2, 0.5]}, "expected 3 numbers, one an input, found 2"),
        ({"op": "ties", "density": {"a": 0.2, "b": 0.5, "x": 1.0}}, "the map by item lacks: c"),
        ({"op": "ties", "density": 1.5}, "'density': expected"),
    ],
)
def test_mistakes_are_told(node: dict[str, Any], message: str, models: Path, write_recipe: Recipe) -> None:
    nodes = {
        "merged": {**node, "deltas": "updates"},
        "saved": {"op": "save", "model": "merged", "path": "m.safetensors"},
    }
    with pytest.raises(RecipeError, match=message) as caught:
        lines_pipeline.run(write_recipe(nodes), out="out", tracking=False)
    assert len(str(caught.value).splitlines()) <= 2
