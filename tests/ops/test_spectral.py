"""Spectral merges: matrices by hand, laws, hostile shapes, and the memory that whole tensors take."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops import registry
from lines_pipeline.ops.decompositions import isotropic, leading_triplets, polar_factor
from lines_pipeline.ops.testing import apply_op

pytestmark = pytest.mark.usefixtures("shared_store")

State = dict[str, torch.Tensor]
METHODS = ("iso-c", "tsv-m", "iso-cts", "cart", "wudi", "wudi-closed", "ace", "dc-merge")
ALL = (*METHODS, "doge-ta")


def random_state(seed: int, scale: float = 1.0) -> State:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"wide": (6, 14), "tall": (15, 5), "square": (8, 8), "bias": (7,), "kernel": (4, 3, 3, 3), "one": ()}
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def recipe(folder: Path, op: str, updates: list[State], **params: Any) -> Path:
    """A merge of ``updates`` onto a base of zeros, so that the result is the merged update."""
    for number, update in enumerate(updates):
        save_file(update, folder / f"e{number}.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in updates[0].items()}, folder / "base.safetensors")
    experts = {"op": "load", "path": "e{n}.safetensors", "for_each": {"n": list(range(len(updates)))}}
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": experts,
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "merged": {"op": op, "deltas": "updates", **params},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "spectral", "nodes": nodes}, sort_keys=False))
    return path


def merge(folder: Path, op: str, updates: list[State], **params: Any) -> State:
    result = lines_pipeline.run(recipe(folder, op, updates, **params), out=folder / "out", tracking=False)
    tensors: dict[str, torch.Tensor] = load_file(result.files[0])
    return tensors


def test_iso_c_by_hand(tmp_path: Path) -> None:
    """The sum is diag(3, 1): its polar factor is the identity, its mean singular value 2."""
    update = {"w": torch.tensor([[2.0, 1.0], [0.0, 1.0]])}
    other = {"w": torch.tensor([[1.0, -1.0], [0.0, 0.0]])}
    torch.testing.assert_close(merge(tmp_path, "iso-c", [update, other])["w"], 2 * torch.eye(2))


def test_tsv_m_by_hand(tmp_path: Path) -> None:
    """Each task keeps its leading direction; the directions are orthogonal already, so nothing is decorrelated."""
    first, second = {"w": torch.diag(torch.tensor([5.0, 1.0]))}, {"w": torch.diag(torch.tensor([2.0, 3.0]))}
    torch.testing.assert_close(merge(tmp_path, "tsv-m", [first, second])["w"], torch.diag(torch.tensor([5.0, 3.0])))


@pytest.mark.parametrize(("op", "rank"), [("iso-c", 4), ("tsv-m", 2)])
def test_a_plan_tells_what_is_decomposed_and_the_ranks(op: str, rank: int, tmp_path: Path) -> None:
    update = {"w": torch.ones(6, 4), "v": torch.ones(4, 6), "text_projection": torch.ones(2, 2), "b": torch.ones(8)}
    report = lines_pipeline.plan(recipe(tmp_path, op, [update, update]), out=tmp_path / "out")
    head = "  merged: decomposes 2 matrices of 2 task vectors, 80.0% of the parameters, the largest "
    lines = report.render().splitlines()
    assert [line for line in lines if line.startswith(head)] == [head + "6 x 4"]
    assert f"    rank {rank} of 4: 2 matrices" in lines
    assert report.to_dict()["lines"] == [{"step": "merged", "matrices": 2, "ranks": {"v": rank, "w": rank}}]


def test_tsv_m_of_one_task_is_that_task(tmp_path: Path) -> None:
    update = random_state(0)
    tensors = merge(tmp_path, "tsv-m", [update])
    for name, value in update.items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", [op for op in METHODS if op not in ("wudi", "ace")])
def test_the_update_scales_with_those_of_the_tasks(op: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "scaled").mkdir()
    plain = merge(tmp_path / "plain", op, [random_state(seed) for seed in range(3)])
    scaled = merge(tmp_path / "scaled", op, [random_state(seed, 8.0) for seed in range(3)])
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], 8.0 * value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", METHODS)
def test_the_order_of_the_tasks_does_not_matter(op: str, tmp_path: Path) -> None:
    updates = [random_state(seed) for seed in range(3)]
    (tmp_path / "turned").mkdir()
    tensors, other = merge(tmp_path, op, updates), merge(tmp_path / "turned", op, updates[::-1])
    for name, value in tensors.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("op", ALL)
def test_vectors_kernels_and_scalars_take_the_mean_or_stay(op: str, tmp_path: Path) -> None:
    updates = [random_state(seed) for seed in range(3)]
    tensors = merge(tmp_path, op, updates, others="mean")
    kept = merge(tmp_path, op, updates, others="base", matrices=["tall"])
    for name in ("bias", "kernel", "one"):
        torch.testing.assert_close(tensors[name], torch.stack([update[name] for update in updates]).mean(0))
    assert [name for name, value in kept.items() if value.any()] == ["tall"]
    torch.testing.assert_close(kept["tall"], tensors["tall"])


@pytest.mark.parametrize("op", [*ALL, "tsv-c", "svc"])
def test_kernels_as_matrices_are_merged_as_reshaped_tensors(op: str, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    updates = [{"kernel": random_state(seed)["kernel"]} for seed in range(3)]
    flat = [{"kernel": update["kernel"].reshape(4, 27)} for update in updates]

    def merged(folder: Path, states: list[State], **params: Any) -> torch.Tensor:
        path = recipe(folder, op, states, **params)
        content = yaml.safe_load(path.read_text())
        if op == "svc":
            content["nodes"]["sum"] = {"op": "task-arithmetic", "deltas": "updates"}
            content["nodes"]["merged"]["delta"] = "sum"
        if op == "tsv-c":
            content["nodes"]["model"]["delta"] = "merged[1]"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        tensors = load_file(lines_pipeline.run(path, out=folder / "out", tracking=False).files[0])
        kernel: torch.Tensor = tensors["kernel"]
        return kernel

    kernels = merged(tmp_path, updates, convolutions="matrix", matrices=["k*"])
    assert kernels.shape == (4, 3, 3, 3)
    assert torch.equal(kernels.reshape(4, 27), merged(tmp_path / "flat", flat))
    assert not torch.allclose(kernels, merged(tmp_path, updates), atol=1e-3)


@pytest.mark.parametrize("op", [*ALL, "tsv-c", "svc"])
def test_kernels_as_matrices_take_the_memory_of_matrices(op: str) -> None:
    spectral = registry()[op]
    params = spectral.Params.model_validate({"convolutions": "matrix"})
    kernel = TensorSpec("kernel", "float32", (64, 32, 3, 3))
    counts = {"delta": 1, "deltas": 20}
    for asked in (spectral.working_bytes, spectral.times_taken):
        given = [asked(params, spec, counts) for spec in (kernel, replace(kernel, shape=(64, 288)))]
        assert given[0] == given[1] > 0
    assert spectral.wants_whole(params, kernel) and not spectral.wants_whole(spectral.Params(), kernel)


def test_kernels_are_matrices_on_demand_alone(tmp_path: Path) -> None:
    updates = [random_state(seed) for seed in range(2)]
    with pytest.raises(PlanError, match=r"the glob 'kern\*' matches no tensor"):
        lines_pipeline.plan(recipe(tmp_path, "iso-c", updates, matrices=["kern*"]))
    report = lines_pipeline.plan(recipe(tmp_path, "iso-c", updates, convolutions="matrix")).render()
    assert "decomposes 4 matrices of 2 task vectors" in report and "the largest 4 x 27" in report


@pytest.mark.parametrize("op", METHODS)
def test_zero_updates_give_zero_and_few_directions_stay_finite(op: str, tmp_path: Path) -> None:
    nothing = {name: torch.zeros_like(value) for name, value in random_state(0).items()}
    assert not any(value.any() for value in merge(tmp_path, op, [nothing, nothing]).values())
    low = random_state(1) | {"tall": torch.outer(torch.arange(15.0), torch.ones(5))}
    tensors = merge(tmp_path, op, [low, nothing])
    assert torch.linalg.matrix_rank(tensors["tall"], rtol=1e-5) == 1
    assert all(value.isfinite().all() for value in tensors.values())


@pytest.mark.parametrize(
    ("op", "params"),
    [
        *((op, {}) for op in ("iso-c", "tsv-m", "iso-cts")),
        ("iso-cts", {"common_fraction": 0.3}),
        ("wudi-closed", {"ridge": 0.0}),
    ],
)
@pytest.mark.parametrize("base_scale", [0.0, 0.02, 0.2])
def test_rounding_of_updates_of_low_rank_is_no_direction(op: str, params: dict[str, Any], base_scale: float) -> None:
    """Products, and differences from a base, have rounding where their directions end."""
    generator = torch.Generator().manual_seed(4)
    base = base_scale * torch.randn(16, 24, generator=generator)
    exact = [0.01 * torch.randn(16, 1, generator=generator) @ torch.randn(1, 24, generator=generator) for _ in range(3)]

    def updates(factor: float) -> list[torch.Tensor]:
        return [(base + factor * update) - base for update in exact]

    expected = apply_op(op, {"deltas": updates(1.0)}, **params)
    size = float(expected.abs().max())
    for found in (
        apply_op(op, {"deltas": updates(3.0)}, **params) / 3.0,
        apply_op(op, {"deltas": updates(1.0)[::-1]}, **params),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * size)
    assert torch.linalg.matrix_rank(expected, rtol=1e-5) == 3


def test_more_tasks_than_directions_leave_a_matrix_as_it_is(tmp_path: Path) -> None:
    tensors = merge(tmp_path, "tsv-m", [random_state(seed) for seed in range(6)])
    assert not tensors["tall"].any() and tensors["square"].any()


@pytest.mark.parametrize("op", ALL)
def test_many_tasks_and_a_task_that_is_the_base_stay_finite(op: str, tmp_path: Path) -> None:
    nothing = {name: torch.zeros_like(value) for name, value in random_state(0).items()}
    tensors = merge(tmp_path, op, [*(random_state(seed) for seed in range(11)), nothing])
    assert all(value.isfinite().all() for value in tensors.values())
    assert tensors["square"].any() or op in ("tsv-m", "dc-merge"), "more tasks than directions"


@pytest.mark.parametrize("op", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_merged_in_float32(op: str, dtype: torch.dtype, tmp_path: Path) -> None:
    halves = [{name: value.to(dtype) for name, value in random_state(seed).items()} for seed in range(3)]
    (tmp_path / "wide").mkdir()
    wide = merge(tmp_path / "wide", op, [{name: value.float() for name, value in half.items()} for half in halves])
    for name, value in merge(tmp_path, op, halves).items():
        assert torch.equal(value, wide[name].to(dtype))


@pytest.mark.parametrize("op", ["tsv-m", "cart", "wudi", "wudi-closed"])
def test_one_task_keeps_its_update(op: str, tmp_path: Path) -> None:
    update = random_state(0)
    options = {"others": "mean"} | ({"ridge": 0.0} if op == "wudi-closed" else {})
    for name, value in merge(tmp_path, op, [update], **options).items():
        torch.testing.assert_close(value, update[name], rtol=1e-5, atol=1e-6)


def test_iso_cts_without_common_directions_by_hand(tmp_path: Path) -> None:
    """Of each task the larger direction: they are orthogonal, and their mean singular value is 4."""
    first, second = {"w": torch.diag(torch.tensor([5.0, 1.0]))}, {"w": torch.diag(torch.tensor([2.0, 3.0]))}
    tensors = merge(tmp_path, "iso-cts", [first, second], common_fraction=0.0)
    torch.testing.assert_close(tensors["w"], 4 * torch.eye(2))


def test_iso_cts_takes_directions_of_a_task_beside_the_common_ones(tmp_path: Path) -> None:
    """The sum is diag(7, 4, 0): one common direction, of value 7; then 4 of the first task, 2 of the second."""
    first, second = {"w": torch.diag(torch.tensor([3.0, 4.0, 0.0]))}, {"w": torch.diag(torch.tensor([4.0, 0.0, 2.0]))}
    tensors = merge(tmp_path, "iso-cts", [first, second], common_fraction=0.34)
    torch.testing.assert_close(tensors["w"], (7 + 4 + 2) / 3 * torch.eye(3))


@pytest.mark.parametrize(("fraction", "tasks"), [(1.0, 3), (0.8, 20)])
def test_iso_cts_without_directions_of_tasks_is_iso_c(fraction: float, tasks: int, tmp_path: Path) -> None:
    updates = [random_state(seed) for seed in range(tasks)]
    tensors = merge(tmp_path, "iso-cts", updates, common_fraction=fraction)
    for name, value in merge(tmp_path, "iso-c", updates).items():
        assert torch.equal(tensors[name], value)


def test_cart_by_hand(tmp_path: Path) -> None:
    """The mean is diag(2, 2); the tasks differ from it by +-diag(3, 1), of which one triplet each cancels."""
    first, second = {"w": torch.diag(torch.tensor([5.0, 3.0]))}, {"w": torch.diag(torch.tensor([-1.0, 1.0]))}
    third = {"w": torch.diag(torch.tensor([2.0, 2.0]))}
    torch.testing.assert_close(merge(tmp_path, "cart", [first, second, third], scale=7.0)["w"], 2 * torch.eye(2))


def test_cart_scales_what_is_beyond_the_mean(tmp_path: Path) -> None:
    """The mean is diag(1, 1, 1)/3 of diag(1, 0, 0) and so on; each task's leading triplet beyond it has value 2/3."""
    updates = [{"w": torch.diag(row)} for row in torch.eye(3)]
    torch.testing.assert_close(merge(tmp_path, "cart", updates, scale=0.5)["w"], (1 + 0.5 * 2) / 3 * torch.eye(3))


def test_wudi_takes_steps_of_adam(tmp_path: Path) -> None:
    """Against torch's own Adam on the loss as the paper writes it."""
    updates = [random_state(seed) for seed in range(3)]
    tensors = merge(tmp_path, "wudi", updates, iterations=40, lr=1e-2)
    for name in ("wide", "tall", "square"):
        tasks = torch.stack([update[name].double() for update in updates])
        merged = torch.nn.Parameter(tasks.sum(0))
        adam = torch.optim.Adam([merged], lr=1e-2)
        for _ in range(40):
            adam.zero_grad()
            losses = ((merged - tasks) @ tasks.mT).square().sum((1, 2)) / tasks.square().sum((1, 2))
            losses.sum().backward()  # type: ignore[no-untyped-call]
            adam.step()
        torch.testing.assert_close(tensors[name].double(), merged.detach(), rtol=1e-5, atol=1e-5)


def test_the_closed_form_is_a_minimum(tmp_path: Path) -> None:
    updates = [random_state(seed) for seed in range(3)]
    tensors = merge(tmp_path, "wudi-closed", updates, ridge=0.0)
    for name in ("wide", "tall", "square"):
        tasks = [update[name].double() for update in updates]
        gradients = [(tensors[name].double() - task) @ task.T @ task / task.square().sum() for task in tasks]
        gradient = torch.stack(gradients).sum(0)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=2e-6)


@pytest.mark.parametrize("op", ALL)
def test_bytes_depend_on_neither_workers_nor_memory_nor_cache(op: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, op, [random_state(seed) for seed in range(3)])
    least = lines_pipeline.plan(path, workers=1, scheduler="serial").peak_bytes
    ways: list[dict[str, Any]] = [
        {"scheduler": "serial"},
        {"workers": 3, "cache": False},
        {"workers": 2, "memory": least + 2 * 10**6},
    ]
    values = []
    for number, options in enumerate(ways):
        result = lines_pipeline.run(path, out=tmp_path / str(number), tracking=False, **options)
        values.append(result.files[0].read_bytes())
    assert values[0] == values[1] == values[2]


def test_a_plan_tells_the_passes_and_the_memory_of_whole_tensors(tmp_path: Path) -> None:
    update = {"w": torch.randn(1500, 1000)}
    path = recipe(tmp_path, "iso-c", [update, update])
    plan = lines_pipeline.plan(path, workers=1)
    assert [planned_pass["writes"] for planned_pass in plan.passes] == [["merged"], ["model"]]
    streamed = lines_pipeline.plan(recipe(tmp_path, "task-arithmetic", [update, update]), workers=1).peak_bytes
    assert plan.peak_bytes - streamed > 3 * update["w"].nbytes
    with pytest.raises(PlanError, match="allow at least"):
        lines_pipeline.plan(recipe(tmp_path, "iso-c", [update, update]), workers=1, memory=plan.peak_bytes - 10**6)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (20, 20)])
def test_decompositions_are_those_of_the_library(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    torch.testing.assert_close(polar_factor(matrix).double(), left @ right, rtol=0, atol=1e-6)
    torch.testing.assert_close(isotropic(matrix).double(), values.mean() * (left @ right), rtol=0, atol=1e-5)
    triplets = leading_triplets(matrix, 5)
    best = (left[:, :5] * values[:5]) @ right[:5]
    torch.testing.assert_close(
        (triplets.left.double() * triplets.values) @ triplets.right.double().T, best, rtol=0, atol=1e-5
    )


def test_small_singular_values_are_resolved() -> None:
    """Values down to 1e-9 of the largest: below what a Gram matrix tells, above what float64 leaves unknown."""
    generator = torch.Generator().manual_seed(2)
    left = torch.linalg.qr(torch.randn(30, 6, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    values = torch.tensor([1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-9], dtype=torch.float64)
    factor = polar_factor((left * values) @ right.T)
    torch.testing.assert_close(factor, left @ right.T, rtol=0, atol=1e-5)


def test_wudi_with_a_relative_rate_scales_with_the_updates(tmp_path: Path) -> None:
    """The rate is a share of the mean magnitude of the sum, matrix by matrix."""
    updates = [random_state(seed) for seed in range(3)]
    tenth = [{name: value / 10 for name, value in update.items()} for update in updates]
    merged, smaller = (
        merge(tmp_path, "wudi", deltas, iterations=30, lr={"relative": 0.01}) for deltas in (updates, tenth)
    )
    rate = float(sum(update["square"] for update in updates).abs().mean()) / 100  # type: ignore[union-attr]
    torch.testing.assert_close(
        merged["square"], merge(tmp_path, "wudi", updates, iterations=30, lr=rate)["square"], rtol=1e-5, atol=1e-6
    )
    for name in ("wide", "tall", "square"):
        torch.testing.assert_close(smaller[name] * 10, merged[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", [*METHODS, "tsv-c", "svc"])
@pytest.mark.parametrize("glob", ["*nowhere*", "*ln_1.bias"])
def test_a_glob_that_names_no_matrix_is_refused(op: str, glob: str, write_recipe: Callable[..., Path]) -> None:
    sums = {"sum": {"op": "task-arithmetic", "deltas": "updates"}}
    node = {"op": op, "deltas": "updates", "matrices": ["*c_fc*", glob], **({"delta": "sum"} if op == "svc" else {})}
    saved = {"op": "save", "model": "merged[a]" if op == "tsv-c" else "merged", "path": "update.safetensors"}
    with pytest.raises(PlanError, match=re.escape(f"node 'merged': the glob '{glob}' matches no tensor")):
        lines_pipeline.validate(write_recipe({**sums, "merged": node, "saved": saved}))
