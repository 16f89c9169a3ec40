"""Carries out trials: makes their models, has them judged, and stops those that a race drops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import Event, TrialFinished, TrialStarted
from lines_pipeline.evaluation.evaluator import EvaluationBatch
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph
from lines_pipeline.recipe.binding.objective import Objective
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.search.drivers import Drivers
from lines_pipeline.search.race import WHOLE, Race
from lines_pipeline.search.samplers import Values


@dataclass(frozen=True)
class Trial:
    """Holds what one trial tried and found, on a ``share`` of the samples: less than all where it was stopped."""

    number: int
    values: Values
    objective: float
    metrics: Mapping[str, float]
    """``node/metric`` to value."""
    share: float = WHOLE
    cached: bool = False
    """Whether all its scores were remembered from an earlier run."""

    @property
    def is_complete(self) -> bool:
        """Return whether it was judged by all samples."""
        return self.share == WHOLE


@dataclass
class _Running:
    """Holds a trial that is carried out, the events that wait for those of earlier trials, and its outcome so far."""

    number: int
    values: Values
    graph: Graph
    events: list[Event] | None
    """None where they are told at once."""
    batches: list[EvaluationBatch] = field(default_factory=list)
    outcome: Trial | None = None


@dataclass
class Trials:
    """Carries out trials, numbered in the order in which they are given."""

    recipe: Recipe
    drivers: Drivers
    objective: Objective
    race: Race
    total: int
    done: int = 0

    def run(self, batch: Sequence[Values]) -> list[Trial]:
        """Carry out a batch; return how each trial ended: models are made one after the other, and evaluated together.

        Events come as if each trial had begun when the one before had ended.
        """
        session, running = self.drivers.evaluator.session, list[_Running]()
        try:
            for values in batch:
                running.append(self._begun(values, self.done + len(running), hold=bool(running)))
            left = running
            for share in self.race.shares:
                left = self._evaluated(left, share)
        finally:
            self.drivers.evaluator.drop([batch for trial in running for batch in trial.batches])
        ended = []
        for carried_out in running:
            assert carried_out.outcome is not None
            for event in carried_out.events or ():
                session.emit(event)
            trial = carried_out.outcome
            session.emit(TrialFinished(trial.number, trial.objective, trial.metrics, trial.cached, trial.share))
            ended.append(trial)
        self.done += len(ended)
        return ended

    def _begun(self, values: Values, number: int, *, hold: bool) -> _Running:
        """Tell of a trial, and carry out what drivers replace."""
        held, session = list[Event]() if hold else None, self.drivers.evaluator.session
        with _events(session, held):
            session.emit(TrialStarted(number, self.total, values))
            graph = self.drivers.resolve(build_graph(self.recipe.with_values(values)), self.objective.nodes)
        return _Running(number, values, graph, held)

    def _evaluated(self, running: Sequence[_Running], share: float) -> list[_Running]:
        """Judge trials by a share of the samples; return those that go on."""
        evaluator = self.drivers.evaluator
        for trial in running:
            with _events(evaluator.session, trial.events):
                trial.batches.append(self.drivers.prepare(trial.graph, self.objective.nodes, self.race.part(share)))
        metrics_by_trial = evaluator.metrics([trial.batches[-1] for trial in running])
        for trial, by_step in zip(running, metrics_by_trial, strict=True):
            metrics = {f"{step}/{name}": figure for step, given in by_step.items() for name, figure in given.items()}
            cached = all(batch.is_remembered for batch in trial.batches)
            trial.outcome = Trial(trial.number, trial.values, self._objective(by_step), metrics, share, cached)
        return [trial for trial in running if trial.outcome and self.race.goes_on(share, trial.outcome.objective)]

    def _objective(self, metrics: Mapping[str, Mapping[str, float]]) -> float:
        try:
            return self.objective.value(metrics)
        except KeyError as error:
            raise EvalError(f"tune: the suite gives no metric {error.args[0]} for the objective") from error


@contextmanager
def _events(session: Session, held: list[Event] | None) -> Iterator[None]:
    """Collect events in ``held``, if it is a list, in place of the sinks."""
    emit = session.emit
    session.emit = emit if held is None else held.append
    try:
        yield
    finally:
        session.emit = emit
