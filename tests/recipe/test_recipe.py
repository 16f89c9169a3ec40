from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe

Write = Callable[..., Path]


def test_what_a_recipe_says_of_itself(written: Write, good: str) -> None:
    path = written("description: a test\n" + good)
    recipe = load_recipe(path)
    assert (recipe.name, recipe.description, recipe.seed) == ("good", "a test", 0)
    assert (recipe.folder, recipe.source) == (path.parent, "description: a test\n" + good)
    assert (recipe.tracking.experiment, recipe.engine.scheduler, recipe.engine.memory_bytes) == (
        "lines-pipeline",
        "threads",
        None,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: good", "name: good\ndescription: words\nengine: {workers: 7}\ntracking: {tags: {a: b}}"),
        ("op: TIES", "op: ties"),
        ("zoo: zoo://glyphs", "unused: 1\n  zoo: zoo://glyphs"),
        ("density: 0.2", "density: 2e-1"),
        ('path: "${zoo}/pretrained"', "path: zoo://glyphs/pretrained"),
        ("name: good", "name: good\nengine:\ntracking:"),
    ],
    ids=["settings", "case", "variable", "number", "written-out", "empty"],
)
def test_what_does_not_change_the_result_does_not_change_the_hash(
    written: Write, good: str, old: str, new: str
) -> None:
    recipe = load_recipe(written(good))
    two = load_recipe(written(good.replace(old, new), "two.yaml"))
    assert recipe.canonical() == two.canonical()


@pytest.mark.parametrize(
    ("old", "new"), [("beta: 0.5", "beta: 0.6"), ("good", "other"), ("letters, digits", "digits, letters")]
)
def test_what_changes_the_result_changes_the_hash(written: Write, good: str, old: str, new: str) -> None:
    assert load_recipe(written(good)).hash != load_recipe(written(good.replace(old, new), "two.yaml")).hash


def test_other_values_make_the_recipe_that_would_have_been_written(written: Write, good: str) -> None:
    recipe = load_recipe(written(good)).with_values({"scaled.beta": 0.75, "merged.scope": "tensor"})
    text = good.replace("beta: 0.5", "beta: 0.75").replace("density: 0.2", "density: 0.2, scope: tensor")
    assert recipe.hash == load_recipe(written(text, "two.yaml")).hash
    params = build_graph(recipe).steps["scaled"].params.model_dump()
    assert params["beta"] == 0.75
    with pytest.raises(KeyError, match="skaled"):
        recipe.with_values({"skaled.beta": 1})


def test_other_values_are_fast(written: Write, good: str) -> None:
    recipe = load_recipe(written(good))
    began = time.monotonic()
    for trial in range(100):
        recipe = recipe.with_values({"scaled.beta": trial / 100})
    assert time.monotonic() - began < 2


def test_reading_a_recipe_imports_neither_torch_nor_mlflow(written: Write, good: str) -> None:
    code = (
        "import sys, lines_pipeline.recipe.load as l, lines_pipeline.graph.graph, lines_pipeline.graph.picture,"
        " lines_pipeline.recipe.binding.json_schema\nl.load_recipe(sys.argv[1])\n"
        "print([name for name in ('torch', 'mlflow') if name in sys.modules])"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code, str(written(good))], capture_output=True, text=True, check=True
    )
    assert completed.stdout == "[]\n"


def test_the_recipe_in_the_documentation_is_right(written: Write) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipe-language.md").read_text(encoding="utf-8")
    text = page.split("```yaml\n")[1].split("```")[0]
    recipe = load_recipe(written(text))
    assert build_graph(recipe).sinks == ("saved", "val")
    assert recipe.tune is not None
    assert len(recipe.tune.parameters["scaled.beta"].choices() or ()) == 15
