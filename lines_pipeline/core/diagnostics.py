"""What is wrong in a document that a user wrote, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lines_pipeline.core.printable import printable_message

FieldPath = tuple[str | int, ...]
"""Leads to a value of a document, from its top or from a node: keys and list indices."""


@dataclass(frozen=True, order=True)
class SourceLocation:
    """Names a spot in a file; lines and columns count from 1, 0 where there are none (``--set``)."""

    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def diagnostic(self, message: str, node: str = "") -> Diagnostic:
        """Return a diagnostic at this spot."""
        return Diagnostic((), message, node=node, location=self)


@dataclass(frozen=True)
class Diagnostic:
    """Says what is wrong with a value of a document. A check knows the path to it; ``located`` adds the spot."""

    path: FieldPath
    """Leads to the value from the node that is checked, or from the top of the document."""
    message: str
    at_key: bool = False
    """Whether the spot is that of the key which ends ``path``, not of its value."""
    node: str = ""
    location: SourceLocation = SourceLocation()

    def __str__(self) -> str:
        spot = f"{self.location}: " if self.location.file else ""
        node = f"node '{self.node}': " if self.node else ""
        return printable_message(f"{spot}{node}{self.message}")

    def below(self, *outer: str | int) -> Diagnostic:
        """Return the diagnostic with a path that starts further out."""
        return replace(self, path=(*outer, *self.path))

    def located(self, location: SourceLocation) -> Diagnostic:
        """Return the diagnostic at a spot in a file."""
        return replace(self, location=location)


def in_file_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Return located diagnostics sorted by spot; of those that say the same at one spot, the first."""
    distinct: dict[tuple[SourceLocation, str, str], Diagnostic] = {}
    for diagnostic in diagnostics:
        distinct.setdefault((diagnostic.location, diagnostic.message, diagnostic.node), diagnostic)
    return tuple(distinct[key] for key in sorted(distinct))
