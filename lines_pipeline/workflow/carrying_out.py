"""Carries out an opened recipe: chooses values, writes files, has drivers give metrics, and tells what was found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.events import InputsIdentified, Note, Sink, SummaryComputed, TableComputed
from lines_pipeline.core.types import EdgeType
from lines_pipeline.executor import outputs
from lines_pipeline.executor.explain import block_scales, explain_with_room
from lines_pipeline.executor.inputs import OpenedRecipe, open_recipe
from lines_pipeline.executor.materialising import OutputRequest, Stored, existing, folders_of, materialise
from lines_pipeline.executor.schedulers.opening import open_scheduler
from lines_pipeline.executor.variances import variance_note
from lines_pipeline.io.folders import require_output
from lines_pipeline.io.temporaries import sweep_temporaries
from lines_pipeline.planner.explain import Explanation
from lines_pipeline.planner.summaries import gather_summaries, shown_figures
from lines_pipeline.recipe.binding.tuning import TRIALS_FOLDER
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.results import RunResult
from lines_pipeline.search.drivers import Drivers
from lines_pipeline.search.tune import Chosen
from lines_pipeline.search.tune import tune as tune_recipe
from lines_pipeline.workflow.deriving import Derivations
from lines_pipeline.workflow.explaining import explain_outputs
from lines_pipeline.workflow.figure_files import FigureFiles
from lines_pipeline.workflow.preparing import ReadyRecipe
from lines_pipeline.workflow.trial_figures import plain_trials, trial_figures


@contextmanager
def opened_for_run(ready: ReadyRecipe, emit: Sink) -> Iterator[tuple[OpenedRecipe, outputs.OutputFolder]]:
    """Open the output folder, the scheduler and every input; what is not on this machine is built or downloaded."""
    recipe, graph, options = ready.recipe, ready.graph, ready.options
    with (
        outputs.open_destination(ready.place) as destination,
        open_scheduler(ready.settings, recipe.secrets, graph.plugins) as scheduler,
    ):
        outputs.require_writable(outputs.check_outputs(graph, destination.folder), destination.folder)
        with open_recipe(
            recipe, graph, ready.settings, options.cache, emit, build=True, trust=options.trust, scheduler=scheduler
        ) as context:
            yield context, destination


def explain_with_space(context: OpenedRecipe, destination: outputs.OutputFolder) -> Explanation:
    """Explain the run, making room in the cache where that helps; ``PlanError`` where a disk is too small."""
    report = explain_outputs(context, destination, by=explain_with_room)
    if report.shortages:
        raise PlanError("\n".join(report.shortages))
    return report


def carry_out(context: OpenedRecipe, destination: outputs.OutputFolder, *, tune: bool) -> RunResult:
    """Carry out a recipe, and return what it gave; the run's record and time are added by ``RunEvents.complete``."""
    drivers, figures = Drivers.of(context.session, context.recipe.folder), FigureFiles(context, destination)
    chosen = _choose(context, drivers, figures, tune=tune)
    files_made = _make(context, destination, drivers)
    _emit_findings(context, files_made.summaries)
    metrics = drivers.metrics(context.graph)
    derivations = Derivations(context, figures, drivers, dict(metrics), dict(drivers.units))
    derivations.carry_out()
    locations = [*files_made.locations, *figures.locations]
    facts = gather_summaries(context.graph, files_made.summaries)
    digests, secrets = context.session.digests, context.recipe.secrets
    destination.renew(outputs.write_cards(context.graph, files_made.requests, digests, metrics, secrets=secrets))
    if unwritten := context.session.cache.unwritten:
        context.session.emit(Note(f"{unwritten}; what this run learnt is not kept for later runs", warning=True))
    return RunResult(
        name=context.recipe.name,
        out=destination.out,
        metrics=derivations.metrics,
        files=tuple(location for location in locations if isinstance(location, Path)),
        urls=tuple(location for location in locations if isinstance(location, str)),
        facts=facts,
        run_id="",
        tracking_uri="",
        chosen=chosen.values if chosen else {},
        trials=plain_trials(chosen.trials) if chosen else (),
        cached=(*sorted(files_made.before), *drivers.cached),
        seconds=0.0,
        units=derivations.units,
        computed=shown_figures(context.graph, facts),
    )


def _choose(context: OpenedRecipe, drivers: Drivers, files: FigureFiles, *, tune: bool) -> Chosen | None:
    """Replace tuned values, and steps with a driver, in the context by what was found; return what was tuned."""
    chosen: Chosen | None = None
    if tune and context.recipe.tune is not None:
        chosen = tune_recipe(context.recipe, drivers)
        files.write(TRIALS_FOLDER, trial_figures(chosen.trials, context.recipe.tune.objective))
        context.session.emit(TableComputed("tune/trials", plain_trials(chosen.trials)))
        context.recipe = context.recipe.with_values(chosen.values)
        context.graph = build_graph(context.recipe)
    context.graph = drivers.resolve(context.graph)
    return chosen


@dataclass(frozen=True)
class _Made:
    """Holds what became of the requested files."""

    requests: Mapping[str, OutputRequest]
    before: frozenset[str]
    """Save steps whose files were there already."""
    locations: Iterable[Path | str]
    summaries: Mapping[str, Mapping[str, Any]]


def _make(context: OpenedRecipe, destination: outputs.OutputFolder, drivers: Drivers) -> _Made:
    """Write the files of ``save`` nodes, and the models that metrics wait for."""
    session, graph = context.session, context.graph
    requests = outputs.requests(context.recipe, graph, destination, session.checkpoints)
    for folder in dict.fromkeys(folder for request in requests.values() for folder in folders_of(request)):
        sweep_temporaries(folder)
    before = {step for step, request in requests.items() if existing(session, graph, request)}
    if before != requests.keys():
        require_output(destination.folder)
    steps = [request.step for request in requests.values()] + list(graph.measured_models)
    all_requests = [*requests.values(), *(OutputRequest(model) for model in drivers.unmade_models(graph))]
    stored, summaries = materialise(session, graph, all_requests, steps)
    _note_variances(context, all_requests, stored)
    locations = outputs.deliver(session, destination, dict(zip(requests, stored, strict=False)), before)
    return _Made(requests, frozenset(before), locations, summaries)


def _note_variances(context: OpenedRecipe, asked: Iterable[OutputRequest], stored: Iterable[Stored]) -> None:
    for request, value in zip(asked, stored, strict=True):
        gives_weights = context.graph.steps[request.step].gives is EdgeType.WEIGHTS
        if gives_weights and (note := variance_note(request.step, value.weights)):
            context.session.emit(note)


def _emit_findings(context: OpenedRecipe, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Emit the digests of the inputs, the summaries of steps, and the factor of every block."""
    session = context.session
    session.emit(InputsIdentified({step: session.digests[step] for step in sorted(session.digests)}))
    for step, summary in summaries.items():
        session.emit(SummaryComputed(step, summary))
    for scales in block_scales(context.graph, session, summaries.keys()):
        session.emit(scales)
