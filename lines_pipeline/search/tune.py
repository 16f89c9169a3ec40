"""``tune``: tries parameter values, judges each by the objective, and keeps the first of the best."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import ParamsChosen, TrialFinished, TrialStarted
from lines_pipeline.engine.storing import Request, store
from lines_pipeline.planning.passes import cone
from lines_pipeline.recipe.graph import Graph, build_graph
from lines_pipeline.recipe.objective import Objective, parse_objective
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.schema import Space, Tune
from lines_pipeline.search.judging import Judge

Prepare = Callable[[Graph], Graph]
"""What has to be settled in a trial's graph before it can be merged (greedy soups)."""

COSTLY_READS = 3
"""A step that reads this many times the bytes it makes is worth keeping between trials."""


@dataclass(frozen=True)
class Chosen:
    """The best values, their objective, and how many trials it took."""

    values: Mapping[str, Any]
    objective: float
    trials: int


def tune(recipe: Recipe, judge: Judge, prepare: Prepare) -> Chosen:
    """Run the trials of ``recipe.tune``; each makes only what the objective needs."""
    assert recipe.tune is not None
    objective = parse_objective(recipe.tune.objective)
    _keep_common_parts(build_graph(recipe), recipe.tune, objective, judge)
    sampler = _grid(recipe.tune) if recipe.tune.sampler == "grid" else _sampled(recipe.tune, recipe.seed)
    best: Chosen | None = None
    number, total = 0, trial_count(recipe.tune)
    values = next(sampler, None)
    while values is not None:
        value = _trial(recipe, judge, prepare, objective, (number, total, values))
        better = best is None or (
            value > best.objective if recipe.tune.direction == "maximize" else value < best.objective
        )
        best = Chosen(values, value, total) if better else best
        number += 1
        try:
            values = sampler.send(value)
        except StopIteration:
            values = None
    assert best is not None
    judge.session.emit(ParamsChosen(best.values, best.objective))
    return best


def trial_count(settings: Tune) -> int:
    """How many trials there will be."""
    if settings.sampler != "grid":
        return settings.trials or 0
    total = 1
    for space in settings.parameters.values():
        total *= len(space.choices() or ())
    return total


def _trial(
    recipe: Recipe, judge: Judge, prepare: Prepare, objective: Objective, trial: tuple[int, int, Mapping[str, Any]]
) -> float:
    number, total, values = trial
    judge.session.emit(TrialStarted(number, total, values))
    graph = prepare(build_graph(recipe.with_values(values)))
    judged = judge.judge(graph, list(dict.fromkeys(node for _, node, _ in objective.terms)), keep=False, quiet=True)
    try:
        value = objective.value(judged)
    except KeyError as error:
        raise EvalError(f"tune: the suite gives no metric {error.args[0]} for the objective") from error
    metrics = {f"{step}/{name}": figure for step, found in judged.items() for name, figure in found.items()}
    judge.session.emit(TrialFinished(number, value, metrics))
    return value


def _keep_common_parts(graph: Graph, settings: Tune, objective: Objective, judge: Judge) -> None:
    """Write what all trials share to the cache, where reading it back is cheaper than making it again."""
    targets = [graph.steps[node].inputs["model"][0] for _, node, _ in objective.terms]
    tuned_nodes = {name.partition(".")[0] for name in settings.parameters}
    changing: set[str] = set()
    for step_id in cone(graph, targets):
        step = graph.steps[step_id]
        if step.node in tuned_nodes or _undecided(step.params) or changing & set(step.sources):
            changing.add(step_id)
    shared = [s for step_id in cone(graph, targets) if step_id in changing for s in graph.steps[step_id].sources]
    shared = [step_id for step_id in dict.fromkeys(shared) if step_id not in changing]
    costly = [step_id for step_id in shared if _loads(graph, step_id) >= COSTLY_READS]
    if costly:
        store(judge.session, graph, [Request(step_id) for step_id in costly])


def _undecided(params: Any) -> bool:
    return getattr(params, "kind", None) == "greedy"


def _loads(graph: Graph, step_id: str) -> int:
    return sum(graph.steps[source].op.name == "load" for source in cone(graph, [step_id]))


Trials = Generator[Mapping[str, Any], float, None]
"""Gives values to try, is told their objective."""


def _grid(settings: Tune) -> Trials:
    names = list(settings.parameters)
    for values in itertools.product(*(settings.parameters[name].choices() or () for name in names)):
        yield dict(zip(names, values, strict=True))


def _sampled(settings: Tune, seed: int) -> Trials:
    """Random, TPE or CMA-ES by Optuna; deterministic by the recipe's seed."""
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
    study = optuna.create_study(direction=settings.direction, sampler=samplers[settings.sampler](seed=seed))
    for _ in range(settings.trials or 0):
        trial = study.ask()
        objective = yield {name: _suggest(trial, name, space) for name, space in settings.parameters.items()}
        study.tell(trial, objective)


def _suggest(trial: Any, name: str, space: Space) -> Any:
    choices = space.choices()
    if choices is not None:
        return choices[trial.suggest_int(name, 0, len(choices) - 1)]
    return trial.suggest_float(name, space.low, space.high, log=space.log)
