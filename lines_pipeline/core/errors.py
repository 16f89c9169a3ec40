"""The errors that users see: each says what, where, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from lines_pipeline.core.printable import printable_message


class LinesError(Exception):
    """Base of every error this package raises on purpose; ``exit_code`` is what the command line ends with.

    Messages often quote names out of files: none of them can steer a terminal, or fill it.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable_message(str(message)))


class PlanError(LinesError):
    """The graph is valid but cannot be planned: layers, shapes, memory or disk do not fit."""


class CheckpointError(LinesError):
    """A checkpoint cannot be read, does not fit the others, or holds NaN or Inf."""


class EvalError(LinesError):
    """A suite is unknown, incomplete, or does not fit the model."""


class EngineError(LinesError):
    """The run itself failed: a full disk, a lost worker, an input changed under way."""

    exit_code = 1


class TrackingError(LinesError):
    """The tracking store cannot be reached or written."""

    exit_code = 1


class UnknownRunError(TrackingError):
    """What the user calls a run is none in the store, or several."""

    exit_code = 2


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a recipe, with its place (lines and columns count from 1; 0 where there is none)."""

    file: str
    line: int
    column: int
    message: str
    node: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        node = f"node '{self.node}': " if self.node else ""
        return f"{place}: {node}{self.message}"


class RecipeError(LinesError):
    """Every mistake found in a recipe, all at once, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
