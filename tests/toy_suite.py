"""A model whose accuracy can be told by hand, and suites of a user's own that judge it.

The model compares each image, which is one number, with the sum of its blocks' weights: class 1 where the sum is above
the image, class 0 elsewhere. All numbers in the tests are exact in binary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

ENCODER = '''
import torch
from torch import nn


class Threshold(nn.Module):
    """From images [n, 1, 1, 1] to the features (image, sum of the weights)."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(blocks))

    def forward(self, images):
        image = images.flatten(1)
        total = sum(block.weight for block in self.blocks)
        return torch.cat([image, total.expand_as(image)], dim=1)


def build(blocks=1):
    return Threshold(blocks)
'''

Images = Mapping[str, Sequence[tuple[float, int]]]
"""By split: images, and the class of each."""


def write_model(path: Path, *weights: float) -> None:
    """A checkpoint with one weight a block."""
    save_file({f"blocks.{block}.weight": torch.tensor([[weight]]) for block, weight in enumerate(weights)}, path)


def write_images(path: Path, images: Sequence[tuple[float, int]]) -> None:
    """The data of one split."""
    values = torch.tensor([image for image, _ in images]).view(-1, 1, 1, 1)
    save_file({"images": values, "labels": torch.tensor([label for _, label in images])}, path)


def write_suite(folder: Path, tasks: Mapping[str, Images], *, blocks: int = 1, **recorded: Mapping[str, Any]) -> Path:
    """``suite.yaml`` with heads and data beside it; ``recorded`` are fields of the tasks (``expert_accuracy``)."""
    save_file({"weight": torch.eye(2)}, folder / "head.safetensors")
    entries = {}
    for task, splits in tasks.items():
        for split, images in splits.items():
            write_images(folder / f"{task}_{split}.safetensors", images)
        data = {split: f"{task}_{split}.safetensors" for split in splits}
        fields = {name: dict(by_task[task]) for name, by_task in recorded.items() if task in by_task}
        entries[task] = {"head": "head.safetensors", "data": data, **fields}
    model = {"factory": "toy_encoder:build", "arguments": {"blocks": blocks}}
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"model": model, "tasks": entries}, sort_keys=False))
    return path


def above(*images: float) -> list[tuple[float, int]]:
    """Images that a model gets right once its sum is above them."""
    return [(image, 1) for image in images]


def below(*images: float) -> list[tuple[float, int]]:
    """Images that a model gets right as long as its sum is not above them."""
    return [(image, 0) for image in images]


def write_tuned(folder: Path, tune: Mapping[str, Any], nodes: Mapping[str, Any], **top: Any) -> Path:
    """A recipe whose model has the sum ``model.scale * scaled.by`` of ``a.safetensors``, and further nodes."""
    every = {
        "base": {"op": "load", "path": "base.safetensors"},
        "expert": {"op": "load", "path": "a.safetensors"},
        "update": {"op": "task-vector", "model": "expert", "base": "base"},
        "scaled": {"op": "scale", "delta": "update", "by": 1.0},
        "model": {"op": "apply", "base": "base", "delta": "scaled", "scale": 0.0},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
        **nodes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "nodes": every, "tune": dict(tune), **top}, sort_keys=False))
    return path
