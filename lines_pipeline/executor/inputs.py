"""Finds and opens what a recipe names: checkpoints, the zoo's experts, the files of suites."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lines_pipeline.cache.eviction import prune, size_limit
from lines_pipeline.cache.store import NodeCache
from lines_pipeline.core.errors import CheckpointError, EvalError
from lines_pipeline.core.events import Event, Note, Sink
from lines_pipeline.core.logs import LOG
from lines_pipeline.core.types import EdgeType
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.executor.schedulers.local import DRIVER
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.adapter_updates import Base, update_checkpoint
from lines_pipeline.io.checkpoint import Checkpoint, require_readable
from lines_pipeline.io.dropping import keep_ties
from lines_pipeline.io.folders import require_cache
from lines_pipeline.io.formats.adapter_names import refuse_adapter
from lines_pipeline.io.formats.adapters import read_adapter
from lines_pipeline.io.formats.quantized import refuse_quantized
from lines_pipeline.io.locations import local_path, locate
from lines_pipeline.io.masks import VALUE_TYPE, unpacked
from lines_pipeline.io.model_folders import declared_quantization
from lines_pipeline.io.opening import open_checkpoint, open_leniently
from lines_pipeline.io.renaming import rename
from lines_pipeline.ops.adapter import AdapterParams
from lines_pipeline.ops.evaluate import EvaluateParams
from lines_pipeline.ops.load import LoadParams
from lines_pipeline.ops.soup import SoupParams
from lines_pipeline.planner.globs import matches
from lines_pipeline.planner.memory import EngineSettings
from lines_pipeline.planner.schemas import infer_schemas, left_out_names
from lines_pipeline.planner.stages import ancestors
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.suites.base import chosen_tasks, missing_files, suite_runs, suite_tasks
from lines_pipeline.zoo.catalogue import ZooEntry, cache_folder, is_sound
from lines_pipeline.zoo.catalogue import locate as locate_in_zoo

Found = TypeVar("Found")


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
    """A recipe with every checkpoint found and opened; ``build`` also makes or downloads what is not there.

    Where suites name Python, ``EvalError`` for a ``build`` without ``trust`` in a folder that is not trusted.
    What it uses of the cache is kept there until it is done with.
    """
    missing = _missing_files(recipe, graph)
    code = _suites_code(recipe, graph, trust=trust, build=build)
    if missing and build:
        raise EvalError("\n".join(missing))
    with closing(NodeCache(cache_folder() / "nodes", reading=cache, secrets=recipe.secrets)) as nodes:
        context = OpenedRecipe(recipe, graph, Session({}, nodes, settings, emit, scheduler))
        if build:
            require_cache(nodes.folder)
        _open_checkpoints(context, build=build)
        context.notes += missing + code
        if build:
            prune(nodes.folder, size_limit())
        yield context


def _open_checkpoints(context: OpenedRecipe, *, build: bool) -> None:
    recipe, graph, session = context.recipe, context.graph, context.session
    live = set(graph.needed(graph.sinks)) if build else set(graph.steps)
    loads = {s.id: s.params for s in graph.steps.values() if isinstance(s.params, LoadParams) and s.id in live}
    located = _each(recipe, graph, "path", loads, lambda step: locate_checkpoint(loads[step].path, recipe.folder))
    if build:
        _build_zoo([entry.uri for entry in located.values() if isinstance(entry, ZooEntry)], context)

    def opened(step: str) -> Checkpoint | None:
        path = _local_path(located[step], context, step, build=build)
        return None if path is None else _opened(loads[step], path.absolute(), session.cache.spool if build else None)

    found = _each(recipe, graph, "path", loads, opened)
    checkpoints = {step: checkpoint for step, checkpoint in found.items() if checkpoint is not None}
    checkpoints |= _open_adapters(context, live, checkpoints, build=build)
    context.notes += [f"node '{step}': {note}" for step, checkpoint in checkpoints.items() for note in checkpoint.notes]
    context.session = replace(session, checkpoints=checkpoints)
    for step, one in checkpoints.items():
        known = "content known" if step in context.session.digests else "content not known yet"
        LOG.info("'%s': opened '%s', %d tensors, %s", step, one.uri, len(one.tensors), known)
    expected = {step: params.digest for step, params in loads.items() if step in checkpoints and params.digest}
    _each(recipe, graph, "digest", expected, lambda step: _check_digest(context, step, expected[step], read=build))


def _check_digest(context: OpenedRecipe, step: str, expected: str, *, read: bool) -> None:
    """Refuse other contents than expected; ``read`` them where they are not known, else only tell."""
    session = context.session
    digest = session.identify(step) if read else session.digests.get(step)
    if digest is None:
        context.notes.append(f"node '{step}': its content is compared with 'digest' by the run, which reads it")
    elif digest != expected:
        raise CheckpointError(
            f"{session.checkpoints[step].uri}: has other contents than expected: its digest is "
            f"{digest}, expected {expected}. Get the right file, or change 'digest' if this one is meant."
        )


def _open_adapters(
    context: OpenedRecipe, live: Collection[str], checkpoints: Mapping[str, Checkpoint], *, build: bool
) -> dict[str, Checkpoint]:
    """The updates of adapters, for the tensors of their bases; those whose base is not on this machine yet wait."""
    recipe, graph, spool = context.recipe, context.graph, context.session.cache.spool
    open_file = partial(open_checkpoint, spool=spool if build else None)
    adapters = {s.id: s.params for s in graph.steps.values() if isinstance(s.params, AdapterParams) and s.id in live}
    located = _each(recipe, graph, "path", adapters, lambda s: locate_checkpoint(adapters[s].path, recipe.folder))
    found: dict[str, Checkpoint] = {}

    def opened(step: str) -> None:
        sources = {s for s in ancestors(graph, [step]) if graph.steps[s].op.is_source} - {step}
        path = _local_path(located[step], context, step, build=build)
        if path is None:
            return
        if not sources <= checkpoints.keys() | found.keys():
            node = graph.steps[step].node
            context.wait(
                step, f"node '{node}': its base is not on this machine yet, the first run checks it against that"
            )
            return
        base = next((_base(graph, i, {**checkpoints, **found}) for i in graph.steps[step].inputs.get("base", ())), None)
        adapter = read_adapter(path.absolute(), adapters[step].path, open_file)
        found[step] = update_checkpoint(
            adapter,
            base,
            scale=adapters[step].scale,
            left_out=partial(left_out_names, graph.steps[step]),
            spool=spool,
            build=build,
        )

    _each(recipe, graph, "path", adapters, opened)
    return found


def _base(graph: Graph, step: str, checkpoints: Mapping[str, Checkpoint]) -> Base:
    """The model that an adapter is for; its values can be read where it is loaded."""
    layout, read = infer_schemas(graph, ancestors(graph, [step]), checkpoints)[step], checkpoints.get(step)
    where = (read.tensors, read.files) if read else (None, ())
    return Base(layout.origin, layout.tensors, layout.aliases, *where)


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
            wrong = graph.steps[step].port or (field if isinstance(field, str) else field(step))
            errors.setdefault(_placed(recipe, graph.steps[step].node, wrong, str(error)), error)
    if errors:
        raise type(next(iter(errors.values())))("\n".join(errors))
    return found


def _placed(recipe: Recipe, node: str, field: str, message: str) -> str:
    return str(recipe.document.source_map.value(("nodes", node, field)).diagnostic(message, node))


def locate_checkpoint(path: str, folder: Path) -> Any:
    """Where a ``load`` path lies: a ``ZooEntry``, or a location of files."""
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


def _opened(params: LoadParams, path: Path, spool: Path | None) -> Checkpoint:
    def is_dropped(name: str) -> bool:
        return matches(params.drop, (name,))

    checkpoint = _of_type(params, open_leniently(path, uri=params.path, spool=spool, key=params.key))
    rules = [(rule.from_, rule.to) for rule in params.rename]
    renamed = rename(checkpoint, strip=params.prefix.strip, add=params.prefix.add, rules=rules)
    kept = keep_ties(renamed, is_dropped)
    names = {name: kept.stored_names.get(name, name) for name in kept.tensors if not is_dropped(name)}
    specs = {names[name]: kept.tensors[name].spec for name in names}  # new names might hide what it is
    refuse_adapter(params.path, specs)
    refuse_quantized(params.path, specs, declared_quantization(path))
    return require_readable(kept, is_dropped)


def _of_type(params: LoadParams, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as what the node says that it holds; ``CheckpointError`` where its header says otherwise."""
    said = checkpoint.metadata.get(VALUE_TYPE, EdgeType.WEIGHTS.value)
    if said != params.type and (said in ("delta", "mask") or params.type == "mask"):
        kind = {"delta": "a task vector", "mask": "a mask"}.get(said, "a model")
        raise CheckpointError(f"{params.path} holds {kind}: give the node that loads it 'type: {said}'")
    return unpacked(checkpoint) if said == "mask" else checkpoint


def _suites_code(recipe: Recipe, graph: Graph, *, trust: bool, build: bool) -> list[str]:
    """Notes of the Python that suites name; nothing is imported. ``EvalError`` where a run may not run it."""
    judges = {s.id: s.params for s in graph.steps.values() if isinstance(s.params, EvaluateParams | SoupParams)}
    suites = {step: params.suite for step, params in judges.items() if params.suite}

    def runs(step: str) -> str:
        found = suite_runs(suites[step], recipe.folder)
        if found is None:
            return ""
        refused = "" if trust else found.untrusted
        if refused and build:
            raise EvalError(f"the suite {suites[step]} runs Python, {found.what}, but {refused}")
        return f"the suite {suites[step]} runs Python: {found.what}" + (f"; {refused}" if refused else "")

    notes = _each(recipe, graph, "suite", suites, runs)
    return [] if build else list(dict.fromkeys(note for note in notes.values() if note))


def _missing_files(recipe: Recipe, graph: Graph) -> list[str]:
    """What the suites lack, by place; ``EvalError`` for what is no suite, and tasks and splits that one has not got."""
    judges = {s.id: s.params for s in graph.steps.values() if isinstance(s.params, EvaluateParams | SoupParams)}
    suites = {step: params.suite for step, params in judges.items() if params.suite}

    def named(step: str) -> tuple[Sequence[str], str | None]:
        params = judges[step]
        return params.tasks or (), params.target if isinstance(params, EvaluateParams) else None

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
