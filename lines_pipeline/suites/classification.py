"""A suite of the user's own: a YAML file that names a model factory, and for each task a head and data."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lines_pipeline.core.errors import CheckpointError, EvalError
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.trust import remedy, why_untrusted
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.io.locations import local_path, locate
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import read_tensors
from lines_pipeline.recipe.syntax.source_map import SourceMap
from lines_pipeline.suites.factories import HARMLESS_ARGUMENTS, find_code, shipped_kind
from lines_pipeline.suites.suite_files import SuiteFile, read_suite_file
from lines_pipeline.suites.user_code import call_factory, told_as_users
from lines_pipeline.zoo.catalogue import cache_folder

BATCH_SIZE = 128


@dataclass(frozen=True)
class ClassificationSuite:
    """A suite file that has been read."""

    path: Path
    content: SuiteFile
    source_map: SourceMap = field(compare=False, repr=False)

    @classmethod
    def read(cls, path: Path) -> ClassificationSuite:
        """From a file."""
        return cls(path, *read_suite_file(path))

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
        """Identity of the file's content, and of the local data, heads and Python that it names."""
        files = [
            self._identity(source) for t in self.content.tasks.values() for source in (t.head, t.data.get(split, ""))
        ]
        code = self.code()
        return content_key([self.content.model_dump(mode="json"), split, files, *([code.digest()] if code else ())])

    def expert_accuracies(self, tasks: Sequence[str], split: str) -> dict[str, float | None]:
        """As the file records them."""
        return {task: self.content.tasks[task].expert_accuracy.get(split) for task in tasks}

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
        with told_as_users(self.path, f"model factory {self.content.model.factory}: the model", self.code()):
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
        found = f"images of shape {tuple(images.shape)}, {images.dtype}"
        with told_as_users(self.path, f"task '{task}': the model does not take {found}: it", self.code()):
            features = model(images)
        if not isinstance(features, torch.Tensor):
            kind = type(features).__name__
            raise EvalError(f"{self.path}: task '{task}': the model gave a {kind}, expected a tensor of features")
        return features

    def code(self) -> Code | None:
        """The Python of the user's that judging runs; None where it runs none. Imports nothing.

        Raises ``EvalError`` where it is not there.
        """
        return self._code

    @cached_property
    def _code(self) -> Code | None:
        model = self.content.model
        if shipped_kind(model.factory):
            return None
        try:
            return find_code(model.factory, self.path.parent)
        except EvalError as error:
            raise EvalError(str(self.source_map.value(("model", "factory")).diagnostic(str(error)))) from error

    def wants_trust(self) -> str:
        """What the suite would run that may do anything (its Python, or what could unpickle files), or nothing."""
        code = self.code()
        if code is not None:
            return code.shown
        odd = sorted(set(self.content.model.arguments) - HARMLESS_ARGUMENTS)
        return f"{self.content.model.factory} with {', '.join(map(shortened, odd[:5]))}" if odd else ""

    def untrusted(self) -> str:
        """Why this suite's code may not run here; an empty text where it may, or where there is none."""
        if not self.wants_trust():
            return ""
        code = self.code()
        files = [self.path, self.path.resolve(), *([code.file.resolve()] if code and code.root and code.file else ())]
        folders = dict.fromkeys(file.parent for file in files)
        reasons = [(reason, folder) for folder in folders if (reason := why_untrusted(folder))]
        return f"{reasons[0][0]}; {remedy(reasons[0][1])}" if reasons else ""

    def _model(self) -> tuple[nn.Module, Any]:
        factory, arguments = self.content.model.factory, self.content.model.arguments
        code, transform = self.code(), None
        if code is None:
            model, transform = self._open_clip(factory.partition(":")[2], arguments)
        else:
            model = call_factory(code, arguments, self.path)
        if not isinstance(model, nn.Module):
            found = type(model).__name__
            raise EvalError(f"{self.path}: model factory {factory} gave a {found}, expected a torch module")
        return model, transform

    def _open_clip(self, name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, Any]:
        try:
            import open_clip
        except ImportError as error:
            raise EvalError(
                f"{self.path}: model factory: open_clip cannot be imported (pip install 'lines-pipeline[clip]')"
            ) from error
        with told_as_users(self.path, f"model factory open_clip:{name}", None):
            model, _, transform = open_clip.create_model_and_transforms(name, **arguments)
        return _ImageTower(model), transform

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
        images, labels = tensors["images"], tensors["labels"]
        if labels.dim() != 1 or images.dim() == 0 or len(images) != len(labels):
            raise EvalError(
                f"{self.path}: task '{task}': {source} has images of shape {tuple(images.shape)} and labels of shape "
                f"{tuple(labels.shape)}, expected one label an image"
            )
        for start in range(0, len(labels), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            yield images[rows], labels[rows]

    def _source(self, task: str, split: str) -> str:
        data = self.content.tasks[task].data
        if split not in data:
            known = ", ".join(data) or "none"
            raise EvalError(f"{self.path}: task '{task}' has no data for split '{split}'; it has: {known}")
        return data[split]

    def _local(self, source: str) -> Path:
        downloads = cache_folder() / "downloads"
        return local_path(locate(source, self.path.parent, downloads), downloads)

    def _identity(self, source: str) -> Any:
        if not source or "://" in source:
            return source
        try:
            found = (self.path.parent / source).stat()
        except (OSError, ValueError):
            return None
        return [source, found.st_size, found.st_mtime_ns] if not stat.S_ISFIFO(found.st_mode) else None


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
