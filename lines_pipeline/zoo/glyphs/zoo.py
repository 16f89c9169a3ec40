"""Lists the checkpoints of the families of glyphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.io.write_once import notes_path
from lines_pipeline.zoo.entries import Address, Report, ZooEntry
from lines_pipeline.zoo.glyphs.bases import BASES, base_file
from lines_pipeline.zoo.glyphs.families import FAMILIES, Family

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Choice:
    """Holds which of the pretrained models an address names, and which seed of fine-tuning."""

    base: int = 0
    seed: int = 0

    @classmethod
    def of(cls, address: Address) -> Choice:
        """Return what stands after ``@``; ``CheckpointError`` for a model that does not ship."""
        numbers = address.numbers("base", "seed")
        if numbers["base"] >= BASES:
            known = ", ".join(f"base{base}" for base in range(BASES))
            raise CheckpointError(f"{address.uri}: there is no 'base{numbers['base']}', expected one of {known}")
        return cls(numbers["base"], numbers["seed"])

    @property
    def text(self) -> str:
        """Return what stands between the zoo and the name."""
        return f"@base{self.base}-seed{self.seed}"


@dataclass(frozen=True)
class GlyphZoo:
    """Holds the experts of a family, for each pretrained model and each seed of fine-tuning."""

    family: Family

    @property
    def name(self) -> str:
        """Return the word after ``zoo://``."""
        return self.family.name

    @property
    def names(self) -> tuple[str, ...]:
        """Return ``pretrained`` and the names of all experts."""
        return ("pretrained", *self.family.experts)

    def locate(self, address: Address) -> ZooEntry:
        """Return where a checkpoint lies; ``CheckpointError`` for another name."""
        choice, name = Choice.of(address), address.name or ""
        if name not in self.names:
            hint = did_you_mean(name, self.family.experts)
            raise CheckpointError(f"{address.uri}: the zoo has no '{name}'{hint}. It has: {', '.join(self.names)}")
        template = base_file(choice.base)
        if name == "pretrained":
            return ZooEntry(address.uri, template, True, template, None)
        path = self.family.folder(choice.base, choice.seed) / f"{name}.safetensors"
        built = path.is_file() and notes_path(path).is_file()
        return ZooEntry(address.uri, path, built, template, self.family.experts[name], self.family.steps)

    def train(self, address: Address, report: Report) -> Mapping[str, torch.Tensor]:
        """Fine-tune an expert and return its tensors."""
        from lines_pipeline.zoo.glyphs.tuning import TUNED

        assert address.name is not None
        choice = Choice.of(address)
        model = TUNED[self.family.name](address.name, choice.base, choice.seed, report)
        return {name: value.contiguous() for name, value in model.state_dict().items()}


GLYPH_ZOOS = tuple(GlyphZoo(family) for family in FAMILIES.values())
"""A zoo for each family."""
