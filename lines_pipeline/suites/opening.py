"""Opens the suite that a recipe names: the embedded one, or a file of the user's own of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from lines_pipeline.core.errors import EvalError, PluginError, did_you_mean
from lines_pipeline.core.events import Sink
from lines_pipeline.suites.base import Suite
from lines_pipeline.suites.kinds import suite_kinds
from lines_pipeline.suites.suite_files import SuiteDocument, read_document
from lines_pipeline.zoo.catalogue import parse


class SuiteKind(Protocol):
    """Declares what an entry point names: usually a class that is a ``Suite``."""

    def read(self, document: SuiteDocument) -> Suite:
        """Return the suite in a file; ``EvalError`` with every mistake. Loads nothing that the file names."""


def open_suite(uri: str, folder: Path, emit: Sink = lambda event: None) -> Suite:
    """Return the suite at ``uri``; relative paths start from ``folder``, the recipe's. ``emit`` hears what it builds.

    Nothing is built, downloaded or loaded, and no Python of the user's imported.
    """
    if uri.startswith("zoo://"):
        return _zoo_suite(uri, emit)
    document = read_document(suite_path(uri, folder))
    return load_kind(document.kind).read(document)


def suite_path(uri: str, folder: Path) -> Path:
    """Return the file of a suite of the user's own."""
    try:
        return folder / Path(uri).expanduser()
    except RuntimeError as error:
        raise EvalError(f"{uri}: {error}; write the whole path") from error


def chosen_tasks(suite: Suite, uri: str, tasks: Sequence[str] | None, target: str | None) -> tuple[str, ...]:
    """Return the tasks to evaluate; ``EvalError`` for names that the suite does not have."""
    known = suite.tasks
    for task in (*(tasks or ()), *([target] if target else ())):
        if task not in known:
            raise EvalError(f"{uri}: no task '{task}'{did_you_mean(task, known)}; it has: {', '.join(known)}")
    chosen = tuple(dict.fromkeys(tasks)) if tasks else known
    return chosen if target is None or target in chosen else (*chosen, target)


def load_kind(name: str) -> SuiteKind:
    """Import a kind of suite. Raises ``EvalError`` where a package that adds it cannot be."""
    try:
        return cast(SuiteKind, suite_kinds()[name].load())
    except PluginError as error:
        raise EvalError(f"suite kind '{name}': {error}") from error


def _zoo_suite(uri: str, emit: Sink) -> Suite:
    address = parse(uri)
    if address.name:
        raise EvalError(f"{uri}: a suite is zoo://{address.zoo}, without '/{address.name}'")
    if address.zoo == "texts":
        from lines_pipeline.suites.texts import TextZooSuite

        return TextZooSuite.of(address, emit)
    from lines_pipeline.suites.glyphs import GlyphSuite

    return GlyphSuite.of(address, emit)
