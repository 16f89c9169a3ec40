"""The Python API and composition root: recipe -> graph -> checkpoints -> (tune) -> merge -> evaluate -> sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lines_pipeline.cache.report import CacheReport, cache_list, cache_prune, cache_verify
from lines_pipeline.core.errors import CheckpointError, PlanError
from lines_pipeline.core.events import (
    InputsIdentified,
    Note,
    RunFinished,
    Sink,
    SummaryComputed,
    broadcast,
    hidden_from,
)
from lines_pipeline.core.logs import hiding
from lines_pipeline.core.types import EdgeType
from lines_pipeline.evaluation.evaluator import Evaluator
from lines_pipeline.executor import outputs
from lines_pipeline.executor.explain import block_scales, explain, explain_with_room
from lines_pipeline.executor.inputs import OpenedRecipe, locate_checkpoint, open_recipe
from lines_pipeline.executor.materialising import OutputRequest, existing, folders_of, materialise
from lines_pipeline.executor.schedulers.opening import open_scheduler
from lines_pipeline.executor.settings import engine_settings
from lines_pipeline.executor.variances import variance_note
from lines_pipeline.graph.graph import Graph
from lines_pipeline.graph.picture import mermaid, svg
from lines_pipeline.io.folders import require_output
from lines_pipeline.io.opening import open_leniently
from lines_pipeline.io.temporaries import sweep_temporaries
from lines_pipeline.planner.explain import Explanation, describe_layers
from lines_pipeline.planner.memory import EngineSettings
from lines_pipeline.planner.summaries import gather_summaries
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.stock import find_recipe
from lines_pipeline.recipe.trusting import load_checked
from lines_pipeline.results import RunResult, Validation
from lines_pipeline.search.drivers import Drivers
from lines_pipeline.search.tune import tune as tune_recipe
from lines_pipeline.suites.declaring import declared_metrics
from lines_pipeline.zoo.catalogue import ZooEntry, cache_folder, is_sound
from lines_pipeline.zoo.catalogue import locate as locate_in_zoo

if TYPE_CHECKING:
    from lines_pipeline.tracking.opening import OpenRecord
    from lines_pipeline.tracking.sync import SyncReport


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
    tracking: bool = True,
    sinks: Sequence[Sink | str] = (),
) -> RunResult:
    """Carry out a recipe; raises the package's ``LinesError``s.

    ``sinks`` receive the events of ``core.events``: functions, or names of those that installed packages offer
    (``NAME``, ``NAME=TEXT``).

    ``trust`` lets it run Python that it and its suites name, and name other machines, wherever it lies. With
    ``tracking`` off there is no record of the run. A store that fails while it goes on does not end it.
    """
    from lines_pipeline.tracking.opening import open_record
    from lines_pipeline.tracking.plugin_sinks import open_sinks

    opened = open_sinks(sinks)
    loaded, graph = load_checked(find_recipe(recipe), sets or {}, trust=trust, declared=declared_metrics)
    with hiding(loaded.secrets):
        settings, place = engine_settings(loaded, scheduler, workers, memory, device), outputs.place(loaded, out)
        record = open_record(loaded, place, tracking_uri) if tracking else None  # before anything is read
        return _recorded(loaded, graph, settings, place, record, tune=tune, cache=cache, trust=trust, sinks=opened)


def _recorded(
    loaded: Recipe,
    graph: Graph,
    settings: EngineSettings,
    place: str | Path,
    record: OpenRecord | None,
    *,
    tune: bool,
    cache: bool,
    trust: bool,
    sinks: Sequence[Sink],
) -> RunResult:
    """Carry out an open recipe; ``record``, where there is one, is told of it, and how it ends."""
    from lines_pipeline.tracking.plugin_sinks import warn_of_failures

    started = time.perf_counter()
    told_notes: list[Note] = []
    told = broadcast(*sinks, lambda event: told_notes.append(event) if isinstance(event, Note) else None)
    emit = hidden_from(loaded.secrets, told if record is None else record.beside(told))
    warn_of_failures(sinks, emit)
    status, error = "FAILED", ""
    try:
        with (
            outputs.open_destination(place) as destination,
            open_scheduler(settings, loaded.secrets, graph.plugins) as work,
        ):
            outputs.require_writable(outputs.check_outputs(graph, destination.folder), destination.folder)
            with open_recipe(loaded, graph, settings, cache, emit, build=True, trust=trust, scheduler=work) as context:
                report = _forecast(context, destination, by=explain_with_room)
                if report.shortages:
                    raise PlanError("\n".join(report.shortages))
                if record is not None:
                    emit(record.started(context.recipe, context.graph, _texts(context, report)))
                for note in (*context.notes, *report.notes):
                    emit(Note(note))
                for warning in report.warnings:
                    emit(Note(warning, warning=True))
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
    run_id, uri = (record.run_id, record.uri) if record else ("", "")
    seconds, texts = time.perf_counter() - started, tuple(str(note) for note in told_notes)
    return replace(result, run_id=run_id, tracking_uri=uri, seconds=seconds, notes=texts, secrets=loaded.secrets)


def validate(
    recipe: str | Path,
    *,
    out: str | Path | None = None,
    sets: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Validation:
    """Check everything that needs no tensor data; raises the package's errors. Builds, downloads and writes nothing.

    ``notes`` also tell where the results would not fit on the disk of ``out``. Python that suites name is found and
    noted, but not imported.
    """
    loaded, graph = load_checked(find_recipe(recipe), sets or {}, trust=trust, declared=declared_metrics)
    with hiding(loaded.secrets):
        settings = engine_settings(loaded)
        destination = outputs.planned_destination(outputs.place(loaded, out))
        outputs.check_outputs(graph, destination.folder)
        with open_recipe(loaded, graph, settings, True, broadcast(), build=False, trust=trust) as context:
            report = None if context.unread else _forecast(context, destination)
            found = (*report.notes, *report.shortages) if report else ()
        warnings = report.warnings if report else ()
        return loaded.secrets.hidden(Validation(loaded.name, len(graph.steps), (*context.notes, *found), warnings))


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
    trust: bool = False,
) -> Explanation:
    """What a run would do, from headers alone. Builds, downloads and writes nothing."""
    from lines_pipeline.search.tune import trial_count

    loaded, graph = load_checked(find_recipe(recipe), sets or {}, trust=trust, declared=declared_metrics)
    with hiding(loaded.secrets):
        settings = engine_settings(loaded, scheduler, workers, memory, device)
        trials = trial_count(loaded.tune) if loaded.tune and tune else 0
        destination = outputs.planned_destination(outputs.place(loaded, out))
        outputs.check_outputs(graph, destination.folder)
        with open_recipe(loaded, graph, settings, cache, broadcast(), build=False, trust=trust) as context:
            if context.unread:
                raise CheckpointError(
                    f"the plan needs headers that are not on this machine yet: {next(iter(context.unread.values()))}"
                )
            report = _forecast(context, destination, trials)
            return loaded.secrets.hidden(replace(report, notes=(*context.notes, *report.notes)))


def _forecast(
    context: OpenedRecipe,
    destination: outputs.OutputFolder,
    trials: int = 0,
    *,
    by: Callable[..., Explanation] = explain,
) -> Explanation:
    graph = context.graph
    models = [model for step in graph.evaluations if (model := graph.steps[step].followed)]
    wanted = outputs.requests(context.recipe, graph, destination, context.session.checkpoints)
    report = by(context.recipe, graph, context.session, list(wanted.values()), models, trials)
    return replace(report, notes=(*report.notes, *outputs.notes(wanted)))


def graph(recipe: str | Path, *, sets: Mapping[str, Any] | None = None, form: str = "mmd") -> str:
    """The DAG as Mermaid text (``mmd``) or ``svg``."""
    loaded = load_recipe(find_recipe(recipe), sets or {})
    with hiding(loaded.secrets):
        built = build_graph(loaded)
        return loaded.secrets.hide(svg(built) if form == "svg" else mermaid(built))


def _texts(context: OpenedRecipe, report: Explanation) -> dict[str, str]:
    """The artifacts that tell what will run."""
    recipe, graph = context.recipe, context.graph
    return {
        "recipe.yaml": recipe.source,
        "resolved.yaml": recipe.resolved(),
        "plan.txt": report.render(),
        "graph.svg": svg(graph),
        "graph.mmd": mermaid(graph),
        "layers.json": describe_layers(report),
        **{f"plugins/{name}": text for name, text in recipe.plugins.texts().items()},
    }


def _carry_out(context: OpenedRecipe, destination: outputs.OutputFolder, tune: bool) -> RunResult:
    session, evaluator = context.session, Evaluator(context.session, context.recipe.folder)
    drivers = Drivers(evaluator)
    chosen: Mapping[str, Any] = {}
    if tune and context.recipe.tune is not None:
        chosen = tune_recipe(context.recipe, evaluator, drivers.resolve).values
        context.recipe = context.recipe.with_values(chosen)
        context.graph = build_graph(context.recipe)
    context.graph = drivers.resolve(context.graph)
    wanted = outputs.requests(context.recipe, context.graph, destination, session.checkpoints)
    for folder in dict.fromkeys(folder for request in wanted.values() for folder in folders_of(request)):
        sweep_temporaries(folder)
    before = {step for step, request in wanted.items() if existing(session, context.graph, request)}
    if before != wanted.keys():
        require_output(destination.folder)
    evaluated = context.graph.evaluations
    models = evaluator.unjudged_models(context.graph, evaluated)
    told = [request.step for request in wanted.values()] + evaluator.models(context.graph, evaluated)
    asked = [*wanted.values(), *(OutputRequest(model) for model in models)]
    stored, facts = materialise(session, context.graph, asked, told)
    for request, value in zip(asked, stored, strict=True):
        gives_weights = context.graph.steps[request.step].gives is EdgeType.WEIGHTS
        if gives_weights and (note := variance_note(request.step, value.weights)):
            session.emit(note)
    written = outputs.deliver(session, destination, dict(zip(wanted, stored, strict=False)), before)
    session.emit(InputsIdentified({step: session.digests[step] for step in sorted(session.digests)}))
    for step, found in facts.items():
        session.emit(SummaryComputed(step, found))
    for scales in block_scales(context.graph, session, facts.keys()):
        session.emit(scales)
    metrics = evaluator.evaluate(context.graph, evaluated)
    secrets = context.recipe.secrets
    destination.renew(outputs.write_cards(context.graph, wanted, session.digests, metrics, secrets=secrets))
    files = tuple(location for location in written if isinstance(location, Path))
    urls = tuple(location for location in written if isinstance(location, str))
    cached = (*sorted(before), *evaluator.cached)
    by_node = gather_summaries(context.graph, facts)
    if session.cache.unwritten:
        session.emit(Note(f"{session.cache.unwritten}; what this run learnt is not kept for later runs", warning=True))
    result = RunResult(context.recipe.name, destination.out, metrics, files, urls, by_node, "", "", chosen, cached, 0.0)
    return replace(result, units=evaluator.units)


def sync(folders: Sequence[str | Path] = (), *, tracking_uri: str | None = None) -> SyncReport:
    """Send the records that a store could not take: those in ``folders``, or all that this user's runs left."""
    from lines_pipeline.tracking.sync import sync as sync_records

    return sync_records([Path(folder) for folder in folders], tracking_uri)


def inspect(path: str | Path, *, headers: bool = False, key: str = "") -> dict[str, Any]:
    """What a checkpoint holds: digest, tensors, data types, blocks, norms; with ``headers`` no tensor is read."""
    from lines_pipeline.io.inspection import summarize

    located = locate_checkpoint(str(path), Path())
    local = located.path if not isinstance(located, ZooEntry) or is_sound(located) else located.template
    if local is None:
        raise CheckpointError(f"{path}: not on this machine yet; a run that loads it downloads it")
    spool = None if headers else cache_folder() / "nodes" / "spool"
    return summarize(open_leniently(Path(local), uri=str(path), spool=spool, key=key), headers=headers)


def schema() -> dict[str, Any]:
    """JSON Schema of recipes, for editors."""
    from lines_pipeline.recipe.binding.json_schema import json_schema

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
    """Build every expert that is missing or damaged."""
    from lines_pipeline.zoo.build import build as build_experts
    from lines_pipeline.zoo.catalogue import TASKS

    return build_experts([f"zoo://glyphs/{task}" for task in TASKS], broadcast(*sinks))


__all__ = [
    "CacheReport",
    "Explanation",
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
    "sync",
    "validate",
    "zoo_build",
    "zoo_list",
]
