"""A suite of the user's own: a YAML file that names a model factory, and for each task a head and data."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn
from torch.nn import functional

from lines_pipeline.core.errors import CheckpointError, EvalError
from lines_pipeline.core.keys import content_key
from lines_pipeline.io.checkpoints import irregular, open_checkpoint
from lines_pipeline.io.locations import download, locate
from lines_pipeline.io.reading import read_tensors
from lines_pipeline.zoo.catalogue import cache_folder

BATCH_SIZE = 128


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFactory(_Section):
    """``open_clip:ViT-B-32``, or ``package.module:callable`` that gives a module from images to features."""

    factory: str = Field(pattern=r"^[\w.]+:[\w./-]+$")
    arguments: dict[str, Any] = {}


class TaskFile(_Section):
    """Where a task's head and data lie, and the accuracies that normalize."""

    head: str
    """A checkpoint with one 2-D tensor [classes, features]; rows are used as they are."""
    data: dict[str, str]
    """Split to a safetensors file (``images`` [n, c, h, w] as the model takes them, ``labels`` [n]), or
    ``hf://datasets/org/name[/configuration]#split`` (columns ``image`` and ``label``)."""
    expert_accuracy: dict[str, float] = {}
    pretrained_accuracy: dict[str, float] = {}


class SuiteFile(_Section):
    """The whole file."""

    model: ModelFactory
    tasks: dict[str, TaskFile] = Field(min_length=1)


def read_suite_file(path: Path) -> SuiteFile:
    """Read and check a suite file; ``EvalError`` naming it and what is wrong."""
    kind = irregular(path.stat().st_mode) if os.path.exists(path) else None
    if kind:
        raise EvalError(f"{path}: {kind}, not a suite; expected zoo://glyphs or a suite file")
    try:
        return SuiteFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise EvalError(f"{path}: no such suite ({error.strerror}); expected zoo://glyphs or a suite file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvalError(f"{path}: not valid YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EvalError(f"{path}: {where}: {first['msg']} (and {error.error_count() - 1} more)") from error


@dataclass(frozen=True)
class ClassificationSuite:
    """A suite file that has been read."""

    path: Path
    content: SuiteFile

    @classmethod
    def read(cls, path: Path) -> ClassificationSuite:
        """From a file."""
        return cls(path, read_suite_file(path))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks."""
        return tuple(self.content.tasks)

    def missing_files(self, tasks: Sequence[str], split: str) -> tuple[str, ...]:
        """What is said of each local file that is not there; ``EvalError`` where a task has no data for the split."""
        named = [(task, file) for task in tasks for file in (self.content.tasks[task].head, self._source(task, split))]
        return tuple(
            f"{self.path}: task '{task}': {file}: no such file"
            for task, file in named
            if "://" not in file and self._identity(file) is None
        )

    def digest(self, split: str) -> str:
        """Identity of the file's content and of the local data and heads it names."""
        files = [
            self._identity(source) for t in self.content.tasks.values() for source in (t.head, t.data.get(split, ""))
        ]
        return content_key([self.content.model_dump(mode="json"), split, files])

    def expert_accuracy(self, task: str, split: str) -> float | None:
        """As the file records it."""
        return self.content.tasks[task].expert_accuracy.get(split)

    def pretrained_accuracy(self, task: str, split: str) -> float | None:
        """As the file records it."""
        return self.content.tasks[task].pretrained_accuracy.get(split)

    @torch.inference_mode()
    def accuracies(
        self, state: Mapping[str, torch.Tensor], tasks: Sequence[str], split: str, *, device: str = "cpu"
    ) -> dict[str, float]:
        """Accuracy by task: largest product of feature and head row."""
        model, transform = self._model()
        try:
            model.load_state_dict({name: value.float() for name, value in state.items()})
        except RuntimeError as error:
            raise EvalError(f"{self.path}: the model does not fit {self.content.model.factory}: {error}") from error
        model = model.eval().to(device)
        return {task: self._accuracy(model, transform, task, split, device) for task in tasks}

    def _accuracy(self, model: nn.Module, transform: Any, task: str, split: str, device: str) -> float:
        head = self._head(task).to(device)
        right = total = 0
        for images, labels in self._batches(task, split, transform):
            features = functional.normalize(self._features(model, images.to(device), task).float(), dim=-1)
            if features.shape != (len(images), head.shape[1]) or len(labels) != len(images):
                raise EvalError(
                    f"{self.path}: task '{task}': {len(images)} images and {len(labels)} labels gave features of shape "
                    f"{tuple(features.shape)} for a head of shape {tuple(head.shape)}; expected one label an image and "
                    f"features [{len(images)}, {head.shape[1]}]"
                )
            right += int(((features @ head.T).argmax(1).cpu() == labels).sum())
            total += len(labels)
        if not total:
            raise EvalError(f"{self.path}: task '{task}' has no images in split '{split}'")
        return right / total

    def _features(self, model: nn.Module, images: torch.Tensor, task: str) -> torch.Tensor:
        try:
            features: torch.Tensor = model(images)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            found = f"images of shape {tuple(images.shape)}, {images.dtype}"
            raise EvalError(f"{self.path}: task '{task}': the model does not take {found}: {error}") from error
        return features

    def _model(self) -> tuple[nn.Module, Any]:
        module_name, _, name = self.content.model.factory.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            extra = " (pip install 'lines-pipeline[clip]')" if module_name == "open_clip" else ""
            raise EvalError(f"{self.path}: model factory: {module_name} cannot be imported{extra}") from error
        if module_name == "open_clip":
            model, _, transform = module.create_model_and_transforms(name, **self.content.model.arguments)
            return _ImageTower(model), transform
        if not hasattr(module, name):
            raise EvalError(f"{self.path}: model factory: {module_name} has no '{name}'")
        try:
            return getattr(module, name)(**self.content.model.arguments), None
        except TypeError as error:
            raise EvalError(f"{self.path}: model factory {self.content.model.factory}: {error}") from error

    def _head(self, task: str) -> torch.Tensor:
        tensors = _tensors(self._local(self.content.tasks[task].head))
        matrices = [value for value in tensors.values() if value.dim() == 2]
        if len(matrices) != 1:
            raise EvalError(f"{self.path}: head of '{task}': expected one 2-D tensor, found {len(matrices)}")
        return matrices[0].float()

    def _batches(self, task: str, split: str, transform: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        source = self._source(task, split)
        if source.startswith("hf://datasets/"):
            yield from _hub_batches(source, transform)
            return
        tensors = _tensors(self._local(source))
        if set(tensors) != {"images", "labels"}:
            raise EvalError(f"{source}: expected tensors 'images' and 'labels', found {', '.join(tensors)}")
        for start in range(0, len(tensors["labels"]), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            yield tensors["images"][rows], tensors["labels"][rows]

    def _source(self, task: str, split: str) -> str:
        data = self.content.tasks[task].data
        if split not in data:
            known = ", ".join(data) or "none"
            raise EvalError(f"{self.path}: task '{task}' has no data for split '{split}'; it has: {known}")
        return data[split]

    def _local(self, source: str) -> Path:
        downloads = cache_folder() / "downloads"
        location = locate(source, self.path.parent, downloads)
        return location.path or download(source, downloads)

    def _identity(self, source: str) -> Any:
        if not source or "://" in source:
            return source
        try:
            stat = (self.path.parent / source).stat()
        except OSError:
            return None
        return [source, stat.st_size, stat.st_mtime_ns]


class _ImageTower(nn.Module):
    """An open_clip model, from images to features; the tensors of its text tower may be absent."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.encode_image(images)  # type: ignore[operator]
        return features

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        found = self.model.load_state_dict(state, strict=False, assign=assign)
        missing = [name for name in found.missing_keys if name.startswith("visual.")]
        if missing or found.unexpected_keys:
            raise RuntimeError(f"missing tensors {missing[:3]}, unexpected ones {found.unexpected_keys[:3]}")
        return found


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return read_tensors(open_checkpoint(path, spool=cache_folder() / "spool"))
    except CheckpointError as error:
        raise EvalError(str(error)) from error


def _hub_batches(source: str, transform: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise EvalError(f"{source}: needs the extra 'clip': pip install 'lines-pipeline[clip]'") from error
    name, _, split = source.removeprefix("hf://datasets/").partition("#")
    organisation, dataset, *configuration = name.split("/", 2)
    data = load_dataset(f"{organisation}/{dataset}", *configuration, split=split or "test")
    image_column = _column(source, data.column_names, ("image", "img", "jpg"))
    label_column = _column(source, data.column_names, ("label", "cls"))
    for start in range(0, len(data), BATCH_SIZE):
        rows = data[start : start + BATCH_SIZE]
        images = torch.stack([transform(image.convert("RGB")) for image in rows[image_column]])
        yield images, torch.tensor(rows[label_column])


def _column(source: str, columns: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in columns:
            return name
    raise EvalError(f"{source}: no column {' or '.join(names)}; it has: {', '.join(columns)}")
