"""The recipes that come with the package: listed, copied, and run by name, from sources and from a wheel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import lines_pipeline
from lines_pipeline.cli.app import app
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.recipe import stock

ROOT = Path(__file__).parents[2]


def command(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    "name", ["vit20_ties_lines", "vit20-ties-lines", "vit20_ties_lines.yaml", "recipes/vit20_ties.yaml"]
)
def test_stock_names_work_where_there_is_no_such_file(name: str) -> None:
    assert lines_pipeline.validate(name, sets={"vars.tasks": ["greek"]}).name.startswith("vit20-ties")
    assert lines_pipeline.plan(name, sets={"vars.tasks": ["greek"]}).bytes_read > 0
    assert command("graph", name).exit_code == 0


def test_a_file_of_that_name_comes_first() -> None:
    Path("vit20_ties_lines").write_text("name: mine\n")
    with pytest.raises(RecipeError, match="vit20_ties_lines:1:1: 'nodes' is missing"):
        lines_pipeline.validate("vit20_ties_lines")
    Path("vit20_ties").symlink_to("nowhere")
    with pytest.raises(RecipeError, match="'vit20_ties' does not exist"):
        lines_pipeline.validate("vit20_ties")


@pytest.mark.parametrize("name", ["vit20_tise", "other/vit20_ties", "common", "../recipes/vit20_ties"])
def test_other_names_are_not_there(name: str) -> None:
    with pytest.raises(RecipeError, match="does not exist, expected a recipe file"):
        lines_pipeline.validate(name)


def test_the_list_has_them_all() -> None:
    printed = json.loads(command("recipes", "--json").stdout)
    assert [recipe["name"] for recipe in printed] == [path.stem for path in sorted((ROOT / "recipes").glob("*.yaml"))]
    assert all(recipe["description"] and recipe["name"] in command("recipes").stdout for recipe in printed)


def test_a_copy_brings_what_it_extends_and_its_suites() -> None:
    completed = command("recipes", "copy", "vit20-ties", "--to", "mine")
    assert completed.exit_code == 0
    assert sorted(str(path) for path in Path("mine").rglob("*.yaml")) == [
        "mine/common/glyphs20.yaml",
        "mine/vit20_ties.yaml",
    ]
    assert lines_pipeline.validate("mine/vit20_ties.yaml").name == "vit20-ties"
    assert (
        command("recipes", "copy", "vit20_consensus", "--to", "mine").exit_code == 0
    )  # what is there already is equal
    command("recipes", "copy", "clip_vit_b32_20_ties_lines", "--to", "clip")
    assert {path.name for path in Path("clip/suites").iterdir()} == {"clip_vit_b32_20.yaml", "convert_heads.py"}


def test_a_copy_never_replaces_another_file() -> None:
    Path("common").mkdir()
    Path("common/glyphs20.yaml").write_text("name: mine\n")
    with pytest.raises(RecipeError, match=r"common/glyphs20\.yaml: lies in the way and differs"):
        command_raises("recipes", "copy", "vit20_ties")
    assert not Path("vit20_ties.yaml").exists() and Path("common/glyphs20.yaml").read_text() == "name: mine\n"
    with pytest.raises(RecipeError, match=r"no such stock recipe \(did you mean 'vit20_ties'\?\); there are: "):
        command_raises("recipes", "copy", "vit20_tise")


def command_raises(*words: str) -> None:
    """The error of a command that fails."""
    result = command(*words)
    assert result.exception is not None
    raise result.exception


@pytest.mark.parametrize("words", [["recipes", "copy"], ["recipes", "list", "vit20_ties"], ["recipes", "burn"]])
def test_mistakes(words: list[str]) -> None:
    assert command(*words).exit_code == 2


def test_a_package_holds_its_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages" / "lines_pipeline"
    installed.mkdir(parents=True)
    shutil.copytree(ROOT / "recipes", installed / "stock_recipes")
    monkeypatch.setattr(stock, "PACKAGE", installed)
    assert lines_pipeline.validate("vit20_ties", sets={"vars.tasks": ["greek"]}).name == "vit20-ties"
    (installed / "stock_recipes" / "vit20_ties.yaml").write_text("name: packaged\n")
    with pytest.raises(RecipeError, match="'nodes' is missing"):
        lines_pipeline.validate("vit20_ties")


def test_the_wheel_is_told_to_bring_them() -> None:
    import tomllib

    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert built["force-include"] == {"recipes": "lines_pipeline/stock_recipes"}


def test_the_version() -> None:
    assert command("--version").stdout == f"lines-pipeline {lines_pipeline.__version__}\n"


def test_shell_completion_is_there() -> None:
    assert "--install-completion" in command("--help").stdout
