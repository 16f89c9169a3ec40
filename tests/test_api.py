"""The Python API: public names, options, recipes that are read already, and results in a notebook."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import get_type_hints

import pytest
from conftest import TIES_LINES

import lines_pipeline
from lines_pipeline import RunOptions, RunResult, load_recipe, plan, run, validate
from lines_pipeline.workflow.options import RunKeywords

Recipe = Callable[..., Path]


def test_public_names_are_there_and_typed() -> None:
    assert [name for name in lines_pipeline.__all__ if not hasattr(lines_pipeline, name)] == []
    assert set(lines_pipeline.__all__) <= set(dir(lines_pipeline))
    assert files("lines_pipeline").joinpath("py.typed").is_file()


def test_every_option_is_a_keyword_argument_too() -> None:
    options = get_type_hints(RunOptions)
    assert get_type_hints(RunKeywords) == options and list(options) == [field.name for field in fields(RunOptions)]
    for use_case in (run, plan, validate):
        shown = [
            name for name, field in inspect.signature(use_case).parameters.items() if field.kind is field.KEYWORD_ONLY
        ]
        assert shown[: len(options)] == list(options)


def test_options_as_an_object_and_as_keywords(write_recipe: Recipe) -> None:
    recipe, sets = write_recipe(TIES_LINES), {"nodes.scaled.beta": 0.25}
    options = RunOptions(out="one", sets=sets, tracking=False, workers=1)
    result = run(recipe, options)
    two = run(recipe=recipe, out="two", sets=sets, tracking=False, workers=1)
    three = run(recipe, options, out="three")
    assert result.files[0].parent.name == "one" and three.files[0].parent.name == "three"
    assert result.files[0].read_bytes() == two.files[0].read_bytes() == three.files[0].read_bytes()
    assert plan(recipe, options).cached == ("model",) and plan(recipe, options).settings["workers"] == 1
    assert validate(recipe, options).steps == 11


def test_a_keyword_that_is_no_option_is_refused(write_recipe: Recipe) -> None:
    with pytest.raises(TypeError, match="wokers"):
        run(write_recipe(TIES_LINES), wokers=2)  # type: ignore[call-arg]


def test_a_recipe_that_is_read_already(write_recipe: Recipe) -> None:
    path, sets = write_recipe(TIES_LINES), {"nodes.scaled.beta": 0.25}
    recipe = load_recipe(path, sets)
    expected = run(path, out="path", sets=sets, tracking=False)
    path.write_text("name: changed since")
    result = run(recipe, out="recipe", tracking=False)
    assert result.files[0].read_bytes() == expected.files[0].read_bytes()
    assert run(recipe, out="recipe", sets=sets, tracking=False).cached == ("saved",)
    with pytest.raises(TypeError, match="give them to load_recipe"):
        run(recipe, sets={"nodes.scaled.beta": 0.5}, tracking=False)


def test_a_result_shows_itself_in_a_notebook(write_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "s3cr3t-value")
    recipe = write_recipe(TIES_LINES, description="for ${env:PLANTED}")
    result = run(recipe, out="out-s3cr3t-value-<b>", tracking=False)
    judged = replace(result, metrics={"val": {"accuracy/<i>": 0.5, "mean_accuracy": 0.75}}, chosen={"scaled.beta": 0.3})
    page = judged._repr_html_()
    assert "<td>accuracy/&lt;i&gt;</td><td>0.5</td>" in page and "<td>mean_accuracy</td><td>0.75</td>" in page
    assert "out-${env:PLANTED}-&lt;b&gt;/model.safetensors" in page and "scaled.beta = 0.3" in page
    assert "without a record" in page and "s3cr3t" not in page and "<b>" not in page


def test_a_plan_shows_itself_in_a_notebook(write_recipe: Recipe) -> None:
    explanation = plan(write_recipe(TIES_LINES))
    page = replace(explanation, name="<b>")._repr_html_()
    assert page.startswith("<pre>plan of &lt;b&gt;\n") and page.endswith("\n</pre>")


def test_a_result_without_metrics_has_no_table() -> None:
    empty = RunResult("tested", Path("out"), {}, (), (), {}, "", "", {}, (), 1.0)
    assert "<table>" not in empty._repr_html_() and "tested" in empty._repr_html_()
