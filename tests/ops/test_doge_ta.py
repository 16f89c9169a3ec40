"""``doge-ta`` beside the published algorithm in plain float64, by hand, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.ops.doge_ta import DogeTaParams
from lines_pipeline.ops.testing.examples import apply_op

pytestmark = pytest.mark.usefixtures("shared_store")

State = dict[str, torch.Tensor]


def states(scale: float = 0.02, count: int = 3) -> list[State]:
    shapes = {"tall": (15, 12), "wide": (12, 18), "bias": (7,)}
    generator = torch.Generator().manual_seed(3)
    return [
        {name: scale * (1 + task) * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for task in range(count)
    ]


def merge(folder: Path, updates: Sequence[State], **params: Any) -> State:
    """The merged update of task vectors, by a recipe."""
    for number, update in enumerate(updates):
        save_file(update, folder / f"{number}.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in updates[0].items()}, folder / "base.safetensors")
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{n}.safetensors", "for_each": {"n": list(range(len(updates)))}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "merged": {"op": "doge-ta", "deltas": "updates", **params},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "doge", "nodes": nodes}, sort_keys=False))
    result = lines_pipeline.run(folder / "recipe.yaml", out=folder / "out", tracking=False)
    tensors: State = load_file(result.files[0])
    return tensors


def change(vectors: torch.Tensor, scales: torch.Tensor, subspace: int, steps: int, rate: float) -> torch.Tensor:
    """The change of one layer [m, n], from task vectors [N, m, n], by torch's own gradients and Adam."""
    tasks, side = len(vectors), min(vectors.shape[1:])
    bases = [torch.linalg.svd(vector, full_matrices=False)[0][:, : int(side / tasks)] for vector in vectors]
    shared = torch.linalg.svd(torch.cat(bases, dim=1), full_matrices=False)[0][:, : int(side / subspace)]
    learned = torch.zeros_like(vectors[0], requires_grad=True)
    optimizer = torch.optim.Adam([learned], lr=rate)
    for _ in range(steps):
        merged = sum(scale * (vector + learned) for scale, vector in zip(scales, vectors, strict=True))
        costs = [(vector * (vector - merged)).sum(1).square().sum() for vector in vectors]
        (gradient,) = torch.autograd.grad(sum(costs), learned)
        learned.grad = gradient - shared @ shared.T @ gradient
        optimizer.step()
    return learned.detach()


def published(updates: Sequence[State], *, norm: float, density: float, **options: Any) -> State:
    """All of it, on the matrices alone, in float64."""
    names = sorted(name for name, value in updates[0].items() if value.dim() == 2)
    flat = [torch.cat([update[name].double().flatten() for name in names]) for update in updates]
    cuts = [vector.abs().kthvalue(len(vector) - int(len(vector) * density)).values for vector in flat]
    merged = {}
    for name in names:
        vectors = torch.stack([update[name].double() for update in updates])
        scales = norm / vectors.flatten(1).norm(dim=1)
        moved = vectors + change(vectors, scales, **options)
        kept = torch.stack([vector.abs() >= cut for vector, cut in zip(vectors, cuts, strict=True)])
        merged[name] = (scales.view(-1, 1, 1) * moved * kept).sum(0)
    return merged


@pytest.mark.parametrize("subspace", [2, 3, 6])
@pytest.mark.parametrize(("scale", "rate"), [(0.02, 1e-4), (0.3, 1e-2)])
def test_it_is_the_published_algorithm(scale: float, rate: float, subspace: int, tmp_path: Path) -> None:
    updates = states(scale)
    found = merge(tmp_path, updates, lr=rate, subspace=subspace, include=["tall", "wide"])
    expected = published(updates, norm=0.07, density=0.3, subspace=subspace, steps=400, rate=rate)
    for name, value in expected.items():
        size = float(value.abs().max())
        assert float((found[name] - value).abs().max()) < 2e-3 * size, name
        plain = sum(0.07 * u[name] / u[name].norm() * (value != 0) for u in updates)
        assert float((plain - value).abs().max()) > 0.1 * size, "the change is not seen"


def test_by_hand_in_one_step() -> None:
    """A step of Adam goes by the learning rate against the sign of the gradient; no direction is left out."""
    first, second = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    found = apply_op("doge-ta", {"deltas": [first, second]}, iterations=1, lr=0.5, norm=1.0, density=1.0)
    torch.testing.assert_close(found, (first + torch.tensor([[0.5, 0.5]])) / 3 + (second + 0.5) / 4)


def test_without_steps_it_is_the_trimmed_sum_at_one_norm(tmp_path: Path) -> None:
    """The trim counts every tensor that the node keeps."""
    updates = states()
    found = merge(tmp_path, updates, iterations=0, density=0.5, others="mean")
    flat = [torch.cat([value.flatten() for value in update.values()]) for update in updates]
    cuts = [vector.abs().kthvalue(len(vector) - int(len(vector) * 0.5)).values for vector in flat]
    for name in ("tall", "wide"):
        pairs = [(update[name], cut) for update, cut in zip(updates, cuts, strict=True)]
        expected = sum(0.07 * value / value.norm() * (value.abs() >= cut) for value, cut in pairs)
        torch.testing.assert_close(found[name], expected)
    torch.testing.assert_close(found["bias"], torch.stack([update["bias"] for update in updates]).mean(0))


def test_a_task_that_leaves_a_matrix_as_it_is_has_no_part_in_it() -> None:
    first, second = (update["tall"] for update in states(count=2))
    idle = torch.zeros_like(first)
    together, alone = (
        apply_op("doge-ta", {"deltas": deltas}, density=1.0, iterations=0)
        for deltas in ([first, idle, second], [first, second])
    )
    torch.testing.assert_close(together, alone)
    stepped = apply_op("doge-ta", {"deltas": [first, idle, second]}, density=1.0, iterations=3)
    assert stepped.isfinite().all() and not torch.equal(stepped, together)
    assert not apply_op("doge-ta", {"deltas": [idle, idle]}).any()


@pytest.mark.parametrize("wrong", [{"norm": 0.0}, {"subspace": 0}, {"density": 0.0}, {"iterations": -1}, {"lr": 0.0}])
def test_mistakes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DogeTaParams(**wrong)
