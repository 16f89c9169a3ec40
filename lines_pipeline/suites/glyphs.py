"""The embedded suite ``zoo://glyphs``: 20 glyph-recognition tasks, judged with frozen heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import Sink
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.io.entries import read_entry, write_entry
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.zoo import accuracy
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import HEADS, PRETRAINED, TASKS, ZOO_VERSION, ZooEntry, experts_folder, locate


@dataclass
class GlyphSuite:
    """``seed`` tells whose experts normalize the accuracies."""

    seed: int = 0
    emit: Sink = lambda event: None
    _remembered: dict[str, float] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks."""
        return tuple(TASKS)

    def digest(self, split: str) -> str:
        """Identity of the data and heads of a split."""
        return content_key(["glyphs", ZOO_VERSION, split, accuracy.SPLIT_IMAGES, HEADS.stat().st_size])

    def accuracies(
        self, state: Mapping[str, torch.Tensor], tasks: Sequence[str], split: str, *, device: str = "cpu"
    ) -> dict[str, float]:
        """Accuracy by task of a state dict with the zoo's tensors; ``EvalError`` where they do not fit."""
        if split not in accuracy.SPLIT_SEEDS:
            raise EvalError(f"zoo://glyphs: split '{split}' is for training, expected val or test")
        expected = {name: stored.spec.shape for name, stored in open_checkpoint(PRETRAINED).tensors.items()}
        for name in sorted(set(expected) | set(state)):
            shape = tuple(state[name].shape) if name in state else None
            if shape != expected.get(name):
                raise EvalError(f"zoo://glyphs: tensor '{name}' has shape {shape}, expected {expected.get(name)}")
        return accuracy.accuracies(state, tasks, split, device=device)

    def expert_accuracies(self, tasks: Sequence[str], split: str) -> dict[str, float]:
        """Accuracy of each task's own expert; those are built first if need be, and measured once."""
        uris = {task: f"zoo://glyphs@seed{self.seed}/{task}" for task in tasks}
        build(list(uris.values()), self.emit)
        return {task: self._measured(locate(uri), task, split) for task, uri in uris.items()}

    def pretrained_accuracy(self, task: str, split: str) -> float:
        """Accuracy of the pretrained model: zero-shot."""
        return self._measured(locate(f"zoo://glyphs@seed{self.seed}/pretrained"), task, split)

    def _measured(self, entry: ZooEntry, task: str, split: str) -> float:
        stat = entry.path.stat()
        key = content_key([entry.path.name, stat.st_size, stat.st_mtime_ns, task, self.digest(split)])
        if not self._remembered:
            self._remembered.update(read_entry(self._file()) or {})
        if key not in self._remembered:
            tasks = list(TASKS) if entry.task is None else [task]
            for name, value in accuracy.accuracies(load_file(entry.path), tasks, split).items():
                parts = [entry.path.name, stat.st_size, stat.st_mtime_ns, name, self.digest(split)]
                self._remembered[content_key(parts)] = value
            write_entry(self._file(), self._remembered)
        return self._remembered[key]

    def _file(self) -> Path:
        return experts_folder(self.seed) / "accuracies.json"
