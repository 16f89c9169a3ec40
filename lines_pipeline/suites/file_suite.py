"""What suites that are files have in common: the file, its tasks, and the identity of the local files that it names."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from lines_pipeline.suites.suite_files import SuiteDocument


class Tasked(Protocol):
    """The content of a suite file, which names tasks."""

    @property
    def tasks(self) -> Iterable[str]:
        """Return the names of all tasks."""


Content = TypeVar("Content", bound=Tasked)


@dataclass(frozen=True)
class FileSuite(Generic[Content]):
    """A suite file that has been read."""

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
            found = (self.path.parent / source).stat()
        except (OSError, ValueError):
            return None
        return [source, found.st_size, found.st_mtime_ns] if not stat.S_ISFIFO(found.st_mode) else None
