"""Lists the checkpoints of ``zoo://glyphs``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.io.write_once import notes_path
from lines_pipeline.zoo.entries import Address, Report, ZooEntry
from lines_pipeline.zoo.glyph_tasks import EXPERT_STEPS, PRETRAINED, TASKS, experts_folder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GlyphZoo:
    """Holds an expert for each task, for each seed of fine-tuning."""

    name: str = "glyphs"

    @property
    def names(self) -> tuple[str, ...]:
        """Return ``pretrained`` and the names of all tasks."""
        return ("pretrained", *TASKS)

    def locate(self, address: Address) -> ZooEntry:
        """Return where a checkpoint lies; ``CheckpointError`` for another name."""
        seed, name = address.numbers("seed")["seed"], address.name or ""
        if name not in self.names:
            hint = did_you_mean(name, TASKS)
            raise CheckpointError(f"{address.uri}: the zoo has no '{name}'{hint}. It has: {', '.join(self.names)}")
        if name == "pretrained":
            return ZooEntry(address.uri, PRETRAINED, True, PRETRAINED, None)
        path = experts_folder(seed) / f"{name}.safetensors"
        built = path.is_file() and notes_path(path).is_file()
        return ZooEntry(address.uri, path, built, PRETRAINED, name, EXPERT_STEPS)

    def train(self, address: Address, report: Report) -> Mapping[str, torch.Tensor]:
        """Fine-tune an expert and return its tensors."""
        from lines_pipeline.zoo.training import fine_tune

        assert address.name is not None
        model = fine_tune(address.name, address.numbers("seed")["seed"], lambda step, loss: report(step + 1))
        return {name: value.contiguous() for name, value in model.state_dict().items()}
