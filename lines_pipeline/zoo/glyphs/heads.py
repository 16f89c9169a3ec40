"""Makes heads: for each class of a task the mean feature of clean drawings by the pretrained model, never trained."""

from __future__ import annotations

from functools import cache

import torch
from safetensors.torch import load_file
from torch.nn import functional

from lines_pipeline.zoo.glyphs.bases import base_file
from lines_pipeline.zoo.glyphs.domains import clean
from lines_pipeline.zoo.glyphs.drawings import task_drawings
from lines_pipeline.zoo.glyphs.model import GlyphEncoder


def pretrained(base: int) -> GlyphEncoder:
    """Return a pretrained model."""
    model = GlyphEncoder()
    model.load_state_dict(load_file(base_file(base)))
    return model.eval()


@cache
def head(family: str, task: str, base: int) -> torch.Tensor:
    """Return a task's class vectors at unit length: float32 [classes, EMBEDDING], of its ``reference`` shapes."""
    drawn = task_drawings(family, task, "reference")
    with torch.no_grad():
        features = _encoder(base)(clean(drawn.canvas))
    classes = range(int(drawn.labels.max()) + 1)
    return functional.normalize(torch.stack([features[drawn.labels == label].mean(0) for label in classes]), dim=-1)


@cache
def _encoder(base: int) -> GlyphEncoder:
    return pretrained(base)
