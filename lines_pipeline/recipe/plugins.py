"""Finds and hashes the Python files that a recipe names as plug-ins; runs them only where that is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.diagnostics import Diagnostic, SourceLocation
from lines_pipeline.core.errors import LinesError, PluginError, RecipeError, did_you_mean
from lines_pipeline.core.plugins import FileOrigin
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.trust import remedy, why_untrusted
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.recipe.stock import stock_folder
from lines_pipeline.recipe.syntax.source_map import Document

if TYPE_CHECKING:
    from lines_pipeline.ops import OpRegistry


@dataclass(frozen=True)
class PluginFile:
    """Describes one plug-in file that a recipe names."""

    name: str
    """The file's name as the recipe writes it."""
    location: SourceLocation
    origin: FileOrigin
    untrusted: str
    """Why it may not run and what to do; an empty text where it may."""


@dataclass(frozen=True)
class Plugins:
    """Holds all plug-ins of a recipe and of those that it extends, the innermost first."""

    files: tuple[PluginFile, ...] = ()

    @property
    def untrusted(self) -> str:
        """Return why the files may not run and what to do; an empty text where they may."""
        return next((file.untrusted for file in self.files if file.untrusted), "")

    @property
    def digests(self) -> dict[str, str]:
        """Return the digest of each file's content by name."""
        return {file.name: file.origin.digest for file in self.files}

    @cached_property
    def ops(self) -> OpRegistry:
        """Return all ops of the recipe. Runs the files, where they may run; ``RecipeError`` for one that fails."""
        from lines_pipeline.ops import registry

        ops = registry()
        for file in () if self.untrusted else self.files:
            try:
                ops = ops.with_file(file.origin)
            except LinesError as error:
                raise RecipeError([file.location.diagnostic(f"plugins: {error}")]) from error
        return ops

    def require_trust(self) -> None:
        """Raise ``RecipeError`` where a file may not run."""
        refused = [file for file in self.files if file.untrusted]
        if refused:
            raise RecipeError(
                [
                    file.location.diagnostic(f"the recipe runs Python, {file.name}, but {file.untrusted}")
                    for file in refused
                ]
            )

    def notes(self) -> list[str]:
        """Tell which files run, and which ops they add."""
        return [self._note(file) for file in self.files]

    def _note(self, file: PluginFile) -> str:
        note = f"the recipe runs Python: {file.name} (sha256 {file.origin.digest[:12]})"
        if self.untrusted:
            return f"{note}; {self.untrusted}"
        added = [name for name, op in self.ops.of_files.items() if op.origin == file.origin]
        return f"{note}, with the ops {', '.join(added)}" if added else note

    def texts(self) -> dict[str, str]:
        """Return the files' own texts by name, for the record of a run."""
        return {file.name: file.origin.file.read_text(encoding="utf-8", errors="replace") for file in self.files}


def find_plugins(
    document: Document, path: FilePath, chain: Sequence[FilePath], *, trust: bool
) -> tuple[Plugins, list[Diagnostic]]:
    """Return the plug-ins that a filled document names, each beside the recipe file that names it. Runs nothing.

    ``path`` is the recipe, ``chain`` the real paths of it and of all that it extends: each may change what the others
    say, so that all have to lie in trusted folders, unless ``trust`` is given.
    """
    named = document.data.get("plugins")
    files: dict[FilePath, PluginFile] = {}
    diagnostics = []
    for index, name in enumerate(named if isinstance(named, list | tuple) else ()):
        location = document.source_map.value(("plugins", index))
        try:
            origin = _origin(name, FilePath(location.file).parent if location.line else path.parent)
        except LinesError as error:
            diagnostics.append(location.diagnostic(f"'plugins[{index}]': {error}"))
            continue
        untrusted = "" if trust else _why_untrusted(origin.file, chain)
        files.setdefault(origin.file, PluginFile(name, location, origin, untrusted))
    return Plugins(tuple(files.values())), diagnostics


def _origin(name: Any, folder: FilePath) -> FileOrigin:
    if not isinstance(name, str) or not name.endswith(".py") or "\0" in name:
        raise PluginError(
            f"expected a Python file beside the recipe, such as my_methods.py, found {shortened(str(name))}"
        )
    if FilePath(name).is_absolute() or ".." in FilePath(name).parts:
        raise PluginError(f"'{name}' is not below the recipe's folder, expected a Python file that is")
    file = (folder / name).absolute()
    if not file.is_file():
        beside = [path.name for path in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise PluginError(f"there is no file {file}{did_you_mean(file.name, beside)}")
    return FileOrigin(file, Code(name, "", "", file, file.parent).digest())


def _why_untrusted(file: FilePath, chain: Sequence[FilePath]) -> str:
    files = [*(path for path in chain if not path.is_relative_to(stock_folder())), file, file.resolve()]
    for folder in dict.fromkeys(path.parent for path in files):
        if reason := why_untrusted(folder):
            return f"{reason}; {remedy(folder)}"
    return ""
