"""Fine-tunes experts in other ways: with layer-wise rates, pulled to the start, as a soup, towards rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from lines_pipeline.zoo.entries import Report
from lines_pipeline.zoo.glyphs.domains import render_mild
from lines_pipeline.zoo.glyphs.experts import SCHEDULES, fine_tune, stream
from lines_pipeline.zoo.glyphs.families import PARENT, REWARDS
from lines_pipeline.zoo.glyphs.fitting import Batch, fit
from lines_pipeline.zoo.glyphs.heads import head, pretrained
from lines_pipeline.zoo.glyphs.images import Rendering, training_batches
from lines_pipeline.zoo.glyphs.model import BLOCKS, GlyphEncoder, block_of

RATE_DECAY = 0.7
"""The rate of a block, in units of that of the next one."""
PULL = 0.05
"""The penalty is this half times the squared distance from the start."""
SOUP_RATES = (1.5e-3, 2e-3, 3e-3, 4e-3, 5e-3)
SOUP_TURNS = (6.0, 12.0, 20.0)
"""Rates and largest turns (degrees) that the runs of a soup cycle through."""
PARENT_STEPS = 40


def tune_decayed(task: str, base: int, seed: int, report: Report = lambda done: None) -> GlyphEncoder:
    """Return an expert whose rate falls from the last block to the first."""
    schedule = replace(SCHEDULES["glyphs"], rate_factors=decayed_rates(GlyphEncoder()))
    return fine_tune("glyphs-decayed", task, base, seed, report, schedule=schedule)


def tune_pulled(task: str, base: int, seed: int, report: Report = lambda done: None) -> GlyphEncoder:
    """Return an expert that a penalty holds near the pretrained model."""
    return fine_tune("glyphs-pulled", task, base, seed, report, penalty=pull_to(pretrained(base)))


def tune_soup(name: str, base: int, seed: int, report: Report = lambda done: None) -> GlyphEncoder:
    """Return one of ten runs of a task: each has its own random stream, rate and augmentation."""
    number = int(name.removeprefix("run-"))
    schedule = replace(SCHEDULES["glyphs"], rate=SOUP_RATES[number % len(SOUP_RATES)])
    rendering = turned(SOUP_TURNS[number % len(SOUP_TURNS)])
    return fine_tune("glyphs-soup", name, base, seed, report, schedule=schedule, rendering=rendering)


def tune_reward(name: str, base: int, seed: int, report: Report = lambda done: None) -> GlyphEncoder:
    """Return the parent, or an expert tuned from it towards a reward: the accuracy of one of its three tasks."""
    steps = SCHEDULES["glyphs"].steps
    model = _parent(base, seed, report)
    if name == PARENT:
        return model
    schedule = replace(SCHEDULES["glyphs"], steps=steps - PARENT_STEPS)
    batches = training_batches("glyphs", name, stream("glyphs-rewards", name, base, seed))
    model.train()

    def reported(step: int, loss: float) -> None:
        report(PARENT_STEPS + step)

    fit(model, head("glyphs", name, base), batches, schedule, reported, loss=lost_reward)
    return model


def decayed_rates(model: nn.Module) -> dict[str, float]:
    """Return the rate of every parameter, in units of the last block's; what precedes the blocks is one below."""
    return {name: RATE_DECAY ** (BLOCKS - 1 - block_of(name)) for name, _ in model.named_parameters()}


def pull_to(start: nn.Module) -> Callable[[nn.Module], torch.Tensor]:
    """Return the penalty on a model's distance from another."""
    fixed = [parameter.detach().clone() for parameter in start.parameters()]

    def penalty(model: nn.Module) -> torch.Tensor:
        moved = zip(model.parameters(), fixed, strict=True)
        return PULL / 2 * torch.stack([(now - before).square().sum() for now, before in moved]).sum()

    return penalty


def turned(degrees: float) -> Rendering:
    """Return the mild domain with drawings turned up to another angle."""

    def rendering(canvas: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return render_mild(canvas, generator, turn=degrees)

    return rendering


def lost_reward(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return one minus the expected reward, where an answer drawn by its probability earns 1 if it is right."""
    return 1 - functional.softmax(logits, 1).gather(1, labels[:, None]).mean()


def _parent(base: int, seed: int, report: Report) -> GlyphEncoder:
    """Return the model that is tuned for all three tasks at once, by cross-entropy, before any reward."""
    model = pretrained(base).train()
    generator = stream("glyphs-rewards", PARENT, base, seed)
    heads = [head("glyphs", task, base) for task in REWARDS]
    batches = [training_batches("glyphs", task, generator) for task in REWARDS]
    schedule = replace(
        SCHEDULES["glyphs"], steps=PARENT_STEPS, batch_size=SCHEDULES["glyphs"].batch_size // len(REWARDS)
    )
    starts = [0, *torch.tensor([len(vectors) for vectors in heads]).cumsum(0).tolist()]

    def mixed(size: int) -> Batch:
        drawn = [batch(size) for batch in batches]
        labels = [label + start for (_, label), start in zip(drawn, starts, strict=False)]
        return torch.cat([images for images, _ in drawn]), torch.cat(labels)

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        parts = zip(logits.chunk(len(heads)), labels.chunk(len(heads)), heads, starts, strict=False)
        values = [
            functional.cross_entropy(part[:, start : start + len(vectors)], label - start)
            for part, label, vectors, start in parts
        ]
        return torch.stack(values).mean()

    fit(model, torch.cat(heads), mixed, schedule, lambda step, value: report(step), loss=loss)
    return model
