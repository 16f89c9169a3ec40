"""Renders the images of the zoo's splits, once, and the same for everyone."""

from __future__ import annotations

from functools import cache

import torch

from lines_pipeline.zoo.glyph_tasks import TASKS
from lines_pipeline.zoo.training import Batch, chosen_glyphs, task_batch

SPLIT_SEEDS = {"val": 20_001, "test": 30_001}
"""Random streams of the splits; training draws from seeds below 20,000."""
SPLIT_IMAGES = 250
"""Images a task and split."""


@cache
def split_images(task: str, split: str) -> Batch:
    """Return the images and labels of a task's validation or test split."""
    return task_batch(task, split, SPLIT_IMAGES, _generator(task, split))


def split_glyphs(task: str, split: str) -> torch.Tensor:
    """Return the glyph (a class in a font) that each image of a split shows: int64 [n]."""
    return chosen_glyphs(task, split, SPLIT_IMAGES, _generator(task, split))


def _generator(task: str, split: str) -> torch.Generator:
    return torch.Generator().manual_seed(SPLIT_SEEDS[split] + 7 * list(TASKS).index(task))
