"""Finds the strength of every domain: ``python -m lines_pipeline.zoo.glyphs.calibrate`` prints a line a task.

A strength is that at which base 0 names ``TARGET`` of a task's validation images; or the strongest tried where it still
names more. No expert takes part.
"""

from __future__ import annotations

import torch

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
    """Print the strength of each task's domain, and what the pretrained model names there."""
    torch.set_num_threads(1)
    model = pretrained(0)
    for task in DOMAIN_TASKS:
        strength = calibrated(task, model)
        print(f"{task}: {strength:.2f} ({100 * named(task, strength, model):.1f} %)", flush=True)


def calibrated(task: str, model: GlyphEncoder) -> float:
    """Return the strength of a task's domain, to two places."""
    low, high = WEAKEST, STRONGEST
    if named(task, high, model) > TARGET:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if named(task, middle, model) > TARGET else (low, middle)
    return round((low + high) / 2, 2)


@torch.inference_mode()
def named(task: str, strength: float, model: GlyphEncoder) -> float:
    """Return the share of validation images that base 0 names at a strength."""
    drawn = task_drawings("glyphs-domains", task, "val")
    generator = torch.Generator().manual_seed(7)
    canvas, labels = drawn.canvas.repeat(_ROUNDS, 1, 1), drawn.labels.repeat(_ROUNDS)
    images = render(canvas, DOMAIN_TASKS[task].domain, strength, generator)
    answers = class_scores(model(images), head("glyphs-domains", task, 0)).argmax(1)
    return float((answers == labels).float().mean())


if __name__ == "__main__":
    main()
