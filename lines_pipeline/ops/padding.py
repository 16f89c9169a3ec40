"""Tells padding from tokens, in models that take texts of several lengths in one batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class Padded(Protocol):
    """A module that takes texts of several lengths in a batch, and tells which of its inputs are tokens."""

    def token_mask(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return [n, tokens]: 0 for padding, 1 for all else."""


def token_mask(module: nn.Module, batch: Any) -> torch.Tensor | None:
    """Return [n, tokens], 0 for padding and 1 for all else; None for a module whose inputs have none."""
    return module.token_mask(batch) if isinstance(module, Padded) else None


def in_distinct_axes(
    batch: torch.Tensor, mask: torch.Tensor | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield a batch and its mask whole, or in two parts where it has padding and as many samples as tokens.

    The sizes of a part tell its axis of samples from that of tokens.
    """
    if mask is None or mask.shape[0] != mask.shape[1] or mask.all():
        yield batch, mask
    else:
        yield from ((batch[part], mask[part]) for part in (slice(1), slice(1, None)) if len(batch[part]))


def rows_of_tokens(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return [..., width] as rows [n, width], without those of padding.

    The mask [n, tokens] is that of values [n, tokens, width], [tokens, n, width], or [n * tokens, width]; of other
    values, such as a pooled text's, all rows count.
    """
    rows, axes = values.reshape(-1, values.shape[-1]), values.shape[:-1]
    if mask is None or len(rows) != mask.numel():
        return rows
    counted = (mask.T if axes == mask.T.shape else mask).reshape(-1).bool()
    return rows if counted.all() else rows[counted]
