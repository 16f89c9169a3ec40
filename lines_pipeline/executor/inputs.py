"""Finds and opens what a recipe names: checkpoints, the zoo's experts, the files of suites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lines_pipeline.cache.eviction import prune, size_limit
from lines_pipeline.cache.store import NodeCache
from lines_pipeline.core.errors import CheckpointError, EvalError
from lines_pipeline.core.events import Event, Note, Sink
from lines_pipeline.core.logs import LOG
from lines_pipeline.executor.placing import each, located_plan_errors
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.executor.schedulers.local import DRIVER
from lines_pipeline.executor.session import Session
from lines_pipeline.executor.suite_checks import SuiteChecks
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.adapter_updates import Base
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.folders import require_cache
from lines_pipeline.io.locations import local_path, locate
from lines_pipeline.ops.roles import ReadContext, Source
from lines_pipeline.planner.memory import EngineSettings
from lines_pipeline.planner.schemas import left_out_names, schema_of
from lines_pipeline.planner.stages import ancestors
from lines_pipeline.planner.varying_numbers import resolve_numbers
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.zoo.catalogue import is_sound
from lines_pipeline.zoo.catalogue import locate as locate_in_zoo
from lines_pipeline.zoo.entries import ZooEntry, cache_folder


@dataclass
class OpenedRecipe:
    """A recipe with its inputs opened: everything a command works with."""

    recipe: Recipe
    graph: Graph
    session: Session
    notes: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    """Why the headers of some load steps cannot be read yet: what they need is not on this machine."""

    def wait(self, step: str, why: str) -> None:
        """Note that a step's headers cannot be read yet, and why."""
        self.notes.append(why)
        self.unread.setdefault(step, why)


@contextmanager
def open_recipe(
    recipe: Recipe,
    graph: Graph,
    settings: EngineSettings,
    cache: bool,
    emit: Sink,
    *,
    build: bool,
    trust: bool = False,
    scheduler: Scheduler = DRIVER,
) -> Iterator[OpenedRecipe]:
    """Yield a recipe with every checkpoint found and opened; ``build`` also makes or downloads what is not there.

    Where suites name Python, ``EvalError`` for a ``build`` without ``trust`` in a folder that is not trusted.
    What it uses of the cache is kept there until it is done with.
    """
    if build:
        recipe.plugins.require_trust()
    suites = SuiteChecks(recipe, graph)
    missing = suites.missing_files()
    code = suites.code(trust=trust, build=build)
    if missing and build:
        raise EvalError("\n".join(missing))
    with (
        closing(NodeCache(cache_folder() / "nodes", reading=cache, secrets=recipe.secrets)) as nodes,
        located_plan_errors(recipe),
    ):
        context = OpenedRecipe(recipe, graph, Session({}, nodes, settings, emit, scheduler))
        if build:
            require_cache(nodes.folder)
        _open_checkpoints(context, build=build)
        if not context.unread:
            context.graph = resolve_numbers(graph, context.session.checkpoints)
        context.notes += missing + code + ([] if build else recipe.plugins.notes())
        if build:
            prune(nodes.folder, size_limit())
        yield context


def _open_checkpoints(context: OpenedRecipe, *, build: bool) -> None:
    recipe, graph, session = context.recipe, context.graph, context.session
    live = set(graph.ancestors(graph.sinks)) if build else set(graph.steps)
    sources = {s.id: source for s in graph.steps.values() if s.id in live and (source := s.op.source_of(s.params))}
    loads = {step: source for step, source in sources.items() if not graph.steps[step].op.inputs}
    updates = {step: source for step, source in sources.items() if step not in loads}
    located = each(recipe, graph, "path", loads, lambda step: locate_checkpoint(loads[step].path, recipe.folder))
    if build:
        _build_zoo([entry.uri for entry in located.values() if isinstance(entry, ZooEntry)], context)

    def opened(step: str) -> Checkpoint | None:
        path = _local_path(located[step], context, step, build=build)
        return None if path is None else loads[step].read(path.absolute(), ReadContext(session.cache.spool, build))

    by_step = each(recipe, graph, "path", loads, opened)
    checkpoints = {step: checkpoint for step, checkpoint in by_step.items() if checkpoint is not None}
    checkpoints |= _open_updates(context, updates, checkpoints, build=build)
    context.notes += [f"node '{step}': {note}" for step, checkpoint in checkpoints.items() for note in checkpoint.notes]
    context.session = replace(session, checkpoints=checkpoints)
    for step, checkpoint in checkpoints.items():
        known = "content known" if step in context.session.digests else "content not known yet"
        LOG.info("'%s': opened '%s', %d tensors, %s", step, checkpoint.uri, len(checkpoint.tensors), known)
    expected = {step: source.digest for step, source in sources.items() if step in checkpoints and source.digest}
    each(recipe, graph, "digest", expected, lambda step: _check_digest(context, step, expected[step], read=build))


def _check_digest(context: OpenedRecipe, step: str, expected: str, *, read: bool) -> None:
    """Refuse other contents than expected; ``read`` them where they are not known, else only tell."""
    session = context.session
    digest = session.contents.identify(step) if read else session.digests.get(step)
    if digest is None:
        context.notes.append(f"node '{step}': its content is compared with 'digest' by the run, which reads it")
    elif digest != expected:
        raise CheckpointError(
            f"{session.checkpoints[step].uri}: has other contents than expected: its digest is "
            f"{digest}, expected {expected}. Get the right file, or change 'digest' if this one is meant."
        )


def _open_updates(
    context: OpenedRecipe, updates: Mapping[str, Source], checkpoints: Mapping[str, Checkpoint], *, build: bool
) -> dict[str, Checkpoint]:
    """Return what sources read for a base, for its tensors; those whose base is not on this machine yet wait."""
    recipe, graph, spool = context.recipe, context.graph, context.session.cache.spool
    located = each(recipe, graph, "path", updates, lambda s: locate_checkpoint(updates[s].path, recipe.folder))
    opened_updates: dict[str, Checkpoint] = {}

    def opened(step: str) -> None:
        sources = {s for s in ancestors(graph, [step]) if graph.steps[s].op.is_source} - {step}
        path = _local_path(located[step], context, step, build=build)
        if path is None:
            return
        if not sources <= checkpoints.keys() | opened_updates.keys():
            node = graph.steps[step].node
            context.wait(
                step, f"node '{node}': its base is not on this machine yet, the first run checks it against that"
            )
            return
        followed = graph.steps[step].followed
        base = None if followed is None else _base(graph, followed, {**checkpoints, **opened_updates})
        left_out = partial(left_out_names, graph.steps[step])
        opened_updates[step] = updates[step].read(path.absolute(), ReadContext(spool, build, base, left_out))

    each(recipe, graph, "path", updates, opened)
    return opened_updates


def _base(graph: Graph, step: str, checkpoints: Mapping[str, Checkpoint]) -> Base:
    """Return the model that an adapter is for; its values can be read where it is loaded."""
    schema, read = schema_of(graph, step, checkpoints), checkpoints.get(step)
    where = (read.tensors, read.files) if read else (None, ())
    return Base(schema.origin, schema.tensors, schema.aliases, *where)


def locate_checkpoint(path: str, folder: Path) -> Any:
    """Return where a ``load`` path lies: a ``ZooEntry``, or a location of files."""
    return locate_in_zoo(path) if path.startswith("zoo://") else locate(path, folder, cache_folder() / "downloads")


def _build_zoo(uris: Sequence[str], context: OpenedRecipe) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, Note):
            context.notes.append(event.text)
        else:
            context.session.emit(event)

    experts = [uri for uri in uris if not uri.endswith("/pretrained")]
    if experts:
        from lines_pipeline.zoo.build import build as build_experts

        build_experts(experts, emit)


def _local_path(located: Any, context: OpenedRecipe, step: str, *, build: bool) -> Path | None:
    if isinstance(located, ZooEntry):
        if not build and not is_sound(located):
            context.notes.append(f"{located.uri}: {_unbuilt(located)}, the first run builds it")
            return located.template
        return located.path
    if build:
        return local_path(located, cache_folder() / "downloads", context.notes.append)
    if located.path is None:
        context.wait(step, f"{located.uri}: not downloaded yet, its tensors are checked by the first run")
    return Path(located.path) if located.path else None


def _unbuilt(expert: ZooEntry) -> str:
    return "damaged" if expert.path.exists() else "not built yet"
