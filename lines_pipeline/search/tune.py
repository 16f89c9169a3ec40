"""``tune``: tries parameter values, evaluates the objective of each, and keeps the first of the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import Event, ParamsChosen, TrialFinished, TrialStarted
from lines_pipeline.evaluation.evaluator import EvaluationBatch
from lines_pipeline.executor.materialising import OutputRequest, materialise
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph
from lines_pipeline.planner.stages import ancestors
from lines_pipeline.planner.varying_numbers import resolve_numbers
from lines_pipeline.recipe.binding.objective import Objective, default_direction, parse_objective
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.schema import Tune
from lines_pipeline.search.drivers import Drivers
from lines_pipeline.search.samplers import Values, combinations, open_sampler

COSTLY_READS = 3
"""A step that reads this many times the bytes it makes is worth keeping between trials."""


@dataclass(frozen=True)
class Chosen:
    """Holds the best values, their objective, and the number of trials."""

    values: Values
    objective: float
    trials: int


def tune(recipe: Recipe, drivers: Drivers) -> Chosen:
    """Run the trials of ``recipe.tune``; each makes only what the objective needs.

    On a cluster, as many trials as there are workers are evaluated side by side, if they do not depend on each other.
    """
    assert recipe.tune is not None
    trials = _Trials(recipe, drivers, parse_objective(recipe.tune.objective), trial_count(recipe.tune))
    session = drivers.evaluator.session
    graph = resolve_numbers(build_graph(recipe), session.checkpoints)
    _keep_common_parts(graph, recipe.tune, trials.objective, session)
    direction = recipe.tune.direction or default_direction(
        trials.objective, lambda step: drivers.directions(graph.steps[step])
    )
    assert direction is not None  # binding has refused objectives that have none
    sampler, sign = open_sampler(recipe.tune, recipe.seed, direction), 1 if direction == "maximize" else -1
    best: Chosen | None = None
    while batch := sampler.ask(session.scheduler.calls_at_once):
        objectives = trials.run(batch)
        sampler.tell(objectives)
        for values, objective in zip(batch, objectives, strict=True):
            if best is None or _is_better(sign * objective, sign * best.objective):
                best = Chosen(values, objective, trials.total)
    assert best is not None
    session.emit(ParamsChosen(best.values, best.objective))
    return best


def _is_better(objective: float, best: float) -> bool:
    """Return whether an objective is greater than the best so far; any number is better than none."""
    return objective > best or (math.isnan(best) and not math.isnan(objective))


def trial_count(settings: Tune) -> int:
    """Return the number of trials that there will be."""
    found = combinations(settings)
    return int(found) if settings.sampler == "grid" else int(min(settings.trials or 0, found))


@dataclass
class _Trials:
    """Carries out trials, numbered in the order in which they are given."""

    recipe: Recipe
    drivers: Drivers
    objective: Objective
    total: int
    done: int = 0

    def run(self, batch: Sequence[Values]) -> list[float]:
        """Return the objective of each: models are made one after the other, and evaluated together.

        Events come as if each trial had begun when the one before had ended.
        """
        session = self.drivers.evaluator.session
        emit = session.emit
        evaluations: list[EvaluationBatch] = []
        held: list[list[Event]] = []
        for values in batch:
            with _events(session, hold=bool(evaluations)) as events:
                held.append(events)
                session.emit(TrialStarted(self.done + len(evaluations), self.total, values))
                evaluations.append(self._evaluation(values))
        objectives = []
        for events, by_step in zip(held, self.drivers.evaluator.compare(evaluations), strict=True):
            for event in events:
                emit(event)
            objectives.append(self._objective(by_step))
            metrics = {f"{step}/{name}": figure for step, given in by_step.items() for name, figure in given.items()}
            emit(TrialFinished(self.done, objectives[-1], metrics))
            self.done += 1
        return objectives

    def _evaluation(self, values: Values) -> EvaluationBatch:
        graph = self.drivers.resolve(build_graph(self.recipe.with_values(values)))
        return self.drivers.prepare(graph, list(dict.fromkeys(node for _, node, _ in self.objective.terms)))

    def _objective(self, metrics: Mapping[str, Mapping[str, float]]) -> float:
        try:
            return self.objective.value(metrics)
        except KeyError as error:
            raise EvalError(f"tune: the suite gives no metric {error.args[0]} for the objective") from error


@contextmanager
def _events(session: Session, *, hold: bool) -> Iterator[list[Event]]:
    """Yield a list that, with ``hold``, collects the events in place of the sinks."""
    emit, held = session.emit, list[Event]()
    session.emit = held.append if hold else emit
    try:
        yield held
    finally:
        session.emit = emit


def _keep_common_parts(graph: Graph, settings: Tune, objective: Objective, session: Session) -> None:
    """Write what all trials share to the cache, where reading it back is cheaper than making it again."""
    targets = graph.models_of(node for _, node, _ in objective.terms)
    tuned_nodes = {name.partition(".")[0] for name in settings.parameters}
    changing: set[str] = set()
    for step_id in ancestors(graph, targets):
        step = graph.steps[step_id]
        if step.node in tuned_nodes or step.op.driver_of(step.params) or changing & set(step.sources):
            changing.add(step_id)
    shared = [s for step_id in ancestors(graph, targets) if step_id in changing for s in graph.steps[step_id].sources]
    shared = [step_id for step_id in dict.fromkeys(shared) if step_id not in changing]
    costly = [step_id for step_id in shared if _loads(graph, step_id) >= COSTLY_READS]
    if costly:
        materialise(session, graph, [OutputRequest(step_id) for step_id in costly])


def _loads(graph: Graph, step_id: str) -> int:
    return sum(graph.steps[source].op.is_source for source in ancestors(graph, [step_id]))
