"""Fine-tunes the experts of both families: all of the encoder, towards frozen heads."""

from __future__ import annotations

from functools import partial

import torch

from lines_pipeline.zoo.entries import Report
from lines_pipeline.zoo.glyphs.families import FAMILIES
from lines_pipeline.zoo.glyphs.fitting import Schedule, fit
from lines_pipeline.zoo.glyphs.heads import head, pretrained
from lines_pipeline.zoo.glyphs.images import training_batches
from lines_pipeline.zoo.glyphs.model import GlyphEncoder

SCHEDULES = {
    "glyphs": Schedule(FAMILIES["glyphs"].steps, batch_size=64, rate=3e-3),
    "glyphs-domains": Schedule(FAMILIES["glyphs-domains"].steps, batch_size=64, rate=4e-3),
}


def fine_tune(family: str, task: str, base: int, seed: int, report: Report = lambda done: None) -> GlyphEncoder:
    """Return an expert for one task; the same for the same choices on one machine and thread count."""
    model = pretrained(base).train()
    batches = training_batches(family, task, stream(family, task, base, seed))
    fit(model, head(family, task, base), batches, SCHEDULES[family], lambda step, loss: report(step))
    return model


def stream(family: str, name: str, base: int, seed: int) -> torch.Generator:
    """Return the random stream that an expert is tuned with: each has its own."""
    index = list(FAMILIES[family].experts).index(name)
    place = list(FAMILIES).index(family)
    return torch.Generator().manual_seed(1_000_000 * place + 100_000 * base + 100 * seed + index + 50_000_000)


tune_meaning = partial(fine_tune, "glyphs")
tune_domain = partial(fine_tune, "glyphs-domains")
