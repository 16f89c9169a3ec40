"""Lists the checkpoints of ``zoo://texts``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.io.write_once import notes_path
from lines_pipeline.zoo.entries import Address, Report, ZooEntry
from lines_pipeline.zoo.texts.encoder import pretrained
from lines_pipeline.zoo.texts.splits import folder
from lines_pipeline.zoo.texts.tasks import TASKS, available

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TextZoo:
    """Holds an expert for each task, for each seed of fine-tuning."""

    name: str = "texts"

    @property
    def names(self) -> tuple[str, ...]:
        """Return ``pretrained`` and the tasks whose texts need not be asked for."""
        return ("pretrained", *available())

    def locate(self, address: Address) -> ZooEntry:
        """Return where a checkpoint lies; ``CheckpointError`` for another name, or where the extra is missing."""
        seed, name = address.numbers("seed")["seed"], address.name or ""
        if name not in TASKS and name != "pretrained":
            known = ("pretrained", *TASKS)
            hint = did_you_mean(name, known)
            raise CheckpointError(f"{address.uri}: the zoo has no '{name}'{hint}. It has: {', '.join(known)}")
        template = pretrained()
        if name == "pretrained":
            return ZooEntry(address.uri, template, True, template, None)
        path = self.experts(seed) / f"{name}.safetensors"
        built = path.is_file() and notes_path(path).is_file()
        return ZooEntry(address.uri, path, built, template, name, TASKS[name].steps)

    def experts(self, seed: int) -> Path:
        """Return the folder with the experts of one seed."""
        return folder() / f"seed{seed}"

    def train(self, address: Address, report: Report) -> Mapping[str, torch.Tensor]:
        """Fine-tune an expert and return its tensors."""
        from lines_pipeline.zoo.texts.training import fine_tune

        assert address.name is not None
        return fine_tune(address.name, address.numbers("seed")["seed"], report)
