"""The Python API and composition root: recipe -> graph -> checkpoints -> (tune) -> merge -> evaluate -> sinks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lines_pipeline.caching import CacheReport, cache_list, cache_prune, cache_verify
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.events import FactsComputed, InputsIdentified, Note, RunFinished, RunStarted, Sink, broadcast
from lines_pipeline.engine.forecast import block_scales, forecast
from lines_pipeline.engine.schedulers import open_scheduler
from lines_pipeline.engine.storing import Request, announce, existing_file, store
from lines_pipeline.inputs import OpenedRecipe, locate_checkpoint, open_recipe
from lines_pipeline.io.checkpoints import open_checkpoint
from lines_pipeline.io.folders import require_output
from lines_pipeline.io.temporaries import sweep_temporaries
from lines_pipeline.ops.evaluate import EvaluateParams
from lines_pipeline.outputs import Destination, check_outputs, open_destination, requests, require_writable
from lines_pipeline.planning.facts import gather_facts
from lines_pipeline.planning.report import PlanReport, describe_layers
from lines_pipeline.recipe.graph import build_graph
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.picture import mermaid, svg
from lines_pipeline.recipe.stock import find_recipe
from lines_pipeline.recipe.trusting import load_checked
from lines_pipeline.search.greedy_soup import GreedySoups
from lines_pipeline.search.judging import Judge
from lines_pipeline.search.tune import tune as tune_recipe
from lines_pipeline.settings import engine_settings
from lines_pipeline.zoo.catalogue import ZooEntry, cache_folder
from lines_pipeline.zoo.catalogue import locate as locate_in_zoo


@dataclass(frozen=True)
class RunResult:
    """What a run gave: metrics and facts by node, the files it wrote, and where it is recorded."""

    name: str
    out: Path | str
    metrics: Mapping[str, Mapping[str, float]]
    files: tuple[Path, ...]
    """Empty where they are in an object store."""
    urls: tuple[str, ...]
    """The files in an object store."""
    facts: Mapping[str, Mapping[str, Any]]
    run_id: str
    tracking_uri: str
    chosen: Mapping[str, Any]
    cached: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    """What the run told of its inputs and results, as ``note: ...`` and ``warning: ...``."""

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "name": self.name,
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            "metrics": {node: dict(found) for node, found in self.metrics.items()},
            "files": [str(file) for file in (*self.files, *self.urls)],
            "facts": {node: dict(found) for node, found in self.facts.items()},
            "chosen": dict(self.chosen),
            "cached": list(self.cached),
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Validation:
    """A recipe that passed every check that needs no tensor data; ``notes`` say what could not be checked yet."""

    name: str
    steps: int
    notes: tuple[str, ...]


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
    trust: bool = False,
    tracking_uri: str | None = None,
    sinks: Sequence[Sink] = (),
) -> RunResult:
    """Carry out a recipe. ``sinks`` receive the events of ``core.events``; raises the package's ``LinesError``s.

    ``trust`` lets it run Python that its suites name, and name other machines, wherever it lies.
    """
    from lines_pipeline.tracking.recorder import recorder
    from lines_pipeline.tracking.stores import check_reachable, resolve_uri

    started = time.perf_counter()
    loaded, graph = load_checked(find_recipe(recipe), sets or {}, trust=trust)
    settings = engine_settings(loaded, scheduler, workers, memory, device)
    uri = resolve_uri(tracking_uri or loaded.tracking.uri)
    check_reachable(uri)
    record = recorder().open(uri)
    notes: list[Note] = []
    emit = broadcast(*sinks, record, lambda event: notes.append(event) if isinstance(event, Note) else None)
    status, error = "FAILED", ""
    try:
        place = Path("runs") / loaded.name if out is None else out
        with open_destination(place) as destination, open_scheduler(settings) as work:
            require_writable(check_outputs(graph, destination.folder), destination.folder)
            with open_recipe(loaded, graph, settings, cache, emit, build=True, trust=trust, scheduler=work) as context:
                emit(_run_started(context, destination))
                for note in context.notes:
                    emit(Note(note))
                result = _carry_out(context, destination, tune)
        status = "FINISHED"
    except KeyboardInterrupt:
        status, error = "KILLED", "interrupted"
        raise
    except Exception as failure:
        error = str(failure)
        raise
    finally:
        emit(RunFinished(status, time.perf_counter() - started, error))
    seconds, told = time.perf_counter() - started, tuple(str(note) for note in notes)
    return replace(result, run_id=record.run_id, tracking_uri=uri, seconds=seconds, notes=told)


def validate(recipe: str | Path, *, sets: Mapping[str, Any] | None = None, trust: bool = False) -> Validation:
    """Check everything that needs no tensor data; raises the package's errors. Builds and downloads nothing.

    Python that suites name is found and noted, but not imported.
    """
    loaded, graph = load_checked(find_recipe(recipe), sets or {}, trust=trust)
    destination = Destination(Path("runs") / loaded.name)
    check_outputs(graph, destination.folder)
    with open_recipe(loaded, graph, engine_settings(loaded), True, broadcast(), build=False, trust=trust) as context:
        if not context.unread:
            _forecast(context, destination)
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
    trust: bool = False,
) -> PlanReport:
    """What a run would do, from headers alone. Builds and downloads nothing."""
    from lines_pipeline.search.tune import trial_count

    loaded, graph = load_checked(find_recipe(recipe), sets or {}, trust=trust)
    settings = engine_settings(loaded, scheduler, workers, memory, device)
    trials = trial_count(loaded.tune) if loaded.tune and tune else 0
    with open_recipe(loaded, graph, settings, cache, broadcast(), build=False, trust=trust) as context:
        if context.unread:
            raise CheckpointError(f"the plan needs headers that are not on this machine yet: {context.notes[0]}")
        report = _forecast(context, Destination(Path("runs") / loaded.name), trials)
        return replace(report, notes=(*context.notes, *report.notes))


def _forecast(context: OpenedRecipe, destination: Destination, trials: int = 0) -> PlanReport:
    graph = context.graph
    models = [s.inputs["model"][0] for s in graph.steps.values() if isinstance(s.params, EvaluateParams)]
    wanted = requests(context.recipe, graph, destination)
    return forecast(context.recipe, graph, context.session, list(wanted.values()), models, trials)


def graph(recipe: str | Path, *, sets: Mapping[str, Any] | None = None, form: str = "mmd") -> str:
    """The DAG as Mermaid text (``mmd``) or ``svg``."""
    built = build_graph(load_recipe(find_recipe(recipe), sets or {}))
    return svg(built) if form == "svg" else mermaid(built)


def _run_started(context: OpenedRecipe, destination: Destination) -> RunStarted:
    from lines_pipeline.tracking.mlflow import environment_tags

    recipe, graph = context.recipe, context.graph
    report = _forecast(context, destination)
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


def _carry_out(context: OpenedRecipe, destination: Destination, tune: bool) -> RunResult:
    session, judge = context.session, Judge(context.session, context.recipe.folder)
    soups = GreedySoups(judge)
    chosen: Mapping[str, Any] = {}
    if tune and context.recipe.tune is not None:
        chosen = tune_recipe(context.recipe, judge, soups.settle).values
        context.recipe = context.recipe.with_values(chosen)
        context.graph = build_graph(context.recipe)
    context.graph = soups.settle(context.graph)
    wanted = requests(context.recipe, context.graph, destination)
    for folder in dict.fromkeys(request.path.parent for request in wanted.values() if request.path is not None):
        sweep_temporaries(folder)
    before = {step for step, request in wanted.items() if existing_file(session, context.graph, request)}
    if before != wanted.keys():
        require_output(destination.folder)
    evaluated = [s for s in context.graph.sinks if context.graph.steps[s].op.name == "evaluate"]
    models = judge.unjudged_models(context.graph, evaluated)
    paths, facts = store(session, context.graph, [*wanted.values(), *(Request(model) for model in models)])
    locations = destination.deliver(paths[: len(wanted)])
    for step, path, location in zip(wanted, paths, locations, strict=False):
        announce(session, step, path, location, reused=step in before)
    session.emit(InputsIdentified({step: session.digests[step] for step in sorted(session.digests)}))
    for step, found in facts.items():
        session.emit(FactsComputed(step, found))
    for scales in block_scales(context.graph, session, facts):
        session.emit(scales)
    metrics = judge.judge(context.graph, evaluated)
    files = tuple(location for location in locations if isinstance(location, Path))
    urls = tuple(location for location in locations if isinstance(location, str))
    cached = (*sorted(before), *judge.cached)
    by_node = gather_facts(context.graph, facts)
    return RunResult(context.recipe.name, destination.out, metrics, files, urls, by_node, "", "", chosen, cached, 0.0)


def inspect(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds: tensors, data types, blocks, norms."""
    from lines_pipeline.io.inspection import summarize

    located = locate_checkpoint(str(path), Path())
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
    "CacheReport",
    "PlanReport",
    "RunResult",
    "Validation",
    "cache_list",
    "cache_prune",
    "cache_verify",
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
