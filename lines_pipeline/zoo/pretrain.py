"""Rebuilds the shipped weights from scratch: ``python -m lines_pipeline.zoo.pretrain [FOLDER]`` (about 10 minutes)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lines_pipeline.zoo.glyph_tasks import TASKS, WEIGHTS
from lines_pipeline.zoo.model import EMBEDDING, GlyphEncoder
from lines_pipeline.zoo.rendering import CLASSES
from lines_pipeline.zoo.training import PRETRAINING, fit, pretraining_batch


def pretrain(folder: Path) -> None:
    """Train the encoder and the heads of all tasks, and write ``pretrained.safetensors`` and ``heads.safetensors``."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = GlyphEncoder()
    head = torch.nn.Parameter(torch.randn(len(TASKS) * CLASSES, EMBEDDING) * 0.1)
    fit(model, head, lambda size: pretraining_batch(size, generator), PRETRAINING, _print_progress)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "pretrained.safetensors"
    )
    heads = head.detach().view(len(TASKS), CLASSES, EMBEDDING)
    save_file({task: heads[i].clone() for i, task in enumerate(TASKS)}, folder / "heads.safetensors")


def _print_progress(step: int, loss: float) -> None:
    if step % 250 == 0:
        print(f"step {step} of {PRETRAINING.steps}: loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    pretrain(Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS)
