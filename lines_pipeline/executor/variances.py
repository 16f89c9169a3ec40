"""Tells of merged statistics of BatchNorm that no layer can work with: variances below zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from lines_pipeline.core.events import Note
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import BlockReader

VARIANCE = "running_var"
"""How the names of such tensors end, in torch and in what follows it."""


def variance_note(step: str, files: Iterable[Path]) -> Note | None:
    """Return a warning where weights written to ``files`` have a negative variance; reads these tensors alone."""
    lowest = {name: value for name, value in _lowest_variances(files) if value < 0}
    if not lowest:
        return None
    first = min(lowest)
    also = f" (and {len(lowest) - 1} more)" if len(lowest) > 1 else ""
    return Note(
        f"node '{step}': tensor '{first}'{also} is the variance of a BatchNorm and was merged to less than zero "
        f"({lowest[first]:.4g}): the layer gives NaN. Say exclude: ['*running_var', '*running_mean'] on the node that "
        "takes the task vectors, or that interpolates, to keep the base's, and measure them anew on data",
        warning=True,
    )


def _lowest_variances(files: Iterable[Path]) -> Iterator[tuple[str, float]]:
    reader = BlockReader()
    try:
        for path in files:
            tensors = open_checkpoint(path).tensors if path.suffix == ".safetensors" else {}
            for name, stored in tensors.items():
                if name.endswith(VARIANCE) and stored.spec.is_floating and stored.spec.numel:
                    yield name, reader.block(stored, 0, stored.spec.numel).to(torch.float64).min().item()
    finally:
        reader.close()
