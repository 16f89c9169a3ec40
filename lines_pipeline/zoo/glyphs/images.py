"""Makes the images of tasks: random ones to train on, and those of validation and test, the same for everyone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from lines_pipeline.zoo.glyphs.domains import MILD, render
from lines_pipeline.zoo.glyphs.drawings import task_drawings
from lines_pipeline.zoo.glyphs.fitting import Batch
from lines_pipeline.zoo.glyphs.tasks import DOMAIN_TASKS, DOMAINS, MEANING_TASKS

SPLIT_IMAGES: Mapping[str, int] = {"val": 200, "test": 300, "ood": 300}
"""Images a task, by split; ``ood`` has the shapes of ``test`` in six other domains."""
_SPLIT_SEEDS = {"val": 20_001, "test": 30_001, "ood": 40_001}
_OTHER_DOMAINS = range(1, 19, 3)
"""Distances, in the list of domains, from a task's own to those that it is tested in."""

Rendering = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Makes images [n, 1, 20, 20] of drawings."""


@dataclass(frozen=True)
class Images:
    """Holds the images of one task and split."""

    images: torch.Tensor
    """float32 [n, 1, 20, 20]."""
    labels: torch.Tensor
    """int64 [n]."""
    glyphs: torch.Tensor
    """int32 [n]: the character that each one shows."""
    shapes: torch.Tensor
    """int32 [n]: its drawing, a character in a font; images of one shape are right or wrong together."""


@cache
def split_images(family: str, task: str, split: str) -> Images:
    """Return the images of a task in ``val``, ``test`` or ``ood``: every class as often, its shapes in turn."""
    index = list(_tasks(family)).index(task)
    generator = torch.Generator().manual_seed(_SPLIT_SEEDS[split] + 7 * index)
    drawn = task_drawings(family, task, "val" if split == "val" else "test")
    chosen = _in_turn(drawn.labels, SPLIT_IMAGES[split], generator)
    canvas = drawn.canvas[chosen]
    if split == "ood":
        images = _elsewhere(canvas, own_domain(family, task), index, generator)
    else:
        images = own_rendering(family, task)(canvas, generator)
    return Images(images, drawn.labels[chosen], drawn.glyphs[chosen], drawn.shapes[chosen])


def training_batches(
    family: str, task: str, generator: torch.Generator, rendering: Rendering | None = None
) -> Callable[[int], Batch]:
    """Return what makes random images of a task's training shapes, each class as often."""
    drawn = task_drawings(family, task, "train")
    return balanced_batches(drawn.canvas, drawn.labels, rendering or own_rendering(family, task), generator)


def balanced_batches(
    canvas: torch.Tensor, labels: torch.Tensor, rendering: Rendering, generator: torch.Generator
) -> Callable[[int], Batch]:
    """Return what makes random images of drawings [n, 64, 64] with labels [n], each class as often."""
    weights = 1 / labels.bincount()[labels].float()

    def batch(size: int) -> Batch:
        chosen = torch.multinomial(weights, size, replacement=True, generator=generator)
        return rendering(canvas[chosen], generator), labels[chosen]

    return batch


def own_domain(family: str, task: str) -> str:
    """Return the visual domain that a task is tuned and tested in."""
    return DOMAIN_TASKS[task].domain if family == "glyphs-domains" else MILD


def own_rendering(family: str, task: str) -> Rendering:
    """Return what puts drawings into a task's own domain."""
    domain = own_domain(family, task)
    return lambda canvas, generator: render(canvas, domain, DOMAINS.get(domain, 1.0), generator)


def _elsewhere(canvas: torch.Tensor, own: str, index: int, generator: torch.Generator) -> torch.Tensor:
    """Return images in six domains other than a task's own, in turn."""
    names = list(DOMAINS)
    start = names.index(own) if own in names else index
    others = [names[(start + distance) % len(names)] for distance in _OTHER_DOMAINS]
    images = torch.empty(len(canvas), 1, 20, 20)
    for number, domain in enumerate(others):
        part = slice(number, None, len(others))
        images[part] = render(canvas[part], domain, DOMAINS[domain], generator)
    return images


def _in_turn(labels: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return indices of ``count`` drawings in random order: each class equally often, so far as ``count`` allows."""
    classes = sorted(set(labels.tolist()))
    share = -(-count // len(classes))
    by_class = []
    for label in classes:
        own = (labels == label).nonzero()[:, 0]
        rounds = [own[torch.randperm(len(own), generator=generator)] for _ in range(-(-share // len(own)))]
        by_class.append(torch.cat(rounds)[:share])
    together = torch.cat(by_class)
    return together[torch.randperm(len(together), generator=generator)][:count]


def _tasks(family: str) -> Mapping[str, object]:
    return DOMAIN_TASKS if family == "glyphs-domains" else MEANING_TASKS
