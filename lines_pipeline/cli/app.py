"""The command line: arguments to the API, results to tables, errors to exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lines_pipeline.cli import commands
from lines_pipeline.cli.commands import Json, print_json
from lines_pipeline.core.errors import LinesError
from lines_pipeline.core.garbage import collect_seldom
from lines_pipeline.core.printable import printable_message
from lines_pipeline.core.secrets import without_credentials
from lines_pipeline.core.streams import keep_streams
from lines_pipeline.workflow.options import RunOptions

if TYPE_CHECKING:
    from lines_pipeline.core.events import Sink
    from lines_pipeline.recipe.recipe import Recipe

app = typer.Typer(
    name="lines-pipeline",
    help="Merge fine-tuned models from version-controlled recipes, tensor by tensor, in bounded memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="Override a value: nodes.scaled.beta=0.4.")
]
Out = Annotated[str | None, typer.Option(help="Folder, or s3:// URL; default runs/<name>.")]
Scheduler = Annotated[str | None, typer.Option(help="threads, serial, or a Dask scheduler's address.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Tasks at a time.")]
Memory = Annotated[str | None, typer.Option(help="Cap on anonymous memory: 4GB.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
NoTune = Annotated[bool, typer.Option("--no-tune", help="Use the values as written.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Look nothing up in the cache.")]
NoTracking = Annotated[bool, typer.Option("--no-tracking", help="Keep no record of the run in MLflow.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow store; default sqlite:///mlflow.db.")]
Events = Annotated[Path | None, typer.Option(metavar="FILE", help="Append what happens to FILE, as lines of JSON.")]
Sinks = Annotated[
    list[str] | None, typer.Option("--sink", metavar="NAME[=TEXT]", help="Also tell a sink that a package offers.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also what it decides, opens and finds in the cache.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes: errors and the results.")]

Trust = Annotated[bool, typer.Option("--trust", help="Let it run Python that it names, wherever it lies.")]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=commands.show_version, is_eager=True, help="Show the version, and end."),
    ] = False,
) -> None:
    """Show the version where it is asked for, before any command."""


@app.command()
def run(
    recipe: RecipePath,
    sets: Sets = None,
    out: Out = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    memory: Memory = None,
    device: Device = None,
    no_tune: NoTune = False,
    no_cache: NoCache = False,
    trust: Trust = False,
    tracking_uri: TrackingUri = None,
    no_tracking: NoTracking = False,
    events: Events = None,
    sinks: Sinks = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Carry out a recipe."""
    _exclude_each_other(quiet, verbose)
    options = RunOptions(
        out=out,
        sets=_parse(sets),
        scheduler=scheduler,
        workers=workers,
        memory=memory,
        device=device,
        tune=not no_tune,
        cache=not no_cache,
        trust=trust,
        tracking_uri=tracking_uri,
        tracking=not no_tracking,
    )
    loaded = _read(recipe, options)
    from lines_pipeline import api
    from lines_pipeline.cli import render

    with _told(events, quiet=quiet, verbose=verbose) as own_sinks:
        result = api.run(loaded, options, sinks=[*own_sinks, *(sinks or [])])
    if as_json:
        print_json(result.to_dict())
    else:
        render.show_result(result)


def _read(path: Path, options: RunOptions) -> Recipe:
    """Read the recipe of a run, and let the recorder prepare its store meanwhile: torch is not loaded yet."""
    from lines_pipeline.recipe.load import load_recipe
    from lines_pipeline.recipe.stock import find_recipe

    recipe = load_recipe(find_recipe(path), options.sets or {}, trust=options.trust)
    if options.tracking:
        from lines_pipeline.recipe.trusting import require_trusted
        from lines_pipeline.tracking.recorder import expect_run

        require_trusted(recipe, trust=options.trust)  # before its store is looked at
        expect_run(recipe, options.tracking_uri)
    return recipe


@contextmanager
def _told(events: Path | None, *, quiet: bool, verbose: bool) -> Iterator[list[Sink]]:
    """Yield the sinks of a run: the console unless ``quiet``, and a file if one is named."""
    from rich.console import Console

    from lines_pipeline.tracking.console import log_lines, progress
    from lines_pipeline.tracking.json_lines import JsonLinesSink

    written: list[Sink] = [] if events is None else [JsonLinesSink(events)]
    if quiet:
        yield written
        return
    console = Console(stderr=True)
    with log_lines(console) if verbose else nullcontext(), progress(console) as sink:
        yield [*written, sink]


@contextmanager
def _log(*, verbose: bool) -> Iterator[None]:
    """Show on standard error what the package logs meanwhile, if that is asked for."""
    if not verbose:
        yield
        return
    from rich.console import Console

    from lines_pipeline.tracking.console import log_lines

    with log_lines(Console(stderr=True)):
        yield


@app.command()
def validate(
    recipe: RecipePath,
    sets: Sets = None,
    out: Out = None,
    trust: Trust = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check everything that needs no tensor data."""
    from lines_pipeline import api

    _exclude_each_other(quiet, verbose)
    with _log(verbose=verbose):
        validation = api.validate(recipe, RunOptions(out=out, sets=_parse(sets), trust=trust))
    lines = [*(f"warning: {text}" for text in validation.warnings), *(f"note: {text}" for text in validation.notes)]
    for text in lines if not quiet else ():
        typer.echo(printable_message(text))
    typer.echo(f"{validation.name}: valid, {validation.steps} steps")


@app.command()
def plan(
    recipe: RecipePath,
    sets: Sets = None,
    out: Out = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    memory: Memory = None,
    device: Device = None,
    no_tune: NoTune = False,
    no_cache: NoCache = False,
    trust: Trust = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Tell what a run would do: stages, bytes, memory, cache, the scale of every block."""
    from lines_pipeline import api

    options = RunOptions(
        out=out,
        sets=_parse(sets),
        scheduler=scheduler,
        workers=workers,
        memory=memory,
        device=device,
        tune=not no_tune,
        cache=not no_cache,
        trust=trust,
    )
    with _log(verbose=verbose):
        report = api.plan(recipe, options)
    if as_json:
        print_json(report.to_dict())
    else:
        typer.echo(report.render(), nl=False)


@app.command()
def graph(
    recipe: RecipePath,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="FILE.svg or FILE.mmd; default stdout.")] = None,
) -> None:
    """Draw the recipe's graph."""
    from lines_pipeline import api

    if out is not None and out.suffix not in (".svg", ".mmd"):
        raise typer.BadParameter(f"'{out}': expected a file ending in .svg or .mmd")
    text = api.graph(recipe, sets=_parse(sets), form=out.suffix[1:] if out else "mmd")
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text, encoding="utf-8")


app.command()(commands.schema)
app.command()(commands.ops)
app.command()(commands.recipes)
app.command()(commands.trust)


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(help="A file, a folder or a zoo:// URL.", show_default=False)],
    headers: Annotated[bool, typer.Option("--headers", help="Read headers only: no digest, no norms.")] = False,
    key: Annotated[str, typer.Option(help="State dict of a torch file that nests several.", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Tell what a checkpoint holds: digest, tensors, data types, blocks, norms."""
    from lines_pipeline import api
    from lines_pipeline.cli import render

    show = print_json if as_json else render.show_checkpoint
    show(api.inspect(checkpoint, headers=headers, key=key))


app.command()(commands.zoo)
app.command()(commands.cache)


@app.command()
def sync(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Output folders; default all.", show_default=False),
    ] = None,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Send the records of runs that their MLflow store could not take (exit 1 where it still cannot)."""
    from lines_pipeline import api
    from lines_pipeline.cli import render

    report = api.sync(folders or [], tracking_uri=tracking_uri)
    if as_json:
        print_json(report.to_dict())
    else:
        render.show_sync(report)
    for trouble in report.troubles:
        typer.echo(f"error: {trouble}", err=True)
    if report.troubles:
        raise typer.Exit(1)


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Run ids, names or recipes' names.", show_default=False)
    ],
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Show MLflow runs side by side, what differs first. NAME NAME are the two latest runs of that name."""
    from lines_pipeline.cli import render
    from lines_pipeline.tracking.comparison import compare as compare_runs
    from lines_pipeline.tracking.stores import resolve_uri

    if len(runs) < 2:
        raise typer.BadParameter("name at least two runs")
    comparison = compare_runs(runs, resolve_uri(tracking_uri))
    for note in comparison.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        print_json(comparison.to_dict())
    else:
        render.show_comparison(comparison)


def _exclude_each_other(quiet: bool, verbose: bool) -> None:
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other")


def _parse(sets: list[str] | None) -> dict[str, Any]:
    from lines_pipeline.recipe.syntax.overrides import parse_set

    return dict(parse_set(text) for text in sets or [])


def main() -> None:
    """Run the command line; a user's mistake never ends in a traceback."""
    collect_seldom()
    keep_streams()
    try:
        if sys.argv[1:2] == ["run"] and not {"--help", "--no-tracking"} & set(sys.argv):
            from lines_pipeline.tracking.recorder import recorder

            recorder()  # loads MLflow, the longest part of a small merge, while this process loads what it needs
        app()
    except LinesError as error:
        typer.echo(f"error: {without_credentials(printable_message(str(error)))}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except SystemExit as end:  # what Typer makes of Ctrl-C, without a word
        if end.code == INTERRUPTED:
            typer.echo("interrupted", err=True)
        raise
    except Exception as error:
        if os.environ.get("LINES_PIPELINE_TRACEBACK"):
            raise
        hint = "set LINES_PIPELINE_TRACEBACK=1 for the details, and please report it"
        message = f"internal error: {type(error).__name__}: {printable_message(str(error))} ({hint})"
        typer.echo(without_credentials(message), err=True)
        sys.exit(1)
