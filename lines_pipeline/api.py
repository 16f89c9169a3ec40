"""The use cases, each a list of steps; the steps themselves are in ``workflow`` and below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lines_pipeline.cache.report import CacheReport, cache_list, cache_prune, cache_verify
from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.core.events import Note, Sink, broadcast
from lines_pipeline.core.logs import hiding
from lines_pipeline.executor.inputs import locate_checkpoint
from lines_pipeline.graph.picture import mermaid, svg
from lines_pipeline.io.opening import open_leniently
from lines_pipeline.planner.explain import Explanation
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.results import RunResult, Validation
from lines_pipeline.workflow.carrying_out import carry_out, explain_with_space, opened_for_run
from lines_pipeline.workflow.explaining import explain_outputs
from lines_pipeline.workflow.options import RunKeywords, RunOptions, merged_options, shows_options
from lines_pipeline.workflow.preparing import read_recipe, ready_recipe
from lines_pipeline.workflow.run_events import run_events
from lines_pipeline.zoo.catalogue import ZOOS, is_sound
from lines_pipeline.zoo.catalogue import locate as locate_in_zoo
from lines_pipeline.zoo.entries import Zoo, ZooEntry, cache_folder

if TYPE_CHECKING:
    from lines_pipeline.tracking.sync import SyncReport


@shows_options
def run(
    recipe: str | Path | Recipe,
    options: RunOptions | None = None,
    *,
    sinks: Sequence[Sink | str] = (),
    **keywords: Unpack[RunKeywords],
) -> RunResult:
    """Carry out a recipe, as ``options`` say, or keyword arguments that are named as the fields of ``RunOptions``.

    ``sinks`` receive the events of ``core.events``: functions, or names of those that installed packages offer
    (``NAME``, ``NAME=TEXT``). Raises the package's ``LinesError``s. A store that fails while the run goes on does not
    end it.
    """
    from lines_pipeline.tracking.opening import open_record
    from lines_pipeline.tracking.plugin_sinks import open_sinks

    opened, asked = open_sinks(sinks), merged_options(options, **keywords)
    with ready_recipe(recipe, asked) as ready:
        secrets = ready.recipe.secrets
        record = open_record(ready.recipe, ready.place, asked.tracking_uri) if asked.tracking else None
        with (
            run_events(secrets, record, opened) as events,
            opened_for_run(ready, events.emit) as (context, destination),
        ):
            events.begin(context, explain_with_space(context, destination))
            result = carry_out(context, destination, tune=asked.tune)
        return events.complete(result)


@shows_options
def validate(
    recipe: str | Path | Recipe, options: RunOptions | None = None, **keywords: Unpack[RunKeywords]
) -> Validation:
    """Check everything that needs no tensor data; raises the package's errors. Builds, downloads and writes nothing.

    ``notes`` also tell where the results would not fit on the disk of ``out``. Python that suites name is found and
    noted, but not imported.
    """
    with (
        ready_recipe(recipe, merged_options(options, **keywords)) as ready,
        ready.unopened_output() as (context, destination),
    ):
        report = None if context.unread else explain_outputs(context, destination)
        notes = (*report.notes, *report.shortages) if report else ()
        warnings = report.warnings if report else ()
        validation = Validation(ready.recipe.name, len(ready.graph.steps), (*context.notes, *notes), warnings)
        return ready.recipe.secrets.hidden(validation)


@shows_options
def plan(
    recipe: str | Path | Recipe, options: RunOptions | None = None, **keywords: Unpack[RunKeywords]
) -> Explanation:
    """Explain what a run would do, from headers alone. Builds, downloads and writes nothing."""
    from lines_pipeline.search.tune import trial_count

    asked = merged_options(options, **keywords)
    with ready_recipe(recipe, asked) as ready, ready.unopened_output() as (context, destination):
        if context.unread:
            raise CheckpointError(
                f"the plan needs headers that are not on this machine yet: {next(iter(context.unread.values()))}"
            )
        trials = trial_count(ready.recipe.tune) if ready.recipe.tune and asked.tune else 0
        report = explain_outputs(context, destination, trials)
        return ready.recipe.secrets.hidden(replace(report, notes=(*context.notes, *report.notes)))


def graph(recipe: str | Path | Recipe, *, sets: Mapping[str, Any] | None = None, form: str = "mmd") -> str:
    """Draw the DAG as Mermaid text (``mmd``) or as ``svg``."""
    loaded = read_recipe(recipe, sets)
    with hiding(loaded.secrets):
        built = build_graph(loaded)
        return loaded.secrets.hide(svg(built) if form == "svg" else mermaid(built))


def sync(folders: Sequence[str | Path] = (), *, tracking_uri: str | None = None) -> SyncReport:
    """Send the records that a store could not take: those in ``folders``, or all that this user's runs left."""
    from lines_pipeline.tracking.sync import sync as sync_records

    return sync_records([Path(folder) for folder in folders], tracking_uri)


def inspect(path: str | Path, *, headers: bool = False, key: str = "") -> dict[str, Any]:
    """Summarize a checkpoint: digest, tensors, data types, blocks, norms; with ``headers`` no tensor is read."""
    from lines_pipeline.io.inspection import summarize

    located = locate_checkpoint(str(path), Path())
    local = located.path if not isinstance(located, ZooEntry) or is_sound(located) else located.template
    if local is None:
        raise CheckpointError(f"{path}: not on this machine yet; a run that loads it downloads it")
    spool = None if headers else cache_folder() / "nodes" / "spool"
    return summarize(open_leniently(Path(local), uri=str(path), spool=spool, key=key), headers=headers)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes, for editors."""
    from lines_pipeline.recipe.binding.json_schema import json_schema

    return json_schema()


def catalogue() -> list[dict[str, Any]]:
    """Describe every op: formula, inputs, parameters, source."""
    from lines_pipeline.ops.catalogue import describe_ops

    return describe_ops()


def zoo_list(zoo: str = "glyphs") -> list[dict[str, Any]]:
    """List the checkpoints of an embedded zoo (``glyphs@base1-seed2``: of a choice), and which of them are built."""
    entries = [locate_in_zoo(f"zoo://{zoo}/{name}") for name in _zoo(zoo).names]
    return [{"uri": entry.uri, "built": entry.built, "path": str(entry.path)} for entry in entries]


def zoo_build(sinks: Sequence[Sink] = (), *, zoo: str = "glyphs") -> list[Path]:
    """Build every expert of a zoo that is missing or damaged; first fetch what it reads, after telling the licence."""
    from lines_pipeline.zoo.build import build as build_experts
    from lines_pipeline.zoo.texts.sources import fetch_all

    if zoo.partition("@")[0] == "texts":
        fetch_all(lambda text: broadcast(*sinks)(Note(text)))
    return build_experts([entry["uri"] for entry in zoo_list(zoo)], broadcast(*sinks))


def _zoo(zoo: str) -> Zoo:
    name, _, _ = zoo.partition("@")
    if name not in ZOOS:
        raise CheckpointError(f"there is no zoo '{name}'{did_you_mean(name, ZOOS)}. There are: {', '.join(ZOOS)}")
    return ZOOS[name]


__all__ = [
    "CacheReport",
    "Explanation",
    "RunOptions",
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
