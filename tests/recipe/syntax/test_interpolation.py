from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lines_pipeline.core.errors import RecipeError
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe

Write = Callable[..., Path]


def filled(written: Write, variables: str, value: str) -> Any:
    """What a description of ``value`` becomes with these ``vars``."""
    text = f"name: x\nvars: {variables}\nnodes: {{a: {{op: load, path: p, rename: {value}}}}}\n"
    return load_recipe(written(text)).nodes["a"]["rename"]


@pytest.mark.parametrize(
    ("variables", "value", "expected"),
    [
        ("{n: 3}", "'${n}'", 3),
        ("{n: 0.5}", "'by ${n}'", "by 0.5"),
        ("{n: true}", "'is ${n}'", "is true"),
        ("{n: [a, 1]}", "'${n}'", ["a", 1]),
        ("{n: {m: {k: v}}}", "'${n.m}'", {"k": "v"}),
        ("{n: {m: {k: v}}}", "'${n.m.k}/${n.m.k}'", "v/v"),
        ("{n: [a, b]}", "'${n.1}'", "b"),
        ("{a: '${b}/x', b: '${c}', c: y}", "'${a}'", "y/x"),
        ("{a: {x: 1}, b: '${a}'}", "'${b.x}'", 1),
        ("{a: {x: '${a.y}', y: 2}}", "'${a.x}'", 2),
        ("{n: 3}", "'$${n} ${n}'", "${n} 3"),
        ("{n: 3}", "'{n} \\d{1,2} $n'", "{n} \\d{1,2} $n"),
        ("{n: 3}", "['${n}', {k: '${n}'}]", [3, {"k": 3}]),
        ("{n: null}", "'${n}'", None),
        ("{n: 3}", "'${ n }'", 3),
    ],
)
def test_references_are_filled(written: Write, variables: str, value: str, expected: object) -> None:
    filled_in = filled(written, variables, value)
    assert (filled_in, type(filled_in)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/x", "/data/x"),
        ("0.5", 0.5),
        ("true", True),
        ("007", "007"),
        ("", ""),
        ("~", "~"),
        ("[1]", "[1]"),
        (".inf", ".inf"),
    ],
)
def test_the_environment_gives_numbers_truth_values_and_text(
    written: Write, monkeypatch: pytest.MonkeyPatch, text: str, expected: object
) -> None:
    monkeypatch.setenv("LINES_TEST", text)
    value = filled(written, "{}", "'${env:LINES_TEST}'")
    assert (value, type(value)) == (expected, type(expected))


SECRET = """\
name: secret
vars: {root: "${env:LINES_TEST}/models"}
nodes:
  base: {op: load, path: "${root}/base.pt"}
  half: {op: interpolate, models: [base, base], t: "${env:LINES_TEST_T}"}
  saved: {op: save, model: half, path: out.safetensors}
"""


def test_the_environment_is_recorded_by_name_and_never_by_value(
    written: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES_TEST", "hush-hush")
    monkeypatch.setenv("LINES_TEST_T", "0.25")
    recipe = load_recipe(written(SECRET))
    graph = build_graph(recipe)
    assert recipe.nodes["base"]["path"] == "hush-hush/models/base.pt"
    assert graph.steps["half"].params.model_dump()["t"] == 0.25
    assert graph.recorded["base"]["path"] == "${env:LINES_TEST}/models/base.pt"
    for text in (recipe.canonical(), recipe.resolved(), recipe.source, str(graph.recorded)):
        assert "hush" not in text
        assert "env:LINES_TEST" in text


def test_the_hash_does_not_depend_on_the_environment(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = set()
    for value in ("a", "b"):
        monkeypatch.setenv("LINES_TEST", value)
        monkeypatch.setenv("LINES_TEST_T", "0.5")
        hashes.add(load_recipe(written(SECRET)).hash)
    assert len(hashes) == 1


def test_a_wrong_value_from_the_environment_is_told_by_name(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES_TEST", "a")
    monkeypatch.setenv("LINES_TEST_T", "hush-hush")
    recipe = load_recipe(written(SECRET))
    with pytest.raises(RecipeError, match=r"5:52: node 'half': 't': expected a number, found '\$\{env:LINES_"):
        build_graph(recipe)


def test_the_resolved_recipe_reads_back_as_the_same(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES_TEST", "x")
    monkeypatch.setenv("LINES_TEST_T", "0.5")
    odd = 'rename: [{from: "$${a}|1e3", to: "no"}, {from: "007", to: "1e-3"}, {from: "a: b # c", to: "é\\n\\u2028"}]'
    text = SECRET.replace('"${root}/base.pt"', f'"${{root}}/base.pt", {odd}')
    recipe = load_recipe(written(text))
    again = load_recipe(written(recipe.resolved(), "again.yaml"))
    assert (again.canonical(), again.hash) == (recipe.canonical(), recipe.hash)
    assert again.nodes == recipe.nodes
    assert again.resolved() == recipe.resolved()
