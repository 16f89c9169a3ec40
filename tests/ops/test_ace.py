"""``ace``: matrices by hand, the equations in another form, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lines_pipeline.ops.ace import AceParams
from lines_pipeline.ops.testing.examples import apply_op


def merged(*updates: torch.Tensor, **params: Any) -> torch.Tensor:
    return apply_op("ace", {"deltas": list(updates)}, **params)


def uneven(shape: tuple[int, int]) -> list[torch.Tensor]:
    """Updates of sizes that differ, as ``tau`` measures it."""
    generator = torch.Generator().manual_seed(7)
    return [scale * torch.randn(shape, generator=generator) for scale in (0.3, 0.05, 0.6)]


def test_one_column_by_hand() -> None:
    """W = (1, -1), C = 2 + 1/2 and c = 2 of each of two tasks: W (5 / (5 + 4))."""
    column = torch.tensor([[1.0], [-1.0]])
    torch.testing.assert_close(merged(column, column, eps=0.5), column * 5 / 9)
    torch.testing.assert_close(merged(column + 3, column - 8, eps=0.5, tau=1e9), column * 5 / 9)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_the_solution_balances_the_covariances(shape: tuple[int, int]) -> None:
    """``sum_t (M - W_t) C_t + M 1 c^T = 0``, where tasks do not differ."""
    updates = uneven(shape)
    found = merged(*updates, tau=1e9).double()
    rest = torch.zeros(shape, dtype=torch.float64)
    for update in updates:
        rows = update.double() - update.double().mean(0)
        covariance = rows.T @ rows
        rest += (found - rows) @ (covariance + 0.01 * torch.eye(shape[1]))
        rest += found.sum(1, keepdim=True) * covariance.mean(0)
    torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-5)


def test_tasks_that_differ_are_refined_by_leading_directions() -> None:
    """What is refined has one singular value, as often as directions are taken."""
    updates = uneven((9, 8))
    plain, refined = (merged(*updates, k_fraction=fraction).double() for fraction in (0.0, 0.5))
    values = torch.linalg.svdvals(refined - plain)
    torch.testing.assert_close(values[:4], values[0].expand(4), rtol=1e-5, atol=0)
    assert float(values[4]) < 1e-5 * float(values[0])
    assert torch.equal(merged(*updates, k_fraction=0.0, tau=1e9), merged(*updates, tau=1e9))


def test_tasks_that_differ_count_by_the_traces_of_their_covariances() -> None:
    """Without a rest to refine: ``sum_t (M - W_t) C_t / tr_t + M 1 c^T = 0``, c over the mean square of the updates."""
    updates = uneven((9, 4))
    found = merged(*updates, k_fraction=0.0).double()
    rest, prior = torch.zeros(9, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for update in updates:
        rows = update.double() - update.double().mean(0)
        covariance = rows.T @ rows / rows.square().sum()
        rest += (found - rows) @ (covariance + 0.01 / rows.square().sum() * torch.eye(4))
        prior += covariance.mean(0)
    prior /= sum(float(update.double().square().sum()) for update in updates) / 3
    torch.testing.assert_close(rest + found.sum(1, keepdim=True) * prior, torch.zeros_like(rest), rtol=0, atol=1e-5)


@pytest.mark.parametrize("idle", [torch.zeros(6, 5), torch.arange(5.0).expand(6, 5)])
def test_a_task_that_tells_no_covariance_is_left_out(idle: torch.Tensor) -> None:
    first, second = uneven((6, 5))[::2]
    torch.testing.assert_close(merged(first, idle, second), merged(first, second))
    assert not merged(idle, idle).any()


@pytest.mark.parametrize("params", [{"eps": 0.0}, {"tau": -1.0}, {"k_fraction": 1.5}])
def test_mistakes_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AceParams(**params)
