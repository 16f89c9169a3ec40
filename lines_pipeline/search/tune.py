"""``tune``: tries parameter values, evaluates the objective of each, and keeps the first of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lines_pipeline.core.events import Note, ParamsChosen
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
from lines_pipeline.search.race import Race, is_better
from lines_pipeline.search.samplers import Values, combinations, open_sampler
from lines_pipeline.search.trials import Trial, Trials

COSTLY_READS = 3
"""A step that reads this many times the bytes it makes is worth keeping between trials."""


@dataclass(frozen=True)
class Chosen:
    """Holds the best values, their objective, and all trials."""

    values: Values
    objective: float
    trials: tuple[Trial, ...]


def tune(recipe: Recipe, drivers: Drivers) -> Chosen:
    """Run the trials of ``recipe.tune``; each makes only what the objective needs.

    On a cluster, as many trials as there are workers are evaluated side by side, if they do not depend on each other.
    The choice is among trials that were judged by all samples.
    """
    assert recipe.tune is not None
    session, objective = drivers.evaluator.session, parse_objective(recipe.tune.objective)
    graph = resolve_numbers(build_graph(recipe), session.checkpoints)
    _keep_common_parts(graph, recipe.tune, objective, session)
    direction = recipe.tune.direction or default_direction(
        objective, lambda step: drivers.directions(graph.steps[step])
    )
    assert direction is not None  # binding has refused objectives that have none
    race = Race(recipe.tune.pruning, recipe.seed, direction == "maximize")
    trials = Trials(recipe, drivers, objective, race, trial_count(recipe.tune))
    sampler, finished = open_sampler(recipe.tune, recipe.seed, direction), list[Trial]()
    while batch := sampler.ask(session.scheduler.calls_at_once):
        finished += (ended := trials.run(batch))
        stopped = [None if trial.is_complete else race.shares.index(trial.share) for trial in ended]
        sampler.tell([trial.objective for trial in ended], stopped)
    best = _best(finished, race)
    _tell_remembered(finished, session)
    wholes = recipe.with_values(best.values).wholes_of(best.values)
    session.emit(ParamsChosen(best.values, best.objective, wholes))
    return Chosen(best.values, best.objective, tuple(finished))


def _best(finished: Sequence[Trial], race: Race) -> Trial:
    """Return the first of the best of those that were judged by all samples."""
    best, *others = [trial for trial in finished if trial.is_complete]
    for trial in others:
        if is_better(trial.objective, best.objective, maximizes=race.maximizes):
            best = trial
    return best


def _tell_remembered(finished: Sequence[Trial], session: Session) -> None:
    """Tell of trials that an earlier run has made, where this run made others."""
    remembered = sum(trial.cached for trial in finished)
    if 0 < remembered < len(finished):
        session.emit(Note(f"tune: {remembered} of {len(finished)} trials are remembered from an earlier run"))


def trial_count(settings: Tune) -> int:
    """Return the number of trials that there will be."""
    possible = combinations(settings)
    return int(possible) if settings.sampler == "grid" else int(min(settings.trials or 0, possible))


def _keep_common_parts(graph: Graph, settings: Tune, objective: Objective, session: Session) -> None:
    """Write what all trials share to the cache, where reading it back is cheaper than making it again."""
    targets = graph.models_of(objective.nodes)
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
