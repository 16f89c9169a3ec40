"""Finds the recipes that come with this package by name, and copies them with all files that they need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lines_pipeline.core.diagnostics import SourceLocation
from lines_pipeline.core.errors import RecipeError, did_you_mean
from lines_pipeline.recipe.syntax.extends import read_chain

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class StockRecipe:
    """Describes a recipe of the package."""

    name: str
    description: str
    path: Path


def stock_folder() -> Path:
    """Return the folder of stock recipes: in the package, or beside it in a checkout of its sources."""
    inside = PACKAGE / "stock_recipes"
    return inside if inside.is_dir() else PACKAGE.parent / "recipes"


def stock_recipes() -> list[StockRecipe]:
    """Return all stock recipes, by name."""
    recipes = []
    for path in sorted(stock_folder().glob("*.yaml")):
        document, *_ = read_chain(path)
        recipes.append(StockRecipe(path.stem, str(document.data.get("description", "")), path))
    return recipes


def find_recipe(recipe: str | Path) -> Path:
    """Return the file of a recipe: the one at that path, or else the stock recipe of that name."""
    path = Path(recipe)
    if os.path.lexists(path) or path.parent not in (Path(), Path("recipes")):
        return path
    stock = stock_folder() / f"{_stem(path.name)}.yaml"
    return stock if stock.is_file() else path


def copy_recipe(name: str, folder: Path) -> list[Path]:
    """Copy a stock recipe, what it extends and its suites into a folder; give the new files.

    RecipeError where there is no such recipe, or where another file lies in the way: then nothing is copied.
    """
    source = stock_folder() / f"{_stem(name)}.yaml"
    known = [path.stem for path in sorted(stock_folder().glob("*.yaml"))]
    if source.stem not in known:
        listed = ", ".join(known)
        message = f"no such stock recipe{did_you_mean(_stem(name), known)}; there are: {listed}"
        raise RecipeError.at(SourceLocation(name), message)
    files = {file: folder / file.relative_to(stock_folder()) for file in _copied_files(source)}
    in_the_way = [target for file, target in files.items() if _differs(file, target)]
    if in_the_way:
        message = "lies in the way and differs; name another folder with --to"
        raise RecipeError(SourceLocation(str(target)).diagnostic(message) for target in in_the_way)
    try:
        for file, target in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(file, target)
    except OSError as error:
        message = f"recipes cannot be copied there: {error.strerror}"
        raise RecipeError.at(SourceLocation(str(folder)), message) from error
    return list(files.values())


def _stem(name: str) -> str:
    return name.removesuffix(".yaml").replace("-", "_")


def _copied_files(recipe: Path) -> Iterable[Path]:
    """Return the files of a recipe's chain, and of the suites that it names with the scripts beside them."""
    document, _, files = read_chain(recipe)
    yield from files
    named = {value for value in _texts(document.data) if value.startswith("suites/")}
    for suite in sorted(named):
        yield recipe.parent / suite
        yield from sorted((recipe.parent / suite).parent.glob("*.py"))


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, dict):
        for inside in value.values():
            yield from _texts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside)
    elif isinstance(value, str):
        yield value


def _differs(file: Path, target: Path) -> bool:
    try:
        return os.path.lexists(target) and (not target.is_file() or target.read_bytes() != file.read_bytes())
    except OSError:
        return True
