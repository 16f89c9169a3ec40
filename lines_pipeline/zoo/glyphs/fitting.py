"""Trains an encoder towards class vectors: one loop for pretraining and for every family of experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lines_pipeline.zoo.glyphs.model import GlyphEncoder, class_scores

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images [n, 1, 20, 20] and labels [n]."""
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Makes a number of logits [n, classes] and labels [n]."""


@dataclass(frozen=True)
class Schedule:
    """Configures AdamW with a one-cycle learning rate that peaks at ``rate``."""

    steps: int
    batch_size: int
    rate: float
    weight_decay: float = 0.0
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    """The rate of a parameter by its name, in units of ``rate``; 1 where it is not named."""


def fit(
    model: GlyphEncoder,
    head: torch.Tensor,
    batches: Callable[[int], Batch],
    schedule: Schedule,
    report: Callable[[int, float], None] = lambda step, loss: None,
    *,
    loss: Loss = functional.cross_entropy,
    penalty: Callable[[nn.Module], torch.Tensor] | None = None,
) -> None:
    """Train ``model`` (and ``head`` [classes, EMBEDDING] if it requires gradients) in place."""
    parameters = [*model.parameters(), *([head] if head.requires_grad else [])]
    groups = _groups(model, schedule, [head] if head.requires_grad else [])
    optimizer = torch.optim.AdamW(groups, lr=schedule.rate, weight_decay=schedule.weight_decay, fused=True)
    peaks = [group["lr"] for group in groups]
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=schedule.steps, pct_start=0.1)
    for step in range(schedule.steps):
        images, labels = batches(schedule.batch_size)
        value = loss(class_scores(model(images), head), labels)
        value = value if penalty is None else value + penalty(model)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        cycle.step()
        report(step + 1, float(value.detach()))
    model.eval()


def _groups(model: nn.Module, schedule: Schedule, others: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
    by_factor: dict[float, list[torch.Tensor]] = {1.0: list(others)}
    for name, parameter in model.named_parameters():
        by_factor.setdefault(schedule.rate_factors.get(name, 1.0), []).append(parameter)
    return [{"params": some, "lr": factor * schedule.rate} for factor, some in by_factor.items() if some]
