"""Fine-tunes experts: all of the encoder, towards frozen heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lines_pipeline.zoo.entries import Report
from lines_pipeline.zoo.glyphs.families import FAMILIES
from lines_pipeline.zoo.glyphs.fitting import Schedule, fit
from lines_pipeline.zoo.glyphs.heads import head, pretrained
from lines_pipeline.zoo.glyphs.images import Rendering, training_batches
from lines_pipeline.zoo.glyphs.model import GlyphEncoder

SCHEDULES = {
    "glyphs": Schedule(FAMILIES["glyphs"].steps, batch_size=64, rate=3e-3),
    "glyphs-domains": Schedule(FAMILIES["glyphs-domains"].steps, batch_size=64, rate=4e-3),
}


def fine_tune(
    family: str,
    name: str,
    base: int,
    seed: int,
    report: Report = lambda done: None,
    *,
    schedule: Schedule | None = None,
    rendering: Rendering | None = None,
    penalty: Callable[[nn.Module], torch.Tensor] | None = None,
) -> GlyphEncoder:
    """Return an expert of a family; the same for the same choices on one machine and thread count.

    ``schedule`` is by default that of the family whose data it is tuned on, ``rendering`` the task's own domain.
    """
    data, task = FAMILIES[family].data, FAMILIES[family].experts[name]
    model = pretrained(base).train()
    batches = training_batches(data, task, stream(family, name, base, seed), rendering)
    chosen = schedule or SCHEDULES[data]
    fit(model, head(data, task, base), batches, chosen, lambda step, loss: report(step), penalty=penalty)
    return model


def stream(family: str, name: str, base: int, seed: int) -> torch.Generator:
    """Return the random stream that an expert is tuned with: each has its own."""
    index = list(FAMILIES[family].experts).index(name)
    place = list(FAMILIES).index(family)
    return torch.Generator().manual_seed(1_000_000 * place + 100_000 * base + 100 * seed + index + 50_000_000)
