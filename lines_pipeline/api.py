"""The Python API and composition root: recipe -> graph -> checkpoints -> (tune) -> merge -> evaluate -> sinks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import CheckpointError, EvalError, PlanError
from lines_pipeline.core.events import (
    Event,
    FactsComputed,
    InputsIdentified,
    RunFinished,
    RunStarted,
    Sink,
    broadcast,
)
from lines_pipeline.engine.cache import NodeCache
from lines_pipeline.engine.devices import resolve_device
from lines_pipeline.engine.forecast import block_scales, forecast
from lines_pipeline.engine.session import Session
from lines_pipeline.engine.storing import Request, announce, existing_file, store
from lines_pipeline.evals.suites import chosen_tasks, missing_files
from lines_pipeline.io.checkpoints import Checkpoint, open_checkpoint
from lines_pipeline.io.locations import download, locate, resolve_output
from lines_pipeline.io.renaming import rename
from lines_pipeline.io.writing import sweep_temporaries
from lines_pipeline.ops.evaluate import EvaluateParams
from lines_pipeline.ops.load import LoadParams
from lines_pipeline.ops.save import SaveParams
from lines_pipeline.ops.soup import SoupParams
from lines_pipeline.planning.facts import gather_facts
from lines_pipeline.planning.memory import EngineSettings
from lines_pipeline.planning.report import PlanReport, describe_layers
from lines_pipeline.recipe.graph import Graph, build_graph
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.picture import mermaid, svg
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.schema import parse_bytes
from lines_pipeline.search.greedy_soup import GreedySoups
from lines_pipeline.search.judging import Judge
from lines_pipeline.search.tune import tune as tune_recipe
from lines_pipeline.zoo.catalogue import ZooEntry, cache_folder
from lines_pipeline.zoo.catalogue import locate as locate_in_zoo


@dataclass(frozen=True)
class RunResult:
    """What a run gave: metrics and facts by node, the files it wrote, and where it is recorded."""

    name: str
    out: Path
    metrics: Mapping[str, Mapping[str, float]]
    files: tuple[Path, ...]
    facts: Mapping[str, Mapping[str, Any]]
    run_id: str
    tracking_uri: str
    chosen: Mapping[str, Any]
    cached: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "name": self.name,
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            "metrics": {node: dict(found) for node, found in self.metrics.items()},
            "files": [str(path) for path in self.files],
            "facts": {node: dict(found) for node, found in self.facts.items()},
            "chosen": dict(self.chosen),
            "cached": list(self.cached),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Validation:
    """A recipe that passed every check that needs no tensor data; ``notes`` say what could not be checked yet."""

    name: str
    steps: int
    notes: tuple[str, ...]


@dataclass
class _Run:
    """Everything a command works with."""

    recipe: Recipe
    graph: Graph
    session: Session
    notes: list[str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    """Load steps whose checkpoints are not on this machine yet."""


def run(
    recipe: str | Path,
    *,
    out: str | Path | None = None,
    sets: Mapping[str, Any] | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | int | None = None,
    device: str | None = None,
    tune: bool = True,
    cache: bool = True,
    tracking_uri: str | None = None,
    sinks: Sequence[Sink] = (),
) -> RunResult:
    """Carry out a recipe. ``sinks`` receive the events of ``core.events``; raises the package's ``LinesError``s."""
    from lines_pipeline.tracking.mlflow import check_reachable, resolve_uri
    from lines_pipeline.tracking.recorder import recorder

    started = time.perf_counter()
    loaded = load_recipe(recipe, sets or {})
    settings = _settings(loaded, scheduler, workers, memory, device)
    folder = Path(out) if out is not None else Path("runs") / loaded.name
    graph = build_graph(loaded)
    _check_outputs(graph, folder)
    uri = resolve_uri(tracking_uri or loaded.tracking.uri)
    check_reachable(uri)
    record = recorder().open(uri)
    emit = broadcast(*sinks, record)
    status, error = "FAILED", ""
    try:
        context = _open(loaded, graph, settings, cache, emit, build=True)
        emit(_run_started(context, folder))
        result = _carry_out(context, folder, tune)
        status = "FINISHED"
    except KeyboardInterrupt:
        status, error = "KILLED", "interrupted"
        raise
    except Exception as failure:
        error = str(failure)
        raise
    finally:
        emit(RunFinished(status, time.perf_counter() - started, error))
    seconds = time.perf_counter() - started
    return replace(result, run_id=record.run_id, tracking_uri=uri, seconds=seconds)


def validate(recipe: str | Path, *, sets: Mapping[str, Any] | None = None) -> Validation:
    """Check everything that needs no tensor data; raises the package's errors. Builds and downloads nothing."""
    loaded = load_recipe(recipe, sets or {})
    graph = build_graph(loaded)
    _check_outputs(graph, Path("runs") / loaded.name)
    context = _open(loaded, graph, _settings(loaded, None, None, None, None), True, _ignore, build=False)
    if not context.unread:
        _forecast(context, Path("runs") / loaded.name)
    return Validation(loaded.name, len(graph.steps), tuple(context.notes))


def plan(
    recipe: str | Path,
    *,
    sets: Mapping[str, Any] | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | int | None = None,
    device: str | None = None,
    tune: bool = True,
    cache: bool = True,
) -> PlanReport:
    """What a run would do, from headers alone. Builds and downloads nothing."""
    from lines_pipeline.search.tune import trial_count

    loaded = load_recipe(recipe, sets or {})
    graph = build_graph(loaded)
    settings = _settings(loaded, scheduler, workers, memory, device)
    context = _open(loaded, graph, settings, cache, _ignore, build=False)
    if context.unread:
        raise CheckpointError("the plan needs these headers, which are not on this machine yet: " + context.notes[0])
    trials = trial_count(loaded.tune) if loaded.tune and tune else 0
    return _forecast(context, Path("runs") / loaded.name, trials)


def _forecast(context: _Run, folder: Path, trials: int = 0) -> PlanReport:
    graph = context.graph
    models = [s.inputs["model"][0] for s in graph.steps.values() if isinstance(s.params, EvaluateParams)]
    return forecast(context.recipe, graph, context.session, list(_requests(context, folder).values()), models, trials)


def graph(recipe: str | Path, *, sets: Mapping[str, Any] | None = None, form: str = "mmd") -> str:
    """The DAG as Mermaid text (``mmd``) or ``svg``."""
    built = build_graph(load_recipe(recipe, sets or {}))
    return svg(built) if form == "svg" else mermaid(built)


def _ignore(event: Event) -> None:
    pass


def _settings(
    recipe: Recipe, scheduler: str | None, workers: int | None, memory: str | int | None, device: str | None
) -> EngineSettings:
    engine = recipe.engine
    try:
        budget = parse_bytes(memory) if memory is not None else engine.memory_bytes
    except ValueError as error:
        raise PlanError(f"--memory: {error}") from error
    settings = EngineSettings(
        scheduler=scheduler or engine.scheduler,
        workers=workers or engine.workers or EngineSettings.workers,
        memory=budget,
        device=device or engine.device,
    )
    return settings if settings.on_cluster else replace(settings, device=resolve_device(settings.device))


def _open(recipe: Recipe, graph: Graph, settings: EngineSettings, cache: bool, emit: Sink, *, build: bool) -> _Run:
    """Find and open every checkpoint; ``build`` also makes or downloads what is not there."""
    nodes = NodeCache(cache_folder() / "nodes", reading=cache)
    sweep_temporaries(nodes.folder / "values")
    missing = _missing_files(recipe, graph)
    if missing and build:
        raise EvalError(missing[0])
    context = _Run(recipe, graph, Session({}, nodes, settings, emit))
    live = set(graph.needed(graph.sinks)) if build else set(graph.steps)
    loads = {s.id: s.params for s in graph.steps.values() if isinstance(s.params, LoadParams) and s.id in live}
    located = {step: _locate(params.path, recipe.folder) for step, params in loads.items()}
    if build:
        _build_zoo([entry.uri for entry in located.values() if isinstance(entry, ZooEntry)], emit)
    checkpoints: dict[str, Checkpoint] = {}
    for step, params in loads.items():
        path = _local_path(located[step], context, step, build=build)
        if path is not None:
            checkpoints[step] = _opened(params, path, nodes.spool if build else None)
    context.notes += missing
    context.session = Session(checkpoints, nodes, settings, emit)
    return context


def _locate(path: str, folder: Path) -> Any:
    return locate_in_zoo(path) if path.startswith("zoo://") else locate(path, folder, cache_folder() / "downloads")


def _build_zoo(uris: Sequence[str], emit: Sink) -> None:
    from lines_pipeline.zoo.build import build as build_experts

    build_experts([uri for uri in uris if not uri.endswith("/pretrained")], emit)


def _local_path(located: Any, context: _Run, step: str, *, build: bool) -> Path | None:
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
    checkpoint = open_checkpoint(path, uri=params.path, spool=spool)
    rules = [(rule.from_, rule.to) for rule in params.rename]
    return rename(checkpoint, strip=params.prefix.strip, add=params.prefix.add, rules=rules)


def _missing_files(recipe: Recipe, graph: Graph) -> list[str]:
    """What the suites lack; ``EvalError`` for tasks and splits that they do not have."""
    found: list[str] = []
    for step in graph.steps.values():
        params = step.params
        if isinstance(params, EvaluateParams):
            tasks = chosen_tasks(params.suite, recipe.folder, params.tasks, params.target)
        elif isinstance(params, SoupParams) and params.suite:
            tasks = chosen_tasks(params.suite, recipe.folder, None, None)
        else:
            continue
        found += missing_files(str(params.suite), recipe.folder, tasks, params.split)
    return list(dict.fromkeys(found))


def _check_outputs(graph: Graph, folder: Path) -> None:
    taken: dict[Path, str] = {}
    for step in graph.steps.values():
        if isinstance(step.params, SaveParams):
            path = resolve_output(folder, step.params.path)
            if path.suffix != ".safetensors":
                raise PlanError(f"node '{step.node}': path '{step.params.path}' should end in .safetensors")
            if path in taken:
                raise PlanError(f"nodes '{taken[path]}' and '{step.id}' both write '{step.params.path}'")
            taken[path] = step.id


def _requests(context: _Run, folder: Path) -> dict[str, Request]:
    """What the ``save`` steps want, by step."""
    found: dict[str, Request] = {}
    metadata = {"recipe": context.recipe.canonical(), "recipe_hash": context.recipe.hash}
    for step in context.graph.steps.values():
        if isinstance(step.params, SaveParams):
            limit = parse_bytes(step.params.max_shard_size) if step.params.max_shard_size else None
            path = resolve_output(folder, step.params.path)
            source = step.inputs["model"][0]
            found[step.id] = Request(source, path, step.params.dtype, limit, step.params.packed, metadata)
    return found


def _run_started(context: _Run, folder: Path) -> RunStarted:
    from lines_pipeline.tracking.mlflow import environment_tags

    recipe, graph = context.recipe, context.graph
    report = _forecast(context, folder)
    params = {**graph.parameters, "seed": recipe.seed}
    texts = {
        "recipe.yaml": recipe.source,
        "resolved.yaml": recipe.resolved(),
        "plan.txt": report.render(),
        "graph.svg": svg(graph),
        "graph.mmd": mermaid(graph),
        "layers.json": describe_layers(report),
    }
    own = {str(name): str(value) for name, value in recipe.tracking.tags.items()}
    tags = {**environment_tags(), "recipe_hash": recipe.hash, **own}
    return RunStarted(recipe.name, recipe.tracking.experiment, params, tags, texts)


def _carry_out(context: _Run, folder: Path, tune: bool) -> RunResult:
    session, judge = context.session, Judge(context.session, context.recipe.folder)
    soups = GreedySoups(judge)
    chosen: Mapping[str, Any] = {}
    if tune and context.recipe.tune is not None:
        chosen = tune_recipe(context.recipe, judge, soups.settle).values
        context.recipe = context.recipe.with_values(chosen)
        context.graph = build_graph(context.recipe)
    context.graph = soups.settle(context.graph)
    requests = _requests(context, folder)
    sweep_temporaries(folder)
    before = {step for step, request in requests.items() if existing_file(session, context.graph, request)}
    evaluated = [s for s in context.graph.sinks if context.graph.steps[s].op.name == "evaluate"]
    models = judge.unjudged_models(context.graph, evaluated)
    paths, facts = store(session, context.graph, [*requests.values(), *(Request(model) for model in models)])
    for step, path in zip(requests, paths, strict=False):
        announce(session, step, path, reused=step in before)
    session.emit(InputsIdentified({step: session.digests[step] for step in sorted(session.digests)}))
    for step, found in facts.items():
        session.emit(FactsComputed(step, found))
    for scales in block_scales(context.graph, session, facts):
        session.emit(scales)
    metrics = judge.judge(context.graph, evaluated)
    files = tuple(paths[: len(requests)])
    cached = (*sorted(before), *judge.cached)
    by_node = gather_facts(context.graph, facts)
    return RunResult(context.recipe.name, folder, metrics, files, by_node, "", "", chosen, cached, 0.0)


def inspect(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds: tensors, data types, blocks, norms."""
    from lines_pipeline.io.inspection import summarize

    located = _locate(str(path), Path())
    local = located.path if not isinstance(located, ZooEntry) or located.built else located.template
    if local is None:
        raise CheckpointError(f"{path}: not on this machine yet; a run that loads it downloads it")
    return summarize(open_checkpoint(Path(local), uri=str(path), spool=cache_folder() / "nodes" / "spool"))


def schema() -> dict[str, Any]:
    """JSON Schema of recipes, for editors."""
    from lines_pipeline.recipe.json_schema import json_schema

    return json_schema()


def catalogue() -> list[dict[str, Any]]:
    """Every op: formula, inputs, parameters, source."""
    from lines_pipeline.ops.catalogue import describe_ops

    return describe_ops()


def zoo_list() -> list[dict[str, Any]]:
    """Checkpoints of the embedded zoo, and which are built."""
    from lines_pipeline.zoo.catalogue import TASKS

    entries = [locate_in_zoo(f"zoo://glyphs/{name}") for name in ("pretrained", *TASKS)]
    return [{"uri": entry.uri, "built": entry.built, "path": str(entry.path)} for entry in entries]


def zoo_build(sinks: Sequence[Sink] = ()) -> list[Path]:
    """Build every expert that is missing."""
    from lines_pipeline.zoo.build import build as build_experts
    from lines_pipeline.zoo.catalogue import TASKS

    return build_experts([f"zoo://glyphs/{task}" for task in TASKS], broadcast(*sinks))


__all__ = [
    "PlanReport",
    "RunResult",
    "Validation",
    "catalogue",
    "graph",
    "inspect",
    "plan",
    "run",
    "schema",
    "validate",
    "zoo_build",
    "zoo_list",
]
