"""Where a plug-in comes from: what tells its versions apart, and makes sure that every process has the same one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from types import ModuleType

from lines_pipeline.core.entry_points import PluginEntry, entry_points_of
from lines_pipeline.core.errors import EngineError, LinesError, PluginError
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.core.user_code.running import (
    at_home,
    module_name,
    module_of,
    modules_of,
    to_stderr,
    what_was_raised,
)

_loading = Lock()
"""Held while a file runs: its imports are found by way of ``sys.path``, which all threads share."""


@dataclass(frozen=True)
class PackageOrigin:
    """An installed package, that offers the plug-in as an entry point."""

    group: str
    name: str
    value: str
    distribution: str
    """Name and version: what its plug-ins compute may change with the version only."""

    @classmethod
    def of(cls, entry: PluginEntry) -> PackageOrigin:
        """Return the package behind an entry point."""
        return cls(entry.group, entry.name, entry.value, entry.distribution)

    @property
    def identity(self) -> str:
        """Return what results depend on: the distribution, and where in it the plug-in is."""
        return f"{self.distribution} {self.value}"

    def require(self) -> None:
        """Raise ``EngineError`` where this process has not got the same version of the package."""
        entry = entry_points_of(self.group).get(self.name)
        if entry is None or PackageOrigin.of(entry) != self:
            offered = "it is not installed" if entry is None else f"{entry.distribution} ({entry.value}) offers it"
            raise EngineError(
                f"'{self.name}' of {self.group} comes from {self.distribution} ({self.value}), but here {offered}: "
                "install the same version everywhere"
            )

    def __str__(self) -> str:
        return self.distribution


@dataclass(frozen=True)
class FileOrigin:
    """A file of Python beside a recipe."""

    file: Path
    digest: str
    """Of the content of the file, and of what it imports from its folder."""

    @property
    def identity(self) -> str:
        """Return what results depend on: the content, wherever the file lies."""
        return self.digest

    @cached_property
    def code(self) -> Code:
        """Return the file as code of the user's."""
        return Code(self.file.name, "", "", self.file, self.file.parent)

    def module(self) -> ModuleType:
        """Run the file, once a process and content. Raises ``PluginError`` where it raises anything."""
        name = module_name(self.code)
        with _loading:
            if name not in sys.modules:
                sys.modules[name] = self._run()
            return sys.modules[name]

    def _run(self) -> ModuleType:
        try:
            with to_stderr(), at_home(self.code):
                return module_of(self.code)
        except PluginError as error:
            raise PluginError(f"{self.file.name}: {error}") from error
        except LinesError:
            raise
        except (Exception, SystemExit) as error:  # the door of code that is not ours
            raise PluginError(f"{self.file.name} raised {what_was_raised(error, self.code)}") from error

    def beside(self) -> Mapping[str, ModuleType]:
        """Return the modules from its folder that the file imports, by name."""
        own = module_name(self.code)
        return {name: module for name, module in modules_of(self.code).items() if name != own}

    def require(self) -> None:
        """Run the file; ``EngineError`` where this process finds another content at its path."""
        if not self.file.is_file():
            raise EngineError(f"plug-in {self.file}: no such file here; every worker has to see it at the same path")
        if self.code.digest() != self.digest:
            raise EngineError(f"plug-in {self.file}: other contents here than where the run was planned")
        self.module()

    def __str__(self) -> str:
        return self.file.name


Origin = PackageOrigin | FileOrigin
