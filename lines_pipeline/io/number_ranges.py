"""Computes the range of numbers that the data types of tensors hold."""

from __future__ import annotations

import math
from functools import cache

import torch


@cache
def largest_held(computed: torch.dtype, stored: torch.dtype) -> float:
    """Return the largest magnitude in the type ``computed`` that ``stored`` holds after rounding to nearest.

    A magnitude further than half a step above the largest number of ``stored`` becomes Inf, or that largest number
    where the type saturates.
    """
    if computed is torch.float64 and torch.finfo(stored).bits < 32:  # torch rounds these to float32 first
        return largest_held(torch.float32, stored)
    most = torch.finfo(stored).max
    step = torch.finfo(stored).eps * 2.0 ** (math.frexp(most)[1] - 1)
    halfway = most / 2 + (most / 2 + step / 2)  # float64's own would be Inf
    ties_to_most = most / step % 2 == 0
    within = torch.tensor(halfway, dtype=computed)
    if within.item() == halfway and not ties_to_most:
        within = torch.nextafter(within, torch.zeros_like(within))
    return min(within.item(), torch.finfo(computed).max)
