"""Adam on one matrix, from zero: for merge methods that minimise a loss of the merged update."""

from __future__ import annotations

from collections.abc import Callable

import torch

_DECAYS = 0.9, 0.999
_EPSILON = 1e-8

ADAM_MATRICES = 4
"""How many matrices of the result's size ``adam_steps`` holds, the result among them."""


def adam_steps(
    like: torch.Tensor, gradient_into: Callable[[torch.Tensor, torch.Tensor], object], iterations: int, rate: float
) -> torch.Tensor:
    """Return how far Adam moves a matrix ``like`` this from zero, in that many steps at a learning rate.

    ``gradient_into(moved, gradient)`` writes the loss's gradient at ``moved`` into ``gradient``.
    """
    moved, mean, square, gradient = (torch.zeros_like(like) for _ in range(ADAM_MATRICES))
    for step in range(1, iterations + 1):
        gradient_into(moved, gradient)
        mean.lerp_(gradient, 1 - _DECAYS[0])
        square.mul_(_DECAYS[1]).addcmul_(gradient, gradient, value=1 - _DECAYS[1])
        length = torch.sqrt(square, out=gradient).div_((1 - _DECAYS[1] ** step) ** 0.5).add_(_EPSILON)
        moved.addcdiv_(mean, length, value=-rate / (1 - _DECAYS[0] ** step))
    return moved
