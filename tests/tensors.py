"""Small tensors that tests write down."""

from __future__ import annotations

import torch


def tensor(*values: float) -> torch.Tensor:
    """A vector of float32."""
    return torch.tensor(values, dtype=torch.float32)
