"""Reads inputs and labels of a task: tensors of a file, or a dataset of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lines_pipeline.core.errors import EvalError
from lines_pipeline.suites.samples import Array

DATASETS = "hf://datasets/"
"""What names of datasets begin with."""
_NEEDED, _ALLOWED = {"images", "labels"}, {"images", "labels", "clusters"}


@dataclass(frozen=True)
class LabelledTensors:
    """Holds ``images`` [n, ...] as the model takes them, ``labels`` [n], and which images belong together."""

    images: torch.Tensor
    labels: torch.Tensor
    clusters: Array | None

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], source: str, where: str) -> LabelledTensors:
        """Return the data in a file; ``EvalError`` where it has other tensors, or not one label an image."""
        if not _NEEDED <= set(tensors) <= _ALLOWED:
            raise EvalError(f"{source}: expected tensors 'images' and 'labels', found {', '.join(tensors)}")
        images, labels, clusters = tensors["images"], tensors["labels"], tensors.get("clusters")
        if labels.dim() != 1 or images.dim() == 0 or len(images) != len(labels):
            raise EvalError(
                f"{where}: {source} has images of shape {tuple(images.shape)} and labels of shape "
                f"{tuple(labels.shape)}, expected one label an image"
            )
        if clusters is not None and (clusters.shape != labels.shape or clusters.is_floating_point()):
            described = f"{clusters.dtype} of shape {tuple(clusters.shape)}"
            raise EvalError(f"{where}: {source} has clusters that are {described}, expected one whole number an image")
        return cls(images, labels, None if clusters is None else clusters.int().numpy())

    @property
    def nbytes(self) -> int:
        """Return the bytes that the data take."""
        return self.images.nbytes + self.labels.nbytes + (0 if self.clusters is None else self.clusters.nbytes)

    def picked(self, numbers: Array) -> LabelledTensors:
        """Return some samples, in the order of their numbers."""
        clusters = None if self.clusters is None else self.clusters[numbers]
        return LabelledTensors(self.images[numbers], self.labels[numbers], clusters)

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images and labels in order, one batch at a time."""
        for start in range(0, len(self.labels), size):
            yield self.images[start : start + size], self.labels[start : start + size]


def hub_dataset(source: str) -> Any:
    """Return the dataset at ``hf://datasets/org/name[/configuration]#split``, downloaded if need be."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise EvalError(f"{source}: needs the package datasets: pip install 'lines-pipeline[clip]'") from error
    name, _, split = source.removeprefix(DATASETS).partition("#")
    organisation, dataset, *configuration = name.split("/", 2)
    return load_dataset(f"{organisation}/{dataset}", *configuration, split=split or "test")


def hub_batches(
    source: str, transform: Any, size: int, chosen: Callable[[int], Array] | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images of ``hf://datasets/org/name[/configuration]#split``, transformed for the model, and labels.

    ``chosen`` tells which samples of so many to take; all are taken without it.
    """
    data = hub_dataset(source)
    data = data if chosen is None else data.select(chosen(len(data)))
    image_column = _column(source, data.column_names, ("image", "img", "jpg"))
    label_column = _column(source, data.column_names, ("label", "cls"))
    for start in range(0, len(data), size):
        rows = data[start : start + size]
        images = torch.stack([transform(image.convert("RGB")) for image in rows[image_column]])
        yield images, torch.tensor(rows[label_column])


def _column(source: str, columns: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in columns:
            return name
    raise EvalError(f"{source}: no column {' or '.join(names)}; it has: {', '.join(columns)}")
