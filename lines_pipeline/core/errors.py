"""The errors that users see: each says what, where, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath, SourceLocation, in_file_order
from lines_pipeline.core.printable import printable, printable_message

_NEAR = 0.6
_MAX_WORD = 100
_MAX_NAMES = 500
_MAX_LINES = 200


class LinesError(Exception):
    """Base of every error this package raises on purpose; ``exit_code`` is what the command line ends with.

    Messages often quote names out of files: none of them can steer a terminal, or fill it.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable_message(str(message)))


class PlanError(LinesError):
    """The graph is valid but cannot be planned: layers, shapes, memory or disk do not fit.

    ``diagnostics`` say at which values of the recipe, where the error is about some.
    """

    diagnostics: tuple[Diagnostic, ...] = ()

    @classmethod
    def of(cls, diagnostics: Iterable[Diagnostic]) -> PlanError:
        """Return an error of these diagnostics, in their order."""
        told = tuple(diagnostics)
        error = cls("\n".join(map(str, told)))
        error.diagnostics = told
        return error

    @classmethod
    def at(cls, path: FieldPath, message: str) -> PlanError:
        """Return an error about the value at a path: from a node on, where ``in_node`` adds that."""
        return cls.of([Diagnostic(path, message)])

    def in_node(self, node: str, field: FieldPath | None = None) -> PlanError:
        """Return the error as one about a node, or about that ``field`` of it."""
        told = self.diagnostics or (Diagnostic((), str(self)),)
        told = told if field is None else tuple(replace(diagnostic, path=field) for diagnostic in told)
        return PlanError.of(replace(diagnostic.below("nodes", node), node=node) for diagnostic in told)


class CheckpointError(LinesError):
    """A checkpoint cannot be read, does not fit the others, or holds NaN or Inf."""


class EvalError(LinesError):
    """A suite is unknown, incomplete, or does not fit the model."""


class UserCodeError(LinesError):
    """Python of the user's own is not there, cannot be read, or raises."""


class PluginError(LinesError):
    """An op, suite, format or sink that an installed package or a recipe's file adds cannot be used."""


class EngineError(LinesError):
    """The run itself failed: a full disk, a lost worker, an input changed under way."""

    exit_code = 1


class TrackingError(LinesError):
    """The tracking store cannot be reached or written."""

    exit_code = 1


class UnknownRunError(TrackingError):
    """The store holds no run that the user's text names, or several."""

    exit_code = 2


class RecipeError(LinesError):
    """A recipe is wrong; ``diagnostics`` say everything that is, in file order."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = in_file_order(diagnostics)
        lines = [str(diagnostic) for diagnostic in self.diagnostics[:_MAX_LINES]]
        untold = len(self.diagnostics) - len(lines)
        super().__init__("\n".join([*lines, *([f"... and {untold} more mistakes"] if untold else ())]))

    @classmethod
    def at(cls, location: SourceLocation, message: str) -> RecipeError:
        """Return an error of one diagnostic."""
        return cls([location.diagnostic(message)])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known name, or an empty text."""
    if len(word) > _MAX_WORD:
        return ""
    alike = sorted(name for name in known if _NEAR * (len(name) + len(word)) <= 2 * min(len(name), len(word)))
    if len(alike) > _MAX_NAMES:  # comparing takes long, and there may be many mistakes
        alike = [name for name in alike if name[:1] == word[:1]][:_MAX_NAMES]
    near = difflib.get_close_matches(word, alike, n=1, cutoff=_NEAR)
    return f" (did you mean '{printable(near[0])}'?)" if near else ""


def did_you_misspell(word: str, known: Iterable[str]) -> str:
    """Return what ``did_you_mean`` does, of names one typing mistake away: others may be right elsewhere."""
    if len(word) > _MAX_WORD:
        return ""
    distances = {name: _slips(word, name) for name in sorted(known)}
    near = [name for name in distances if distances[name] <= (1 if len(word) < 7 else 2)]
    near = sorted(near, key=lambda name: distances[name]) or [name for name in distances if _is_part(word, name)]
    return f" (did you mean '{printable(near[0])}'?)" if near else ""


def _is_part(word: str, name: str) -> bool:
    return len(word) > 3 and name.startswith(f"{word}-")


def _slips(word: str, name: str) -> int:
    """Return how many letters to change, add, leave out or swap with a neighbour (optimal string alignment)."""
    rows = [list(range(len(name) + 1))]
    for i, letter in enumerate(word, 1):
        row = [i]
        for j, other_letter in enumerate(name, 1):
            costs = [rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (letter != other_letter)]
            if i > 1 and j > 1 and (letter, word[i - 2]) == (name[j - 2], other_letter):
                costs.append(rows[-2][j - 2] + 1)
            row.append(min(costs))
        rows.append(row)
    return rows[-1][-1]
