"""Evaluates the embedded suites of glyphs, ``zoo://glyphs`` and its like: recognition tasks with frozen heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import Sink
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.io.entries import read_entry, write_entry
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.ops.sample_parts import SamplePart
from lines_pipeline.suites.base import Answers, ForeignCode, Head, Metric, Role, Scores
from lines_pipeline.suites.logit_scores import CLASSIFICATION_METRICS, scores_of_answers
from lines_pipeline.suites.models import Model, state_of
from lines_pipeline.suites.samples import Array
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import locate
from lines_pipeline.zoo.entries import Address, ZooEntry
from lines_pipeline.zoo.glyphs.bases import base_file
from lines_pipeline.zoo.glyphs.families import FAMILIES, ZOO_VERSION, Family
from lines_pipeline.zoo.glyphs.heads import head
from lines_pipeline.zoo.glyphs.images import SPLIT_IMAGES, split_images
from lines_pipeline.zoo.glyphs.model import LOGIT_SCALE, GlyphEncoder, class_scores
from lines_pipeline.zoo.glyphs.zoo import Choice

BATCH_SIZE = 125
_BASELINES_VERSION = 2


@dataclass
class GlyphSuite:
    """Evaluates models on the tasks of a family; ``choice`` names the experts whose figures normalize.

    Heads are those of the pretrained model of ``choice``: models tuned from another one don't fit them.
    """

    family: Family = FAMILIES["glyphs"]
    choice: Choice = field(default_factory=Choice)
    emit: Sink = lambda event: None
    only: SamplePart | None = None
    """The samples that models are judged by; None for all."""
    _remembered: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, address: Address, emit: Sink) -> GlyphSuite:
        """Return the suite that an address names."""
        return cls(FAMILIES[address.zoo], Choice.of(address), emit)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of all tasks."""
        return self.family.tasks

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics of every classifier."""
        return CLASSIFICATION_METRICS

    def check(self, tasks: Sequence[str], split: str) -> tuple[str, ...]:
        """Return no message; ``EvalError`` for the training split, whose images are drawn at random."""
        if split not in SPLIT_IMAGES:
            expected = ", ".join(SPLIT_IMAGES)
            raise EvalError(f"{self._uri}: split '{split}' is for training, expected one of {expected}")
        return ()

    def digest(self, split: str) -> str:
        """Return the digest of the data and heads of a split."""
        return content_key(["glyphs", ZOO_VERSION, self.family.data, self.choice.base, split, SPLIT_IMAGES[split]])

    def evaluate(self, model: Model, tasks: Sequence[str], split: str, *, device: str = "cpu") -> Scores:
        """Evaluate a model of the zoo's tensors; ``EvalError`` for others. A shape's images are a cluster."""
        return self.judged(self.answers(model, tasks, split, device=device))

    @torch.no_grad()
    def answers(self, model: Model, tasks: Sequence[str], split: str, *, device: str = "cpu") -> dict[str, Answers]:
        """Return a model's answers by task; ``EvalError`` where it has not got the zoo's tensors."""
        self.check(tasks, split)
        module = model if isinstance(model, nn.Module) else self._loaded(state_of(model))
        module = module.eval().to(device)
        answers = {}
        for task in tasks:
            images, labels, clusters = self._samples(task, split)
            features = torch.cat([module(part.to(device)) for part in torch.split(images, BATCH_SIZE)]).cpu()
            logits = class_scores(features, head(self.family.data, task, self.choice.base))
            answers[task] = Answers(logits, labels, clusters)
        return answers

    def _samples(self, task: str, split: str) -> tuple[torch.Tensor, torch.Tensor, Array]:
        """Return images, labels and clusters of what models are judged by."""
        drawn = split_images(self.family.data, task, split)
        images, labels, clusters = drawn.images, drawn.labels, drawn.shapes.numpy()
        if self.only is None:
            return images, labels, clusters
        numbers = self.only.numbers(task, len(labels), clusters)
        return images[numbers], labels[numbers], clusters[numbers]

    def part(self, part: SamplePart) -> GlyphSuite:
        """Return the suite with some samples of every task alone."""
        return replace(self, only=part)

    def judged(self, answers: Mapping[str, Answers]) -> Scores:
        """Return the scores of answers by task."""
        return scores_of_answers(answers)

    def model(self) -> nn.Module:
        """Return an encoder with random weights."""
        return GlyphEncoder()

    def batches(self, task: str, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images and labels of a split that is not for training."""
        self.check([task], split)
        drawn = split_images(self.family.data, task, split)
        return zip(torch.split(drawn.images, BATCH_SIZE), torch.split(drawn.labels, BATCH_SIZE), strict=True)

    def heads(self) -> dict[str, Head]:
        """Return the frozen class vectors, at unit length."""
        vectors = {task: head(self.family.data, task, self.choice.base) for task in self.tasks}
        return {task: Head(weight, scale=LOGIT_SCALE) for task, weight in vectors.items()}

    def code(self) -> tuple[Code, ...]:
        """None."""
        return ()

    def foreign_code(self) -> ForeignCode | None:
        """None."""
        return None

    def baselines(self, role: Role, tasks: Sequence[str], split: str) -> dict[str, dict[str, float]]:
        """Return figures of each task's own expert, built if need be, or of the pretrained model."""
        if role == "expert":
            uris = {task: self.family.own_expert(task, self.choice.text) for task in tasks}
            build(list(uris.values()), self.emit)
        else:
            uris = dict.fromkeys(tasks, f"{self._uri}/pretrained")
        return {task: self._measured(locate(uri), task, split) for task, uri in uris.items()}

    @property
    def _uri(self) -> str:
        return f"zoo://{self.family.name}{self.choice.text}"

    def _loaded(self, state: Mapping[str, torch.Tensor]) -> nn.Module:
        expected = {
            name: stored.spec.shape for name, stored in open_checkpoint(base_file(self.choice.base)).tensors.items()
        }
        for name in sorted(set(expected) | set(state)):
            shape = tuple(state[name].shape) if name in state else None
            if shape != expected.get(name):
                raise EvalError(f"{self._uri}: tensor '{name}' has shape {shape}, expected {expected.get(name)}")
        module = GlyphEncoder()
        module.load_state_dict(state)
        return module

    def _measured(self, entry: ZooEntry, task: str, split: str) -> dict[str, float]:
        status = entry.path.stat()

        def key(task: str) -> str:
            parts = [_BASELINES_VERSION, entry.path.name, status.st_size, status.st_mtime_ns, task, self.digest(split)]
            return content_key(parts)

        if not self._remembered:
            self._remembered.update(read_entry(self._file()) or {})
        if key(task) not in self._remembered:
            tasks = list(self.tasks) if entry.task is None else [task]
            for name, values in self.evaluate(load_file(entry.path), tasks, split).values.items():
                self._remembered[key(name)] = dict(values)
            write_entry(self._file(), self._remembered)
        return self._remembered[key(task)]

    def _file(self) -> Path:
        return self.family.folder(self.choice.base, self.choice.seed) / "baselines.json"
