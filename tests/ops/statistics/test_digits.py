"""Values that are found digit by digit: what a sweep keeps of blocks is what the plan counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, TensorSpec
from lines_pipeline.ops.statistics.contract import Retry
from lines_pipeline.ops.statistics.digits import Counted, SelectedValue
from lines_pipeline.ops.statistics.norm_fractions import NormFraction

NUMEL = 4 * BLOCK_NUMEL + 1000
NUMELS = {"t": NUMEL}


class Ranked(SelectedValue):
    """The value itself, at the rank of a third of the entries."""

    def derived(self, values: Sequence[Any], tensor: TensorSpec, needs: Sequence[Any]) -> torch.Tensor:
        value: torch.Tensor = values[0]
        return value

    def goal(self, count: int, marked: int, weight: float) -> float:
        return count // 3


def sweeps(statistic: SelectedValue, values: torch.Tensor) -> tuple[list[list[Counted]], float]:
    """What each sweep keeps of the blocks, and the value that is found."""
    spec, state, kept = TensorSpec("t", str(values.dtype).removeprefix("torch."), (NUMEL,)), None, []
    while True:
        blocks = torch.split(values, BLOCK_NUMEL)
        kept.append([statistic.partial(*statistic.observe([block], spec, (), state)) for block in blocks])
        cut = statistic.combine({"t": kept[-1]}, NUMELS, state)
        if not isinstance(cut, Retry):
            value = cut[""]
            return kept, float(value[0] if isinstance(value, list) else value)
        state = cut.state


def nbytes(block: Counted) -> int:
    arrays = (block.digits, block.counts, block.weights, block.kept)
    return sum(array.nbytes for array in arrays if array is not None)


def values_of_all_sizes(dtype: torch.dtype) -> torch.Tensor:
    """Values of every sign and exponent, the smallest numbers among them."""
    generator = torch.Generator().manual_seed(0)
    lowest, highest = (-1070, 1020) if dtype is torch.float64 else (-149, 127)
    exponents = torch.randint(lowest, highest, (NUMEL,), generator=generator).double()
    return (torch.randn(NUMEL, generator=generator).double() * torch.exp2(exponents)).to(dtype).clamp(-1e38, 1e38)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_sweep_keeps_more_than_is_counted(dtype: torch.dtype) -> None:
    values = values_of_all_sizes(dtype)
    statistic = Ranked(("x",), "global")
    kept, cut = sweeps(statistic, values)
    assert cut == np.sort(values.double().numpy())[NUMEL // 3 - 1]
    counted = statistic.kept_bytes(NUMELS, dtype.itemsize)
    assert max(sum(map(nbytes, blocks)) for blocks in kept) <= counted


def test_weights_are_kept_and_counted() -> None:
    values = torch.randn(NUMEL, generator=torch.Generator().manual_seed(1))
    statistic = NormFraction(("x",), "global", 0.5)
    kept, cut = sweeps(statistic, values)
    assert all(block.weights is not None for block in kept[0])
    ordered = np.sort(values.abs().double().numpy())[::-1]
    shares = np.cumsum(ordered**2) / (ordered**2).sum()
    assert cut == ordered[np.searchsorted(shares, 0.5)]
    assert max(sum(map(nbytes, blocks)) for blocks in kept) <= statistic.kept_bytes(NUMELS, 4)
    assert sum(map(nbytes, kept[0])) < 0.01 * 4 * NUMEL  # digits are few beside values
