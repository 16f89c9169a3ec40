"""The Python API and composition root: recipe -> graph -> checkpoints -> (tune) -> merge -> evaluate -> sinks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lines_pipeline import outputs
from lines_pipeline.caching import CacheReport, cache_list, cache_prune, cache_verify
from lines_pipeline.core.errors import CheckpointError, PlanError
from lines_pipeline.core.events import FactsComputed, InputsIdentified, Note, RunFinished, RunStarted, Sink, broadcast
from lines_pipeline.engine.forecast import block_scales, forecast
from lines_pipeline.engine.schedulers import open_scheduler
from lines_pipeline.engine.storing import Request, existing, folders_of, store
from lines_pipeline.inputs import OpenedRecipe, locate_checkpoint, open_recipe
from lines_pipeline.io.checkpoints import open_checkpoint
from lines_pipeline.io.folders import require_output
from lines_pipeline.io.temporaries import sweep_temporaries
from lines_pipeline.ops.evaluate import EvaluateParams
from lines_pipeline.planning.facts import gather_facts
from lines_pipeline.planning.report import PlanReport, describe_layers
from lines_pipeline.recipe.graph import build_graph
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.picture import mermaid, svg
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
    tracking_uri: str | None = None,
    sinks: Sequence[Sink] = (),
) -> RunResult:
    """Carry out a recipe. ``sinks`` receive the events of ``core.events``; raises the package's ``LinesError``s."""
    from lines_pipeline.tracking.recorder import recorder
    from lines_pipeline.tracking.stores import check_reachable, resolve_uri

    started = time.perf_counter()
    loaded = load_recipe(recipe, sets or {})
    settings = engine_settings(loaded, scheduler, workers, memory, device)
    graph = build_graph(loaded)
    uri = resolve_uri(tracking_uri or loaded.tracking.uri)
    check_reachable(uri)
    record = recorder().open(uri)
    told: list[Note] = []
    emit = broadcast(*sinks, record, lambda event: told.append(event) if isinstance(event, Note) else None)
    status, error = "FAILED", ""
    try:
        with outputs.open_destination(outputs.place(loaded, out)) as destination, open_scheduler(settings) as work:
            outputs.require_writable(outputs.check_outputs(graph, destination.folder), destination.folder)
            with open_recipe(loaded, graph, settings, cache, emit, build=True, scheduler=work) as context:
                report = _forecast(context, destination)
                if report.shortages:
                    raise PlanError("\n".join(report.shortages))
                emit(_run_started(context, report))
                for note in (*context.notes, *report.notes):
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
    seconds, notes = time.perf_counter() - started, tuple(str(note) for note in told)
    return replace(result, run_id=record.run_id, tracking_uri=uri, seconds=seconds, notes=notes)


def validate(recipe: str | Path, *, out: str | Path | None = None, sets: Mapping[str, Any] | None = None) -> Validation:
    """Check everything that needs no tensor data; raises the package's errors. Builds, downloads and writes nothing.

    ``notes`` also tell where the results would not fit on the disk of ``out``.
    """
    loaded = load_recipe(recipe, sets or {})
    graph = build_graph(loaded)
    destination = outputs.planned_destination(outputs.place(loaded, out))
    outputs.check_outputs(graph, destination.folder)
    with open_recipe(loaded, graph, engine_settings(loaded), True, broadcast(), build=False) as context:
        report = None if context.unread else _forecast(context, destination)
    found = (*report.notes, *report.shortages) if report else ()
    return Validation(loaded.name, len(graph.steps), (*context.notes, *found))


def plan(
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
) -> PlanReport:
    """What a run would do, from headers alone. Builds, downloads and writes nothing."""
    from lines_pipeline.search.tune import trial_count

    loaded = load_recipe(recipe, sets or {})
    graph = build_graph(loaded)
    settings = engine_settings(loaded, scheduler, workers, memory, device)
    trials = trial_count(loaded.tune) if loaded.tune and tune else 0
    destination = outputs.planned_destination(outputs.place(loaded, out))
    outputs.check_outputs(graph, destination.folder)
    with open_recipe(loaded, graph, settings, cache, broadcast(), build=False) as context:
        if context.unread:
            raise CheckpointError(f"the plan needs headers that are not on this machine yet: {context.notes[0]}")
        report = _forecast(context, destination, trials)
        return replace(report, notes=(*context.notes, *report.notes))


def _forecast(context: OpenedRecipe, destination: outputs.Destination, trials: int = 0) -> PlanReport:
    graph = context.graph
    models = [s.inputs["model"][0] for s in graph.steps.values() if isinstance(s.params, EvaluateParams)]
    wanted = outputs.requests(context.recipe, graph, destination, context.session.checkpoints)
    report = forecast(context.recipe, graph, context.session, list(wanted.values()), models, trials)
    return replace(report, notes=(*report.notes, *outputs.notes(wanted)))


def graph(recipe: str | Path, *, sets: Mapping[str, Any] | None = None, form: str = "mmd") -> str:
    """The DAG as Mermaid text (``mmd``) or ``svg``."""
    built = build_graph(load_recipe(recipe, sets or {}))
    return svg(built) if form == "svg" else mermaid(built)


def _run_started(context: OpenedRecipe, report: PlanReport) -> RunStarted:
    from lines_pipeline.tracking.mlflow import environment_tags

    recipe, graph = context.recipe, context.graph
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


def _carry_out(context: OpenedRecipe, destination: outputs.Destination, tune: bool) -> RunResult:
    session, judge = context.session, Judge(context.session, context.recipe.folder)
    soups = GreedySoups(judge)
    chosen: Mapping[str, Any] = {}
    if tune and context.recipe.tune is not None:
        chosen = tune_recipe(context.recipe, judge, soups.settle).values
        context.recipe = context.recipe.with_values(chosen)
        context.graph = build_graph(context.recipe)
    context.graph = soups.settle(context.graph)
    wanted = outputs.requests(context.recipe, context.graph, destination, session.checkpoints)
    for folder in dict.fromkeys(folder for request in wanted.values() for folder in folders_of(request)):
        sweep_temporaries(folder)
    before = {step for step, request in wanted.items() if existing(session, context.graph, request)}
    if before != wanted.keys():
        require_output(destination.folder)
    evaluated = [s for s in context.graph.sinks if context.graph.steps[s].op.name == "evaluate"]
    models = judge.unjudged_models(context.graph, evaluated)
    stored, facts = store(session, context.graph, [*wanted.values(), *(Request(model) for model in models)])
    written = outputs.deliver(session, destination, dict(zip(wanted, stored, strict=False)), before)
    session.emit(InputsIdentified({step: session.digests[step] for step in sorted(session.digests)}))
    for step, found in facts.items():
        session.emit(FactsComputed(step, found))
    for scales in block_scales(context.graph, session, facts):
        session.emit(scales)
    metrics = judge.judge(context.graph, evaluated)
    destination.renew(outputs.write_cards(context.graph, wanted, session.digests, metrics))
    files = tuple(location for location in written if isinstance(location, Path))
    urls = tuple(location for location in written if isinstance(location, str))
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
