"""Do two tools compute the same merge? The share of one result's update by which another's differs."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open


def difference(path: Path, reference: Path, base: Path) -> float:
    """``sum |model - reference| / sum |reference - base|`` over all entries, tensor by tensor."""
    apart = moved = 0.0
    with safe_open(path, "pt") as model, safe_open(reference, "pt") as other, safe_open(base, "pt") as start:
        for name in other.keys():  # noqa: SIM118 (a file of tensors is no mapping)
            expected = other.get_tensor(name)
            apart += float((model.get_tensor(name) - expected).abs().sum(dtype=torch.float64))
            moved += float((expected - start.get_tensor(name)).abs().sum(dtype=torch.float64))
    return apart / moved
