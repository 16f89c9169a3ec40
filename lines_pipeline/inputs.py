"""Finds and opens what a recipe names: checkpoints, the zoo's experts, the files of suites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lines_pipeline.core.errors import CheckpointError, EvalError
from lines_pipeline.core.events import Sink
from lines_pipeline.core.types import EdgeType
from lines_pipeline.engine.cache import NodeCache
from lines_pipeline.engine.housekeeping import prune, size_limit
from lines_pipeline.engine.schedulers import DRIVER, Scheduler
from lines_pipeline.engine.session import Session
from lines_pipeline.evals.suites import chosen_tasks, missing_files, suite_tasks
from lines_pipeline.io.checkpoints import Checkpoint, open_checkpoint
from lines_pipeline.io.dropping import keep_ties
from lines_pipeline.io.folders import require_cache
from lines_pipeline.io.locations import download, locate
from lines_pipeline.io.masks import VALUE_TYPE, unpacked
from lines_pipeline.io.renaming import rename
from lines_pipeline.ops.evaluate import EvaluateParams
from lines_pipeline.ops.load import LoadParams
from lines_pipeline.ops.soup import SoupParams
from lines_pipeline.planning.globs import matches
from lines_pipeline.planning.memory import EngineSettings
from lines_pipeline.recipe.graph import Graph
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.zoo.catalogue import ZooEntry, cache_folder
from lines_pipeline.zoo.catalogue import locate as locate_in_zoo

Found = TypeVar("Found")


@dataclass
class OpenedRecipe:
    """A recipe with its inputs opened: everything a command works with."""

    recipe: Recipe
    graph: Graph
    session: Session
    notes: list[str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    """Load steps whose checkpoints are not on this machine yet."""


@contextmanager
def open_recipe(
    recipe: Recipe,
    graph: Graph,
    settings: EngineSettings,
    cache: bool,
    emit: Sink,
    *,
    build: bool,
    scheduler: Scheduler = DRIVER,
) -> Iterator[OpenedRecipe]:
    """A recipe with every checkpoint found and opened; ``build`` also makes or downloads what is not there.

    What it uses of the cache is kept there until it is done with.
    """
    missing = _missing_files(recipe, graph)
    if missing and build:
        raise EvalError("\n".join(missing))
    with closing(NodeCache(cache_folder() / "nodes", reading=cache)) as nodes:
        context = OpenedRecipe(recipe, graph, Session({}, nodes, settings, emit, scheduler))
        if build:
            require_cache(nodes.folder)
        _open_checkpoints(context, build=build)
        context.notes += missing
        if build:
            prune(nodes.folder, size_limit())
        yield context


def _open_checkpoints(context: OpenedRecipe, *, build: bool) -> None:
    recipe, graph, session = context.recipe, context.graph, context.session
    live = set(graph.needed(graph.sinks)) if build else set(graph.steps)
    loads = {s.id: s.params for s in graph.steps.values() if isinstance(s.params, LoadParams) and s.id in live}
    located = _each(recipe, graph, "path", loads, lambda step: locate_checkpoint(loads[step].path, recipe.folder))
    if build:
        _build_zoo([entry.uri for entry in located.values() if isinstance(entry, ZooEntry)], session.emit)

    def opened(step: str) -> Checkpoint | None:
        path = _local_path(located[step], context, step, build=build)
        return None if path is None else _opened(loads[step], path.absolute(), session.cache.spool if build else None)

    found = _each(recipe, graph, "path", loads, opened)
    checkpoints = {step: checkpoint for step, checkpoint in found.items() if checkpoint is not None}
    context.notes += [f"node '{step}': {note}" for step, checkpoint in checkpoints.items() for note in checkpoint.notes]
    context.session = replace(session, checkpoints=checkpoints)


def _each(
    recipe: Recipe,
    graph: Graph,
    field: str | Callable[[str], str],
    steps: Iterable[str],
    find: Callable[[str], Found],
) -> dict[str, Found]:
    """What is found for every step; all that is wrong is told as one error, by the places of the nodes' ``field``.

    A callable ``field`` is asked which one is wrong of a step.
    """
    found: dict[str, Found] = {}
    errors: dict[str, CheckpointError | EvalError] = {}
    for step in steps:
        try:
            found[step] = find(step)
        except (CheckpointError, EvalError) as error:
            wrong = field if isinstance(field, str) else field(step)
            errors.setdefault(_placed(recipe, graph.steps[step].node, wrong, str(error)), error)
    if errors:
        raise type(next(iter(errors.values())))("\n".join(errors))
    return found


def _placed(recipe: Recipe, node: str, field: str, message: str) -> str:
    return str(recipe.document.places.value(("nodes", node, field)).problem(message, node))


def locate_checkpoint(path: str, folder: Path) -> Any:
    """Where a ``load`` path lies: a ``ZooEntry``, or a location of files."""
    return locate_in_zoo(path) if path.startswith("zoo://") else locate(path, folder, cache_folder() / "downloads")


def _build_zoo(uris: Sequence[str], emit: Sink) -> None:
    experts = [uri for uri in uris if not uri.endswith("/pretrained")]
    if experts:
        from lines_pipeline.zoo.build import build as build_experts

        build_experts(experts, emit)


def _local_path(located: Any, context: OpenedRecipe, step: str, *, build: bool) -> Path | None:
    if isinstance(located, ZooEntry):
        if not located.built and not build:
            context.notes.append(f"{located.uri}: not built yet, the first run builds it")
            return located.template
        return located.path
    if located.path is None and build:
        return download(located.uri, cache_folder() / "downloads")
    if located.path is None:
        context.notes.append(f"{located.uri}: not downloaded yet, its tensors are checked by the first run")
        context.unread.add(step)
    return Path(located.path) if located.path else None


def _opened(params: LoadParams, path: Path, spool: Path | None) -> Checkpoint:
    checkpoint = _of_type(params, open_checkpoint(path, uri=params.path, spool=spool))
    rules = [(rule.from_, rule.to) for rule in params.rename]
    renamed = rename(checkpoint, strip=params.prefix.strip, add=params.prefix.add, rules=rules)
    return keep_ties(renamed, lambda name: matches(params.drop, (name,))) if params.drop else renamed


def _of_type(params: LoadParams, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as what the node says that it holds; ``CheckpointError`` where its header says otherwise."""
    said = checkpoint.metadata.get(VALUE_TYPE, EdgeType.WEIGHTS.value)
    if said != params.type and (said in (EdgeType.DELTA, EdgeType.MASK) or params.type == "mask"):
        kind = {"delta": "a task vector", "mask": "a mask"}.get(said, "a model")
        raise CheckpointError(f"{params.path} holds {kind}: give the node that loads it 'type: {said}'")
    return unpacked(checkpoint) if said == EdgeType.MASK else checkpoint


def _missing_files(recipe: Recipe, graph: Graph) -> list[str]:
    """What the suites lack, by place; ``EvalError`` for what is no suite, and tasks and splits that one has not got."""
    judges = {s.id: s.params for s in graph.steps.values() if isinstance(s.params, EvaluateParams | SoupParams)}
    suites = {step: params.suite for step, params in judges.items() if params.suite}

    def named(step: str) -> tuple[Sequence[str], str | None]:
        params = judges[step]
        return (params.tasks or (), params.target) if isinstance(params, EvaluateParams) else ((), None)

    def chosen(step: str) -> tuple[str, ...]:
        return chosen_tasks(suites[step], recipe.folder, *named(step))

    def unknown(step: str) -> str:
        return "target" if set(named(step)[0]) <= set(suite_tasks(suites[step], recipe.folder)) else "tasks"

    def missing(step: str) -> tuple[str, ...]:
        return missing_files(suites[step], recipe.folder, tasks[step], judges[step].split)

    _each(recipe, graph, "suite", suites, lambda step: suite_tasks(suites[step], recipe.folder))
    tasks = _each(recipe, graph, unknown, suites, chosen)
    lacking = _each(recipe, graph, "split", suites, missing)
    told = [_placed(recipe, graph.steps[step].node, "suite", file) for step, files in lacking.items() for file in files]
    return list(dict.fromkeys(told))
