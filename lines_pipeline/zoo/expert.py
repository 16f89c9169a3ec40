"""Fine-tunes experts: ``python -m lines_pipeline.zoo.expert URI...`` prints a line of progress every few steps."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lines_pipeline.io.write_once import written_once
from lines_pipeline.zoo.catalogue import HEADS, PRETRAINED, TASKS, ZooEntry, locate
from lines_pipeline.zoo.model import GlyphEncoder
from lines_pipeline.zoo.training import FINE_TUNING, fit, task_batch


def fine_tune(task: str, seed: int, report: Callable[[int, float], None] = lambda step, loss: None) -> GlyphEncoder:
    """Return an expert for one task, the heads frozen; the same for the same seed on one machine and thread count."""
    model = GlyphEncoder()
    model.load_state_dict(load_file(PRETRAINED))
    generator = torch.Generator().manual_seed(1_000 * seed + 100 + list(TASKS).index(task))
    fit(model, load_file(HEADS)[task], lambda size: task_batch(task, "train", size, generator), FINE_TUNING, report)
    return model


def write_expert(entry: ZooEntry, report: Callable[[int, float], None]) -> None:
    """Fine-tune and store an expert, whole or not at all, unless a sound one is there."""
    task = entry.task
    assert task is not None

    def write(path: Path) -> None:
        model = fine_tune(task, entry.seed, report)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o644)

    written_once(entry.path, write, what=f"the expert {entry.uri}")


def main(uris: list[str]) -> None:
    """Build the named experts one after the other in one thread."""
    torch.set_num_threads(1)
    for uri in uris:

        def report(step: int, loss: float, uri: str = uri) -> None:
            if (step + 1) % 20 == 0:
                print(f"{uri} {step + 1}", flush=True)

        write_expert(locate(uri), report)


if __name__ == "__main__":
    main(sys.argv[1:])
