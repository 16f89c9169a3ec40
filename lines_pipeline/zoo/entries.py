"""Says what a zoo gives: addresses, files of checkpoints, and how those that are missing are trained."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lines_pipeline.core.errors import CheckpointError

if TYPE_CHECKING:
    import torch

Report = Callable[[int], None]
"""Hears how many optimiser steps of an expert are done."""


@dataclass(frozen=True)
class Address:
    """Holds the parts of ``zoo://<zoo>[@<choice>[-<choice>...]][/<name>]``."""

    uri: str
    zoo: str
    choices: tuple[str, ...]
    """What stands after ``@``, such as ``base1`` and ``seed2``."""
    name: str | None

    def numbers(self, *kinds: str) -> dict[str, int]:
        """Return the number of each kind (0 where it is not chosen); ``CheckpointError`` for any other choice."""
        numbers = dict.fromkeys(kinds, 0)
        seen: set[str] = set()
        for choice in self.choices:
            match = re.fullmatch(r"([a-z]+)(\d+)", choice)
            if match is None or match[1] not in numbers or match[1] in seen:
                spelled = " or ".join(f"zoo://{self.zoo}@{kind}1" for kind in kinds)
                raise CheckpointError(f"{self.uri}: expected a choice such as {spelled}, got '@{choice}'")
            numbers[match[1]] = int(match[2])
            seen.add(match[1])
        return numbers


@dataclass(frozen=True)
class ZooEntry:
    """Describes a checkpoint of a zoo: its URL, its file, and a file that exists and has the same names and shapes.

    ``built`` is whether its file is there, and the note of its digest; see ``catalogue.is_sound`` for its content.
    """

    uri: str
    path: Path
    built: bool
    template: Path
    task: str | None
    """What an expert was tuned for; None for what ships and is never built."""
    steps: int = 0
    """Optimiser steps that building it takes."""


class Zoo(Protocol):
    """Declares what a family of checkpoints gives; listing and locating build nothing and need no torch."""

    @property
    def name(self) -> str:
        """Return the word after ``zoo://``."""

    @property
    def names(self) -> Sequence[str]:
        """Return the names of all checkpoints, the pretrained one first."""

    def locate(self, address: Address) -> ZooEntry:
        """Return where a checkpoint lies; ``CheckpointError`` where there is none of this name."""

    def train(self, address: Address, report: Report) -> Mapping[str, torch.Tensor]:
        """Fine-tune an expert and return its tensors; the same for one address on one machine."""


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/lines-pipeline`` (``~/.cache/lines-pipeline``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lines-pipeline"
