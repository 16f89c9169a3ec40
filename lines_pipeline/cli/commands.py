"""Commands beside those that work on a recipe: the catalogue, stock recipes, trust, the zoo, the cache."""

from __future__ import annotations

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import lines_pipeline

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")]


class ZooAction(StrEnum):
    """The actions that ``zoo`` takes: list its checkpoints, or build the experts."""

    LIST = "list"
    BUILD = "build"


class CacheAction(StrEnum):
    """The actions that ``cache`` takes: list its entries, make room, or check them."""

    LIST = "list"
    PRUNE = "prune"
    VERIFY = "verify"


class RecipesAction(StrEnum):
    """The actions that ``recipes`` takes: list the stock recipes, or copy one."""

    LIST = "list"
    COPY = "copy"


def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from lines_pipeline import api

    print_json(api.schema())


def ops(
    name: Annotated[str | None, typer.Argument(help="One op.", show_default=False)] = None, as_json: Json = False
) -> None:
    """List the merge methods, or describe one."""
    from lines_pipeline import api
    from lines_pipeline.cli import render

    descriptions = api.catalogue()
    if name is not None:
        from lines_pipeline.core.errors import did_you_misspell

        names = [op["name"] for op in descriptions]
        descriptions = [op for op in descriptions if op["name"] == name.lower()]
        if not descriptions:
            near = did_you_misspell(name.lower(), names)
            raise typer.BadParameter(f"no op '{name}'{near}; there are: {', '.join(names)}")
    if as_json:
        print_json(descriptions[0] if name else descriptions)
    else:
        render.show_ops(descriptions, detailed=name is not None)


def recipes(
    action: Annotated[RecipesAction, typer.Argument()] = RecipesAction.LIST,
    name: Annotated[str | None, typer.Argument(help="copy: which one.", show_default=False)] = None,
    to: Annotated[Path, typer.Option(help="copy: the folder to copy it to.")] = Path(),
    as_json: Json = False,
) -> None:
    """List the recipes that come with the package, or copy one with all that it needs."""
    from lines_pipeline.recipe.stock import copy_recipe, stock_recipes

    if action is RecipesAction.COPY:
        if name is None:
            raise typer.BadParameter("name the recipe to copy; 'lines-pipeline recipes' lists them")
        copied = [str(path) for path in copy_recipe(name, to)]
        if as_json:
            print_json({"files": copied})
        else:
            typer.echo("\n".join(f"copied  {path}" for path in copied))
        return
    if name is not None:
        raise typer.BadParameter(f"'{name}' is for copy")
    stock = stock_recipes()
    if as_json:
        print_json(
            [{"name": recipe.name, "description": recipe.description, "path": str(recipe.path)} for recipe in stock]
        )
    else:
        width = max(len(recipe.name) for recipe in stock)
        typer.echo("\n".join(f"{recipe.name:<{width}}  {recipe.description}" for recipe in stock))


def trust(
    folder: Annotated[Path | None, typer.Argument(help="The folder, with all below it.", show_default=False)] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the trusted folders.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Trust the folder no longer.")] = False,
) -> None:
    """Let recipes of a folder run Python that they name: read it first, it may do whatever you may."""
    from lines_pipeline.core import trust as store
    from lines_pipeline.core.printable import printable_message

    if listed == (folder is not None) or (listed and remove):
        raise typer.BadParameter("name a folder to trust (or, with --remove, to trust no longer), or give --list")
    if folder is None:
        for trusted in store.trusted_folders():
            typer.echo(printable_message(str(trusted)))
    elif remove:
        typer.echo(f"no longer trusted: {printable_message(str(store.distrust(folder)))}")
    else:
        real = printable_message(str(store.trust(folder)))
        typer.echo(f"trusted: {real} (take it back: lines-pipeline trust --remove {shlex.quote(real)})")


def zoo(
    action: Annotated[ZooAction, typer.Argument()] = ZooAction.LIST,
    name: Annotated[str, typer.Argument(help="What follows zoo://, such as texts or glyphs@base1.")] = "glyphs",
    as_json: Json = False,
) -> None:
    """List or build an embedded model zoo."""
    from rich.console import Console

    from lines_pipeline import api
    from lines_pipeline.cli import render
    from lines_pipeline.tracking.console import progress

    if action is ZooAction.BUILD:
        with progress(Console(stderr=True)) as sink:
            api.zoo_build([sink], zoo=name)
    if as_json:
        print_json(api.zoo_list(name))
    else:
        render.show_zoo(api.zoo_list(name))


def cache(
    action: Annotated[CacheAction, typer.Argument()] = CacheAction.LIST,
    to: Annotated[str | None, typer.Option(help="prune: what may stay, 4GB or 0; default the cache's limit.")] = None,
    as_json: Json = False,
) -> None:
    """List what runs keep for the next ones, make room, or check that it is whole (exit 1 for damaged entries)."""
    from lines_pipeline import api
    from lines_pipeline.cli import render

    if to is not None and action != "prune":
        raise typer.BadParameter("--to is for prune")
    report = api.cache_prune(to) if action == "prune" else api.cache_list() if action == "list" else api.cache_verify()
    if as_json:
        print_json(report.to_dict())
    else:
        render.show_cache(action, report)
    if action == "verify" and report.entries:
        raise typer.Exit(1)


def show_version(wanted: bool) -> None:
    """Print the version of the package, and end."""
    if wanted:
        typer.echo(f"lines-pipeline {lines_pipeline.__version__}")
        raise typer.Exit


def print_json(value: Any) -> None:
    """Print a value as one JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
