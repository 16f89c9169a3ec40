"""Proposes the values that ``tune`` tries, from a grid or by Optuna: as many at a time as can be tried at once."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lines_pipeline.core.errors import EvalError
from lines_pipeline.recipe.schema import Space, Tune

Values = Mapping[str, Any]
"""The values of a trial, by parameter."""


_MAX_RANDOM = 10
"""The most trials that TPE draws at random before it learns."""

_MAX_REPEATS = 20
"""The most proposals in a row that were tried before, after which the grid decides."""


class Sampler(Protocol):
    """Proposes trials, the same ones however many it is asked for at a time."""

    def ask(self, count: int) -> list[Values]:
        """Return the next trials: up to ``count``, one where later ones depend on how it does, none at the end."""

    def tell(self, objectives: Sequence[float], stopped: Sequence[int | None] = ()) -> None:
        """Take the objectives of the trials that were asked for last, and the round in which each was stopped."""


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

    def tell(self, objectives: Sequence[float], stopped: Sequence[int | None] = ()) -> None:
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
        self._study = optuna.create_study(direction=direction, sampler=_opened(optuna.samplers, settings, seed))
        self._settings, self._left = settings, int(min(settings.trials or 0, combinations(settings)))
        self._asked: list[Any] = []
        self._tried: dict[tuple[Any, ...], _Known | None] = {}

    def ask(self, count: int) -> list[Values]:
        """Return the next proposals; TPE and CMA-ES learn from each."""
        count = min(count if self._settings.sampler == "random" else 1, self._left)
        self._left -= count
        self._asked.clear()
        return [self._propose() for _ in range(count)]

    def tell(self, objectives: Sequence[float], stopped: Sequence[int | None] = ()) -> None:
        """Tell Optuna the objectives, in the order of the trials."""
        rounds = stopped or [None] * len(objectives)
        for trial, objective, last in zip(self._asked, objectives, rounds, strict=True):
            self._tried[_point(trial)] = known = _Known(objective, last)
            known.tell(self._study, trial)

    def _propose(self) -> Values:
        """Return values that were not tried before: repeats are answered from memory; after some the grid decides."""
        for _ in range(_MAX_REPEATS):
            trial = self._study.ask()
            values = self._suggested(trial)
            if _point(trial) not in self._tried:
                break
            known = self._tried[_point(trial)]
            if known is None or math.isnan(known.objective):
                self._study.tell(trial, state=_states().PRUNED)
            else:
                known.tell(self._study, trial)
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


@dataclass(frozen=True)
class _Known:
    """Holds what became of a trial; ``stopped`` is the round in which it was stopped, if it was."""

    objective: float
    stopped: int | None = None

    def tell(self, study: Any, trial: Any) -> None:
        """Tell Optuna; a trial without a number has failed."""
        if math.isnan(self.objective):
            study.tell(trial, state=_states().FAIL)
        elif self.stopped is None:
            study.tell(trial, self.objective)
        else:
            trial.report(self.objective, self.stopped)
            study.tell(trial, state=_states().PRUNED)


def _states() -> Any:
    from optuna.trial import TrialState

    return TrialState


def _opened(samplers: Any, settings: Tune, seed: int) -> Any:
    """Return Optuna's sampler. TPE proposes several parameters jointly, after a third of the trials, at most ten."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments that are marked as experimental
        if settings.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if settings.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, consider_pruned_trials=settings.pruning is not None)
        first = max(1, min(_MAX_RANDOM, (settings.trials or 0) // 3))
        several = len(settings.parameters) > 1
        return samplers.TPESampler(seed=seed, multivariate=several, n_startup_trials=first)


def _suggest(trial: Any, name: str, space: Space) -> Any:
    choices = space.choices()
    if choices is not None and space.values is not None and not all(map(_is_number, choices)):
        return choices[trial.suggest_categorical(name, list(range(len(choices))))]
    if choices is not None:
        return choices[trial.suggest_int(name, 0, len(choices) - 1)]
    return trial.suggest_float(name, space.low, space.high, log=space.log)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
