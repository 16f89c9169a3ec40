"""Tells of merged statistics of BatchNorm that no layer can work with: variances below zero."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from lines_pipeline.core.events import Note
from lines_pipeline.io.checkpoints import Checkpoint, open_checkpoint
from lines_pipeline.io.reading import BlockReader

VARIANCE = "running_var"
"""How the names of such tensors end, in torch and in what follows it."""


def variance_note(step: str, path: Path) -> Note | None:
    """A warning where weights that were written to ``path`` have a negative variance; reads these tensors alone."""
    lowest = {name: value for name, value in _lowest_variances(path) if value < 0}
    if not lowest:
        return None
    first = min(lowest)
    others = f" (and {len(lowest) - 1} more)" if len(lowest) > 1 else ""
    return Note(
        f"node '{step}': tensor '{first}'{others} is the variance of a BatchNorm and was merged to less than zero "
        f"({lowest[first]:.4g}): the layer gives NaN. Say exclude: ['*running_var', '*running_mean'] on the node that "
        "takes the task vectors, or that interpolates, to keep the base's, and measure them anew on data",
        warning=True,
    )


def _lowest_variances(path: Path) -> Iterator[tuple[str, float]]:
    reader = BlockReader()
    try:
        for checkpoint in _written(path):
            for name, stored in checkpoint.tensors.items():
                if name.endswith(VARIANCE) and stored.spec.is_floating and stored.spec.numel:
                    yield name, reader.block(stored, 0, stored.spec.numel).to(torch.float64).min().item()
    finally:
        reader.close()


def _written(path: Path) -> list[Checkpoint]:
    """The file or folder, or the shards that an index beside where it would be names."""
    if path.exists():
        return [open_checkpoint(path)]
    index = json.loads(path.with_name(f"{path.name}.index.json").read_text(encoding="utf-8"))
    return [open_checkpoint(path.parent / name) for name in sorted(set(index["weight_map"].values()))]
