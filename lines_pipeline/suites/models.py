"""Declares the forms in which a suite is given a model: a module, a state dict, or a file that was just made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from lines_pipeline.io.companions import Companions, find_companions
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import read_tensors


@dataclass(frozen=True)
class StoredModel:
    """Names weights in a file, and a file of the checkpoint whose folder it follows for configuration and tokenizer."""

    weights: Path
    followed: Path | None = None

    def state(self) -> dict[str, torch.Tensor]:
        """Return all tensors in memory, tied ones under all their names."""
        checkpoint = open_checkpoint(self.weights)
        state = read_tensors(checkpoint)
        return state | {alias: state[name] for alias, name in checkpoint.aliases.items()}

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield a model folder that goes afterwards: links to the weights and to files beside the followed file."""
        companions = Companions("model.safetensors") if self.followed is None else find_companions(self.followed)
        with TemporaryDirectory(prefix="lines-pipeline-model-") as name:
            folder = Path(name)
            for place, source in [(companions.weights, self.weights), *((c.name, c.source) for c in companions.files)]:
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                os.symlink(source.absolute(), folder / place)
            yield folder


Model = nn.Module | Mapping[str, torch.Tensor] | StoredModel
"""Weights of any floating-point type; they are widened to float32 where a suite makes the module."""


def state_of(model: Mapping[str, torch.Tensor] | StoredModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a model, floating-point ones as float32."""
    state = model.state() if isinstance(model, StoredModel) else model
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
