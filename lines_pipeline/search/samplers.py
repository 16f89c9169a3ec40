"""Proposes the values that ``tune`` tries, from a grid or by Optuna: as many at a time as can be tried at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lines_pipeline.core.errors import EvalError
from lines_pipeline.recipe.schema import Space, Tune

Values = Mapping[str, Any]
"""The values of a trial, by parameter."""


_MAX_REPEATS = 20
"""The most proposals in a row that were tried before, after which the grid decides."""


class Sampler(Protocol):
    """Proposes trials, the same ones however many it is asked for at a time."""

    def ask(self, count: int) -> list[Values]:
        """Return the next trials: up to ``count``, one where later ones depend on how it does, none at the end."""

    def tell(self, objectives: Sequence[float]) -> None:
        """Take the objectives of the trials that were asked for last."""


def open_sampler(settings: Tune, seed: int, direction: str) -> Sampler:
    """Return the sampler that ``settings.sampler`` names, for a direction; ``EvalError`` without its package."""
    return Grid(settings) if settings.sampler == "grid" else Study(settings, seed, direction)


class Grid:
    """Proposes all combinations; the last parameter changes first."""

    def __init__(self, settings: Tune) -> None:
        self._names = list(settings.parameters)
        self._left = itertools.product(*(space.choices() or () for space in settings.parameters.values()))

    def ask(self, count: int) -> list[Values]:
        """Return the next combinations."""
        return [dict(zip(self._names, values, strict=True)) for values in itertools.islice(self._left, count)]

    def tell(self, objectives: Sequence[float]) -> None:
        """Ignore the objectives: a grid does not depend on them."""


class Study:
    """Proposes by random search, TPE or CMA-ES of Optuna; deterministic by the recipe's seed."""

    def __init__(self, settings: Tune, seed: int, direction: str) -> None:
        try:
            import optuna
        except ImportError as error:
            raise EvalError(
                f"sampler {settings.sampler}: needs the extra 'search': pip install 'lines-pipeline[search]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        samplers = {
            "random": optuna.samplers.RandomSampler,
            "tpe": optuna.samplers.TPESampler,
            "cmaes": optuna.samplers.CmaEsSampler,
        }
        sampler = samplers[settings.sampler](seed=seed)
        self._study = optuna.create_study(direction=direction, sampler=sampler)
        self._settings, self._left = settings, int(min(settings.trials or 0, combinations(settings)))
        self._asked: list[Any] = []
        self._tried: dict[tuple[Any, ...], float | None] = {}

    def ask(self, count: int) -> list[Values]:
        """Return the next proposals; TPE and CMA-ES learn from each."""
        count = min(count if self._settings.sampler == "random" else 1, self._left)
        self._left -= count
        self._asked.clear()
        return [self._propose() for _ in range(count)]

    def tell(self, objectives: Sequence[float]) -> None:
        """Tell Optuna the objectives, in the order of the trials."""
        for trial, objective in zip(self._asked, objectives, strict=True):
            self._study.tell(trial, None if math.isnan(objective) else objective, state=_failed(objective))
            self._tried[_point(trial)] = objective

    def _propose(self) -> Values:
        """Return values that were not tried before: repeats are answered from memory; after some the grid decides."""
        for _ in range(_MAX_REPEATS):
            trial = self._study.ask()
            values = self._suggested(trial)
            if _point(trial) not in self._tried:
                break
            known = self._tried[_point(trial)]
            unknown = known is None or math.isnan(known)
            self._study.tell(trial, None if unknown else known, state=_pruned() if unknown else None)
        else:
            trial, values = self._first_untried()
        self._asked.append(trial)
        self._tried.setdefault(_point(trial), None)
        return values

    def _first_untried(self) -> tuple[Any, Values]:
        """Return the first combination of the grid that no trial has had."""
        names = list(self._settings.parameters)
        counts = [len(space.choices() or ()) for space in self._settings.parameters.values()]
        for indices in itertools.product(*map(range, counts)):
            if indices not in self._tried:
                self._study.enqueue_trial(dict(zip(names, indices, strict=True)))
                break
        trial = self._study.ask()
        return trial, self._suggested(trial)

    def _suggested(self, trial: Any) -> Values:
        return {name: _suggest(trial, name, space) for name, space in self._settings.parameters.items()}


def combinations(settings: Tune) -> float:
    """Return the number of combinations; infinite where a parameter has no steps."""
    counts = [space.choices() for space in settings.parameters.values()]
    return math.inf if None in counts else math.prod(len(choices or ()) for choices in counts)


def _point(trial: Any) -> tuple[Any, ...]:
    return tuple(trial.params.values())


def _failed(objective: float) -> Any:
    """Return the state of a trial that failed: its objective is no number; None for any other."""
    from optuna.trial import TrialState

    return TrialState.FAIL if math.isnan(objective) else None


def _pruned() -> Any:
    from optuna.trial import TrialState

    return TrialState.PRUNED


def _suggest(trial: Any, name: str, space: Space) -> Any:
    choices = space.choices()
    if choices is not None:
        return choices[trial.suggest_int(name, 0, len(choices) - 1)]
    return trial.suggest_float(name, space.low, space.high, log=space.log)
