"""Rebuilds the shipped models: ``python -m lines_pipeline.zoo.glyphs.pretrain BASE... [--folder FOLDER]``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from lines_pipeline.zoo.glyphs.bases import BASES, base_file
from lines_pipeline.zoo.glyphs.domains import render_mild
from lines_pipeline.zoo.glyphs.drawings import source_drawings
from lines_pipeline.zoo.glyphs.fitting import Schedule, fit
from lines_pipeline.zoo.glyphs.images import balanced_batches
from lines_pipeline.zoo.glyphs.model import EMBEDDING, GlyphEncoder

PRETRAINING = Schedule(steps=2200, batch_size=128, rate=3e-3, weight_decay=0.05)
_EVERY = 100


def pretrain(base: int, folder: Path) -> Path:
    """Train an encoder, and a head that is thrown away, to name the source characters; the same on one machine."""
    torch.manual_seed(base)
    generator = torch.Generator().manual_seed(1 + 1000 * base)
    canvas, labels = source_drawings()
    model = GlyphEncoder()
    head = torch.nn.Parameter(torch.randn(int(labels.max()) + 1, EMBEDDING) * 0.1)
    fit(model, head, balanced_batches(canvas, labels, render_mild, generator), PRETRAINING, _print_progress)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / base_file(base).name
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def _print_progress(step: int, loss: float) -> None:
    if step % _EVERY == 0:
        print(f"step {step} of {PRETRAINING.steps}: loss {loss:.3f}", flush=True)


def main() -> None:
    """Train the named bases one after the other in one thread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bases", nargs="+", type=int, choices=range(BASES))
    parser.add_argument("--folder", type=Path, default=base_file(0).parent)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for base in chosen.bases:
        print(pretrain(base, chosen.folder))


if __name__ == "__main__":
    main()
