"""Which device computes."""

from __future__ import annotations

import torch

from lines_pipeline.core.errors import PlanError


def resolve_device(device: str) -> str:
    """Return ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes a GPU where there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise PlanError(f"device {device}: this machine has no CUDA device that torch can use; say 'cpu' or 'auto'")
    if device != "cpu" and not device.startswith("cuda"):
        raise PlanError(f"device '{device}': expected auto, cpu, cuda or cuda:N")
    return device
