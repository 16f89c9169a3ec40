"""What suites that are files have in common: the file, its tasks, and the identity of the local files that it names."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch

from lines_pipeline.core.errors import CheckpointError, EvalError
from lines_pipeline.io.locations import local_path, locate
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import read_tensors
from lines_pipeline.suites.suite_files import SuiteDocument
from lines_pipeline.zoo.entries import cache_folder


class Tasked(Protocol):
    """The content of a suite file, which names tasks."""

    @property
    def tasks(self) -> Iterable[str]:
        """Return the names of all tasks."""


Content = TypeVar("Content", bound=Tasked)


@dataclass(frozen=True)
class FileSuite(Generic[Content]):
    """A suite file that has been read."""

    records_baselines: ClassVar[bool] = True
    """Whether ``baselines`` reads its figures from the file alone, and measures none."""
    document: SuiteDocument
    content: Content = field(compare=False, repr=False)

    @property
    def path(self) -> Path:
        """Return the suite's file."""
        return self.document.path

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of all tasks."""
        return tuple(self.content.tasks)

    def identity(self, source: str) -> Any:
        """Return size and time of a local file, which tell its content from another; None where it is missing.

        A URL is its own identity.
        """
        if not source or "://" in source:
            return source
        try:
            status = (self.path.parent / source).stat()
        except (OSError, ValueError):
            return None
        return [source, status.st_size, status.st_mtime_ns] if not stat.S_ISFIFO(status.st_mode) else None

    def missing(self, named: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Return a message for each missing local file, of pairs of a task and a file."""
        return tuple(
            f"{self.path}: task '{task}': {file}: no such file"
            for task, file in named
            if "://" not in file and self.identity(file) is None
        )

    def data_of(self, task: str, data: Mapping[str, str], split: str) -> str:
        """Return the data of a task's split; ``EvalError`` where it has none."""
        if split not in data:
            known = ", ".join(data) or "none"
            raise EvalError(f"{self.path}: task '{task}' has no data for split '{split}'; it has: {known}")
        return data[split]

    def local(self, source: str) -> Path:
        """Return where a file or folder that the suite names lies, downloaded if need be; ``EvalError``."""
        downloads = cache_folder() / "downloads"
        try:
            return local_path(locate(source, self.path.parent, downloads), downloads)
        except CheckpointError as error:
            raise EvalError(str(error)) from error

    def tensors(self, source: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a checkpoint that the suite names, tied ones under their first names."""
        path = self.local(source)
        try:
            return read_tensors(open_checkpoint(path, spool=cache_folder() / "spool"))
        except CheckpointError as error:
            raise EvalError(str(error)) from error
