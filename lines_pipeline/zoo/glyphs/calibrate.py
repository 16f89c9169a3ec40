"""Finds the strength of every domain: ``python -m lines_pipeline.zoo.glyphs.calibrate`` prints a line a task.

A strength is that at which the pretrained models name ``TARGET`` of a task's validation images, on average; or the
strongest tried where they still name more. No expert takes part.
"""

from __future__ import annotations

from statistics import mean

import torch

from lines_pipeline.zoo.glyphs.bases import BASES
from lines_pipeline.zoo.glyphs.domains import render
from lines_pipeline.zoo.glyphs.drawings import task_drawings
from lines_pipeline.zoo.glyphs.heads import head, pretrained
from lines_pipeline.zoo.glyphs.model import GlyphEncoder, class_scores
from lines_pipeline.zoo.glyphs.tasks import DOMAIN_TASKS

TARGET = 0.55
WEAKEST, STRONGEST, HALVINGS = 0.02, 2.5, 7
_ROUNDS = 10
"""Images of every validation shape."""


def main() -> None:
    """Print the strength of each task's domain, and what the pretrained models name there."""
    torch.set_num_threads(1)
    models = [pretrained(base) for base in range(BASES)]
    for task in DOMAIN_TASKS:
        strength = calibrated(task, models)
        print(f"{task}: {strength:.2f} ({100 * named(task, strength, models):.1f} %)", flush=True)


def calibrated(task: str, models: list[GlyphEncoder]) -> float:
    """Return the strength of a task's domain, to two places."""
    low, high = WEAKEST, STRONGEST
    if named(task, high, models) > TARGET:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if named(task, middle, models) > TARGET else (low, middle)
    return round((low + high) / 2, 2)


@torch.inference_mode()
def named(task: str, strength: float, models: list[GlyphEncoder]) -> float:
    """Return the share of validation images that pretrained models name, on average, at a strength."""
    drawn = task_drawings("glyphs-domains", task, "val")
    generator = torch.Generator().manual_seed(7)
    canvas, labels = drawn.canvas.repeat(_ROUNDS, 1, 1), drawn.labels.repeat(_ROUNDS)
    images = render(canvas, DOMAIN_TASKS[task].domain, strength, generator)
    vectors = [head("glyphs-domains", task, base) for base in range(len(models))]
    answers = [class_scores(model(images), rows).argmax(1) for model, rows in zip(models, vectors, strict=True)]
    return mean(float((answer == labels).float().mean()) for answer in answers)


if __name__ == "__main__":
    main()
