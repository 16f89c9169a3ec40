"""Which device computes."""

from __future__ import annotations

import torch

from lines_pipeline.core.errors import PlanError


def resolve_device(wanted: str) -> str:
    """``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes a GPU where there is one."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise PlanError(f"device {wanted}: this machine has no CUDA device that torch can use; say 'cpu' or 'auto'")
    if wanted != "cpu" and not wanted.startswith("cuda"):
        raise PlanError(f"device '{wanted}': expected auto, cpu, cuda or cuda:N")
    return wanted
