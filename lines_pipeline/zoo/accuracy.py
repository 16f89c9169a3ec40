"""Accuracy of a state dict on the zoo's tasks; images of a split are rendered once and the same for everyone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from safetensors.torch import load_file

from lines_pipeline.zoo.catalogue import HEADS, TASKS
from lines_pipeline.zoo.model import GlyphEncoder, class_scores
from lines_pipeline.zoo.training import Batch, task_batch

SPLIT_SEEDS = {"val": 20_001, "test": 30_001}
"""Random streams of the splits; training draws from seeds below 20,000."""
BATCH_SIZE = 125
SPLIT_IMAGES = 250
"""Images a task and split."""


@cache
def split_images(task: str, split: str) -> Batch:
    """The images and labels of a task's validation or test split."""
    seed = SPLIT_SEEDS[split] + 7 * list(TASKS).index(task)
    return task_batch(task, split, SPLIT_IMAGES, torch.Generator().manual_seed(seed))


@torch.inference_mode()
def accuracies(
    state: Mapping[str, torch.Tensor], tasks: Sequence[str], split: str, *, device: str = "cpu"
) -> dict[str, float]:
    """Share of right answers by task; ``state`` must hold exactly the encoder's tensors."""
    model = GlyphEncoder().to(device)
    model.load_state_dict({name: value.to(torch.float32) for name, value in state.items()})
    model.eval()
    images = torch.cat([split_images(task, split)[0] for task in tasks]).to(device)
    features = torch.cat([model(part) for part in torch.split(images, BATCH_SIZE)]).cpu()
    heads = load_file(HEADS)
    return {
        task: float((class_scores(found, heads[task]).argmax(1) == split_images(task, split)[1]).float().mean())
        for task, found in zip(tasks, torch.split(features, SPLIT_IMAGES), strict=True)
    }
