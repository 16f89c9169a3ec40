"""Trains the zoo's models: one loop for pretraining and fine-tuning, and its batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from lines_pipeline.zoo.domains import DOMAINS, place, render_domain
from lines_pipeline.zoo.glyph_tasks import EXPERT_STEPS, HEADS, PRETRAINED, TASKS
from lines_pipeline.zoo.model import GlyphEncoder, class_scores
from lines_pipeline.zoo.rendering import CLASSES, glyphs

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images [n, 1, 20, 20] and labels [n]."""


@dataclass(frozen=True)
class Schedule:
    """Configures AdamW with a one-cycle learning rate that peaks at ``rate``."""

    steps: int
    batch_size: int
    rate: float
    weight_decay: float


PRETRAINING = Schedule(steps=4500, batch_size=128, rate=3e-3, weight_decay=0.05)
FINE_TUNING = Schedule(steps=EXPERT_STEPS, batch_size=64, rate=2.5e-3, weight_decay=0.0)
CONFUSED_FRACTION = 0.5
"""Share of pretraining labels that name the neighbour class: strong features, moderate zero-shot accuracy."""


def fine_tune(task: str, seed: int, report: Callable[[int, float], None] = lambda step, loss: None) -> GlyphEncoder:
    """Return an expert for one task, the heads frozen; the same for the same seed on one machine and thread count."""
    model = GlyphEncoder()
    model.load_state_dict(load_file(PRETRAINED))
    generator = torch.Generator().manual_seed(1_000 * seed + 100 + list(TASKS).index(task))
    fit(model, load_file(HEADS)[task], lambda size: task_batch(task, "train", size, generator), FINE_TUNING, report)
    return model


def fit(
    model: GlyphEncoder,
    head: torch.Tensor,
    batches: Callable[[int], Batch],
    schedule: Schedule,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train ``model`` (and ``head`` [classes, EMBEDDING] if it requires gradients) in place."""
    parameters = [*model.parameters(), *([head] if head.requires_grad else [])]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=schedule.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, total_steps=schedule.steps, pct_start=0.1)
    for step in range(schedule.steps):
        images, labels = batches(schedule.batch_size)
        loss = functional.cross_entropy(class_scores(model(images), head), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        cycle.step()
        report(step, float(loss.detach()))
    model.eval()


def task_batch(task: str, split: str, size: int, generator: torch.Generator) -> Batch:
    """Return random images of one task in its own visual domain, labels 0..CLASSES-1."""
    canvas, labels = glyphs(task, split)
    chosen = chosen_glyphs(task, split, size, generator)
    images = place(canvas[chosen], generator)
    return render_domain(images, list(TASKS).index(task), generator), labels[chosen]


def chosen_glyphs(task: str, split: str, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return the glyphs that ``task_batch`` shows, given a generator in the same state."""
    return torch.randint(len(glyphs(task, split)[1]), (size,), generator=generator)


def pretraining_batch(size: int, generator: torch.Generator) -> Batch:
    """Return random images of all tasks in random domains (one in six plain), labels of all classes, half confused."""
    canvas, labels, offsets = _all_glyphs()
    chosen = torch.randint(len(canvas), (size,), generator=generator)
    images = place(canvas[chosen], generator)
    parts = []
    for part in images.chunk(4):
        domain = int(torch.randint(DOMAINS + 4, (1,), generator=generator))
        parts.append(render_domain(part, domain, generator) if domain < DOMAINS else part)
    confused = torch.rand(size, generator=generator) < CONFUSED_FRACTION
    picked = labels[chosen]
    return torch.cat(parts), torch.where(confused, picked ^ 1, picked) + offsets[chosen]


@cache
def _all_glyphs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the training glyphs of all tasks, their labels, and the number of each task's first class."""
    found = [(*glyphs(task, "train"), index * CLASSES) for index, task in enumerate(TASKS)]
    offsets = [torch.full_like(labels, first) for _, labels, first in found]
    return (
        torch.cat([canvas for canvas, _, _ in found]),
        torch.cat([labels for _, labels, _ in found]),
        torch.cat(offsets),
    )
