"""``dc-merge`` beside the published algorithm in plain float64, by hand, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lines_pipeline.ops.dc_merge import DcMergeParams
from lines_pipeline.ops.testing.examples import apply_op


def merged(updates: Sequence[torch.Tensor], **params: Any) -> torch.Tensor:
    return apply_op("dc-merge", {"deltas": list(updates)}, **params).double()


def random_updates(shape: tuple[int, int], count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def polar(matrix: torch.Tensor) -> torch.Tensor:
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    product: torch.Tensor = left @ right
    return product


def published(updates: Sequence[torch.Tensor], density: float, rank: int | None, ratio: float | None) -> torch.Tensor:
    """Whole matrices throughout: truncated and smoothed, projected, trimmed, elected, masked, and projected back."""
    count, side = len(updates), min(updates[0].shape)
    kept = rank or int(side / count)
    triplets = [torch.linalg.svd(update.double(), full_matrices=False) for update in updates]
    lefts = polar(torch.cat([left[:, :kept] for left, _, _ in triplets], dim=1))
    rights = polar(torch.cat([right[:kept] for _, _, right in triplets]).T)
    cores = []
    for left, values, right in triplets:
        own = values[:kept]
        if ratio is not None:
            line = torch.linspace(min(ratio, float(own[0] / own[-1])), 1, kept, dtype=torch.float64)
            own = own.sum() * line / line.sum()
        core = lefts.T @ left[:, :kept] @ own.diag() @ right[:kept] @ rights
        entries = max(1, int(density * (side if rank is None else kept * count) ** 2))
        cut = core.abs().flatten().sort(descending=True).values[min(entries, core.numel()) - 1]
        cores.append(torch.where(core.abs() >= cut, core, 0.0))
    stacked = torch.stack(cores)
    agreeing = (stacked * stacked.sum(0)) > 0
    mean = torch.where(agreeing, stacked, 0.0).sum(0) / agreeing.sum(0).clamp(min=1)
    blocks = torch.kron(torch.eye(count, dtype=torch.float64), torch.ones(kept, kept, dtype=torch.float64))
    result: torch.Tensor = lefts @ (mean * blocks) @ rights.T
    return result


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (13, 13)])
@pytest.mark.parametrize(
    ("density", "rank", "ratio"), [(0.001, None, None), (0.1, None, None), (1.0, None, 5.0), (0.2, 2, 1.0)]
)
def test_it_is_the_published_algorithm(
    shape: tuple[int, int], density: float, rank: int | None, ratio: float | None
) -> None:
    updates = random_updates(shape, 3)
    found = merged(updates, density=density, rank=rank, max_ratio=ratio)
    expected = published(updates, density, rank, ratio)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_orthogonal_tasks_by_hand() -> None:
    """Bases are orthogonal already: each task keeps its leading value; of the cores 1 entry is kept."""
    first, second = torch.diag(torch.tensor([5.0, 1.0])), torch.diag(torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(merged([first, second]), torch.diag(torch.tensor([5.0, 3.0])).double())


def test_values_are_smoothed_at_the_same_sum() -> None:
    """6 and 2 become 4 and 4; at a ratio of 1.5 4.8 and 3.2; a ratio above their own leaves them."""
    update = torch.diag(torch.tensor([6.0, 2.0]))
    for ratio, values in ((1.0, [4.0, 4.0]), (1.5, [4.8, 3.2]), (9.0, [6.0, 2.0]), (None, [6.0, 2.0])):
        expected = torch.diag(torch.tensor(values)).double()
        torch.testing.assert_close(merged([update], density=1.0, max_ratio=ratio), expected)


def test_tasks_may_come_in_any_order_and_scale() -> None:
    updates = random_updates((12, 20), 4)
    found = merged(updates, density=0.05)
    torch.testing.assert_close(merged(updates[::-1], density=0.05), found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged([8 * update for update in updates], density=0.05), 8 * found)


def test_a_rank_leaves_out_what_is_beyond_an_adapter() -> None:
    """Rounding of a product of factors is no direction of it; nor are null directions."""
    left, right = random_updates((12, 2), 3), random_updates((2, 20), 3)
    updates = [one @ other for one, other in zip(left, right, strict=True)]
    noisy = [update + 1e-6 * noise for update, noise in zip(updates, random_updates((12, 20), 3), strict=True)]
    found = merged(noisy, rank=2, density=1.0, max_ratio=1.0)
    torch.testing.assert_close(found, merged(updates, rank=2, density=1.0, max_ratio=1.0), rtol=1e-4, atol=1e-4)
    assert merged([*updates, torch.zeros(12, 20)]).isfinite().all()
    assert not merged(random_updates((3, 9), 4)).any(), "more tasks than directions"


@pytest.mark.parametrize("wrong", [{"density": 0.0}, {"max_ratio": 0.5}, {"rank": 0}])
def test_mistakes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DcMergeParams(**wrong)
