"""Looks at results before they are kept: none is NaN or Inf, or beyond the range of the type that it is stored in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.number_ranges import largest_held

BlockPosition = tuple[str, str, str]
"""A step, a tensor of its value, and the type that it is stored in."""


@dataclass(frozen=True)
class Unheld:
    """Values of a block that cannot be stored: NaN and Inf, and numbers beyond the range of the stored type."""

    nonfinite: int
    too_large: int
    largest: float
    """The largest magnitude among the numbers."""


def unheld(value: torch.Tensor, stored: torch.Tensor, given: torch.Tensor | None) -> Unheld | None:
    """Return what of ``value`` its ``stored`` form does not hold; None where it holds everything.

    ``given`` masks where all inputs had the same NaN or Inf, which results keep.
    """
    if not stored.is_floating_point() or not value.numel() or _holds_all(value, stored):
        return None
    bad = ~(value.abs() <= largest_held(value.dtype, stored.dtype))
    if given is not None:
        bad &= ~given
    if not bad.any():
        return None
    wrong = value[bad]
    numbers = wrong[torch.isfinite(wrong)].abs()
    return Unheld(len(wrong) - len(numbers), len(numbers), float(numbers.max()) if len(numbers) else 0.0)


def _holds_all(value: torch.Tensor, stored: torch.Tensor) -> bool:
    """Return whether a quick look proves it: finite values alone have a finite sum. Types of 8 bits may have no Inf."""
    if stored.itemsize > 1:
        return math.isfinite(stored.sum().item())
    return bool(value.abs().amax() <= largest_held(value.dtype, stored.dtype))


def require_held(
    unheld_values: Mapping[BlockPosition, Iterable[Unheld]],
    numels: Mapping[str, Mapping[str, int]],
    saved: Iterable[str],
) -> None:
    """Raise ``CheckpointError`` for results that cannot be stored: names the first tensor, how many values, the remedy.

    ``numels`` by step and tensor; ``saved`` are the steps that the recipe saves, others are only judged.
    """
    if not unheld_values:
        return
    (step, tensor, dtype), blocks = min(unheld_values.items())
    whole = Unheld(
        sum(block.nonfinite for block in blocks),
        sum(block.too_large for block in blocks),
        max(block.largest for block in blocks),
    )
    count, numel = whole.nonfinite or whole.too_large, numels[step][tensor]
    other_tensors = len({name for _, name, _ in unheld_values} - {tensor})
    also = f" (and some of {other_tensors} more tensors)" if other_tensors else ""
    share = f"{count:,} of {numel:,} values ({100 * count / numel:.2g} %){also} {'is' if count == 1 else 'are'}"
    raise CheckpointError(
        f"node '{step}': tensor '{tensor}' of the result: {share} {_reason(whole, dtype)}. "
        f"Nothing is written; {_remedy(whole, dtype, step in set(saved))}"
    )


def _reason(values: Unheld, dtype: str) -> str:
    if values.nonfinite:
        return "NaN or Inf, which no input is: sums or factors leave the range of the type that is computed with"
    limit = torch.finfo(getattr(torch, dtype)).max
    return f"beyond the range of {dtype}, whose largest number is {limit:g} (up to {values.largest:g})"


def _remedy(values: Unheld, dtype: str, saved: bool) -> str:
    if values.nonfinite:
        return "use smaller factors, or look for a damaged checkpoint with 'lines-pipeline inspect'"
    wider = {"float32": "'dtype: float64'", "bfloat16": "'dtype: float32'"}
    types = wider.get(dtype, "'dtype: bfloat16' or 'dtype: float32'")
    if saved:
        return f"say {types} on the node that saves it, or use smaller factors"
    return f"models are judged in the type of their base: use smaller factors, or save it with {types} and judge that"
