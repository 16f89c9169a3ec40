"""What installed packages add to this one: listed from their metadata, imported only when it is asked for."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lines_pipeline.core.errors import PluginError

OPS = "lines_pipeline.ops"
SUITES = "lines_pipeline.suites"
FORMATS = "lines_pipeline.formats"
SINKS = "lines_pipeline.sinks"


@dataclass(frozen=True)
class PluginEntry:
    """One object that an installed package offers under a name; ``load`` imports it."""

    group: str
    name: str
    rivals: tuple[EntryPoint, ...]
    """The entry points of this name: one, or all those that are in each other's way."""

    @property
    def distribution(self) -> str:
        """Name and version of the package that offers it: ``my-package 1.0``."""
        return _distribution(self.rivals[0])

    @property
    def value(self) -> str:
        """Return what it names: ``my_package.methods:magmax``."""
        return self.rivals[0].value

    def load(self) -> Any:
        """Import the object. Raises ``PluginError`` where that fails, or where several packages offer the name."""
        if len(self.rivals) > 1:
            rivals = " and ".join(f"{_distribution(rival)} ({rival.value})" for rival in self.rivals)
            raise PluginError(
                f"entry point '{self.name}' of {self.group} is offered by {rivals}: uninstall all but one"
            )
        try:
            with redirect_stdout(sys.stderr):
                return self.rivals[0].load()
        except PluginError as error:
            raise PluginError(f"{self}: {error}") from error
        except (Exception, SystemExit) as error:  # the door of code that is not ours
            frame = traceback.extract_tb(error.__traceback__)[-1]
            at = f" ({frame.filename}:{frame.lineno})" if not frame.filename.startswith("<") else ""
            raise PluginError(
                f"{self} cannot be loaded: {type(error).__name__}: {error}{at}; mend or uninstall the package"
            ) from error

    def __str__(self) -> str:
        return f"entry point '{self.name} = {self.value}' of {self.distribution} ({self.group})"


def entry_points_of(group: str) -> Mapping[str, PluginEntry]:
    """Return what installed packages offer in a group, by name, sorted. Imports nothing.

    A package that lies on the Python path twice counts once, and the first place counts.
    """
    return _entry_points_of(group, tuple(sys.path))


@lru_cache(maxsize=16)
def _entry_points_of(group: str, path: tuple[str, ...]) -> Mapping[str, PluginEntry]:
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        points.setdefault(point.name, []).append(point)
    return {name: PluginEntry(group, name, tuple(sorted(points[name], key=_distribution))) for name in sorted(points)}


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unnamed package"
