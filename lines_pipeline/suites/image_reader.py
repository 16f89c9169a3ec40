"""Has a model read images, a batch at a time, and a head answer by its features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.suites.base import Head
from lines_pipeline.suites.user_code import told_as_users

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images, features or logits, and the label of each."""


@dataclass(frozen=True)
class ImageReader:
    """Holds a model, the head of a task, and for messages the suite, the task and the user's Python, if any."""

    module: nn.Module
    head: Head
    suite: Path
    task: str
    code: Code | None

    def logits(self, batches: Iterable[Batch], device: str) -> Iterator[Batch]:
        """Yield logits and checked labels of each batch of images and labels."""
        head, empty = self.head, True
        for images, labels in batches:
            empty = False
            features = self._features(images.to(device))
            if features.shape != (len(images), head.weight.shape[1]) or len(labels) != len(images):
                raise EvalError(
                    f"{self.suite}: task '{self.task}': {len(images)} images and {len(labels)} labels gave features of "
                    f"shape {tuple(features.shape)} for a head of shape {tuple(head.weight.shape)}; expected one label "
                    f"an image and features [{len(images)}, {head.weight.shape[1]}]"
                )
            yield head.logits(features), self._checked(labels, len(head.weight))
        if empty:
            raise EvalError(f"{self.suite}: task '{self.task}' has no images to evaluate on")

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        given = f"images of shape {tuple(images.shape)}, {images.dtype}"
        with told_as_users(self.suite, f"task '{self.task}': the model does not take {given}: it", self.code):
            features = self.module(images)
        if not isinstance(features, torch.Tensor):
            kind = type(features).__name__
            raise EvalError(f"{self.suite}: task '{self.task}': the model gave a {kind}, expected a tensor of features")
        return features.float()

    def _checked(self, labels: torch.Tensor, classes: int) -> torch.Tensor:
        """Return the labels as int64, each one of the head's classes."""
        if labels.is_floating_point() or labels.is_complex():
            raise EvalError(f"{self.suite}: task '{self.task}': labels are {labels.dtype}, expected integers")
        labels = labels.long()
        if not ((labels >= 0) & (labels < classes)).all():
            raise EvalError(
                f"{self.suite}: task '{self.task}': labels from {int(labels.min())} to {int(labels.max())}, the head "
                f"has {classes} classes; expected labels from 0 to {classes - 1}"
            )
        return labels
