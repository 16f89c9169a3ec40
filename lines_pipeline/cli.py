"""The command line: arguments to the API, results to tables, errors to exit codes."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lines_pipeline.core.errors import LinesError
from lines_pipeline.core.garbage import collect_seldom

app = typer.Typer(
    name="lines-pipeline",
    help="Merge fine-tuned models from version-controlled recipes, tensor by tensor, in bounded memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="Override a value: nodes.scaled.beta=0.4.")
]
Scheduler = Annotated[str | None, typer.Option(help="threads, serial, or a Dask scheduler's address.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Jobs at a time.")]
Memory = Annotated[str | None, typer.Option(help="Cap on anonymous memory: 4GB.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
NoTune = Annotated[bool, typer.Option("--no-tune", help="Use the values as written.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Look nothing up in the cache.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow store; default sqlite:///mlflow.db.")]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class ZooAction(StrEnum):
    """What to do with the zoo."""

    LIST = "list"
    BUILD = "build"


class CacheAction(StrEnum):
    """What to do with the cache."""

    LIST = "list"
    PRUNE = "prune"
    VERIFY = "verify"


@app.command()
def run(
    recipe: RecipePath,
    sets: Sets = None,
    out: Annotated[str | None, typer.Option(help="Folder, or s3:// URL; default runs/<name>.")] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    memory: Memory = None,
    device: Device = None,
    no_tune: NoTune = False,
    no_cache: NoCache = False,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Carry out a recipe."""
    from lines_pipeline.tracking.recorder import expect_run

    expect_run(recipe, _parse(sets), tracking_uri)  # before torch is loaded
    from rich.console import Console

    from lines_pipeline import api, presentation
    from lines_pipeline.tracking.console import progress

    with progress(Console(stderr=True)) as sink:
        result = api.run(
            recipe,
            out=out,
            sets=_parse(sets),
            scheduler=scheduler,
            workers=workers,
            memory=memory,
            device=device,
            tune=not no_tune,
            cache=not no_cache,
            tracking_uri=tracking_uri,
            sinks=[sink],
        )
    if as_json:
        _print_json(result.to_dict())
    else:
        presentation.show_result(result)


@app.command()
def validate(recipe: RecipePath, sets: Sets = None) -> None:
    """Check everything that needs no tensor data."""
    from lines_pipeline import api

    found = api.validate(recipe, sets=_parse(sets))
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{found.name}: valid, {found.steps} steps")


@app.command()
def plan(
    recipe: RecipePath,
    sets: Sets = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    memory: Memory = None,
    device: Device = None,
    no_tune: NoTune = False,
    no_cache: NoCache = False,
    as_json: Json = False,
) -> None:
    """Tell what a run would do: passes, bytes, memory, cache, the scale of every block."""
    from lines_pipeline import api

    report = api.plan(
        recipe,
        sets=_parse(sets),
        scheduler=scheduler,
        workers=workers,
        memory=memory,
        device=device,
        tune=not no_tune,
        cache=not no_cache,
    )
    if as_json:
        _print_json(report.to_dict())
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


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from lines_pipeline import api

    _print_json(api.schema())


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(help="One op.", show_default=False)] = None, as_json: Json = False
) -> None:
    """List the merge methods, or describe one."""
    from lines_pipeline import api, presentation

    found = api.catalogue()
    if name is not None:
        from lines_pipeline.core.errors import did_you_mean

        names = [op["name"] for op in found]
        found = [op for op in found if op["name"] == name.lower()]
        if not found:
            raise typer.BadParameter(f"no op '{name}'{did_you_mean(name, names)}; there are: {', '.join(names)}")
    if as_json:
        _print_json(found[0] if name else found)
    else:
        presentation.show_ops(found, detailed=name is not None)


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(help="A file, a folder or a zoo:// URL.", show_default=False)],
    headers: Annotated[bool, typer.Option("--headers", help="Read headers only: no digest, no norms.")] = False,
    key: Annotated[str, typer.Option(help="State dict of a torch file that nests several.", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Tell what a checkpoint holds: digest, tensors, data types, blocks, norms."""
    from lines_pipeline import api, presentation

    show = _print_json if as_json else presentation.show_checkpoint
    show(api.inspect(checkpoint, headers=headers, key=key))


@app.command()
def zoo(action: Annotated[ZooAction, typer.Argument()] = ZooAction.LIST, as_json: Json = False) -> None:
    """List or build the embedded model zoo."""
    from rich.console import Console

    from lines_pipeline import api, presentation
    from lines_pipeline.tracking.console import progress

    if action is ZooAction.BUILD:
        with progress(Console(stderr=True)) as sink:
            api.zoo_build([sink])
    if as_json:
        _print_json(api.zoo_list())
    else:
        presentation.show_zoo(api.zoo_list())


@app.command()
def cache(
    action: Annotated[CacheAction, typer.Argument()] = CacheAction.LIST,
    to: Annotated[str | None, typer.Option(help="prune: what may stay, 4GB or 0; default the cache's limit.")] = None,
    as_json: Json = False,
) -> None:
    """List what runs keep for the next ones, make room, or check that it is whole (exit 1 for damaged entries)."""
    from lines_pipeline import api, presentation

    if to is not None and action != "prune":
        raise typer.BadParameter("--to is for prune")
    report = api.cache_prune(to) if action == "prune" else api.cache_list() if action == "list" else api.cache_verify()
    if as_json:
        _print_json(report.to_dict())
    else:
        presentation.show_cache(action, report)
    if action == "verify" and report.entries:
        raise typer.Exit(1)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Run ids or names.", show_default=False)],
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Show the parameters and metrics of MLflow runs side by side, what differs first."""
    from lines_pipeline import presentation
    from lines_pipeline.tracking.comparison import compare as compare_runs
    from lines_pipeline.tracking.stores import resolve_uri

    if len(runs) < 2:
        raise typer.BadParameter("name at least two runs")
    found = compare_runs(runs, resolve_uri(tracking_uri))
    if as_json:
        _print_json(found.to_dict())
    else:
        presentation.show_comparison(found)


def _parse(sets: list[str] | None) -> dict[str, Any]:
    from lines_pipeline.recipe.overrides import parse_set

    return dict(parse_set(text) for text in sets or [])


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def main() -> None:
    """Run the command line; a user's mistake never ends in a traceback."""
    collect_seldom()
    try:
        if sys.argv[1:2] == ["run"] and "--help" not in sys.argv:
            from lines_pipeline.tracking.recorder import recorder

            recorder()  # loads MLflow, the longest part of a small merge, while this process loads what it needs
        app()
    except LinesError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except SystemExit as end:  # what Typer makes of Ctrl-C, without a word
        if end.code == INTERRUPTED:
            typer.echo("interrupted", err=True)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("LINES_PIPELINE_TRACEBACK"):
            raise
        hint = "set LINES_PIPELINE_TRACEBACK=1 for the details, and please report it"
        typer.echo(f"internal error: {type(error).__name__}: {error} ({hint})", err=True)
        sys.exit(1)
