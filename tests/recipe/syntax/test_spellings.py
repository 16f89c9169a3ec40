"""A value that is put into a text keeps the spelling that the file, ``--set`` or the environment gave it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.syntax.overrides import parse_set

Write = Callable[..., Path]

SPELLINGS = [
    "1.10", "1e-4", "1e3", "1E3", "007", "1_000", "0x10", "0o17", "yes", "on", "True", "FALSE", "+1", "-0", ".5", "5.",
    "2024-01-01", "12:30", "1e16", "0.10", "1.0",
]  # fmt: skip

ONE = """\
name: one
vars: {{v: {}}}
nodes:
  m: {{op: load, path: "m-${{v}}.safetensors"}}
  s: {{op: save, model: m, path: out.safetensors}}
"""
MANY = """\
name: many
nodes:
  m: {{op: load, path: "m-{{x}}.safetensors", for_each: {{x: [{0}]}}}}
  t: {{op: interpolate, models: m, weights: {{{0}: 0.5}}}}
  one: {{op: save, model: "m[{0}]", path: "{{x}}.safetensors", for_each: {{x: [{0}]}}}}
  s: {{op: save, model: t, path: out.safetensors}}
"""


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    """Saves a model under a name."""

    def save(name: str) -> Path:
        path = tmp_path / f"m-{name}.safetensors"
        save_file({"w": torch.ones(2)}, path)
        return path

    return save


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_variables_and_items_in_paths(spelling: str, written: Write, model: Callable[[str], Path]) -> None:
    model(spelling)
    assert lines_pipeline.validate(written(ONE.format(spelling))).steps == 2
    assert lines_pipeline.validate(written(ONE.format("x")), sets=dict([parse_set(f"vars.v={spelling}")])).steps == 2
    graph = build_graph(load_recipe(written(MANY.format(spelling))))
    assert f"m[{spelling}]" in graph.steps and f"one[{spelling}]" in graph.steps
    assert lines_pipeline.validate(written(MANY.format(spelling))).steps == 4


@pytest.mark.parametrize("spelling", ["1.10", "True", "1e3"])
def test_the_environment(
    spelling: str, written: Write, model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model(spelling)
    monkeypatch.setenv("LINES_TEST", spelling)
    assert lines_pipeline.validate(written(ONE.format('"${env:LINES_TEST}"'))).steps == 2


def test_the_file_that_is_meant_is_read(written: Write, model: Callable[[str], Path], shared_store: str) -> None:
    for number, name in enumerate(("1.1", "1.10")):
        save_file({"w": torch.full((2,), float(number))}, model(name))
    result = lines_pipeline.run(written(ONE.format("1.10")), out="out")
    assert torch.equal(load_file(result.files[0])["w"], torch.ones(2))


def test_a_whole_reference_is_still_a_number(written: Write) -> None:
    text = (
        MANY.format("1e-1")
        .replace("weights: {1e-1: 0.5}", "weights: ['${g}']")
        .replace("nodes:", "vars: {g: 5e-1}\nnodes:")
    )
    assert build_graph(load_recipe(written(text))).steps["t"].params.model_dump()["weights"] == (0.5,)


def test_names_of_tasks_and_tags_may_look_like_numbers(written: Write) -> None:
    text = ONE.format("[2024, 1.10]").replace("m-${v}.safetensors", "zoo://glyphs/pretrained")
    text += "  e: {op: evaluate, model: m, suite: s.yaml, tasks: '${v}', target: 1.10}\n"
    text += "tracking: {tags: {release: 1.10, new: true}}\n"
    recipe = load_recipe(written(text))
    params = build_graph(recipe).steps["e"].params.model_dump()
    assert (params["tasks"], params["target"]) == (("2024", "1.10"), "1.10")
    assert recipe.tracking.tags == {"release": "1.10", "new": "true"}


def test_recipes_whose_items_are_spelled_differently_are_not_equal(written: Write) -> None:
    hashes = {load_recipe(written(MANY.format(item))).hash for item in ("1.1", "1.10", "'1.1'")}
    assert len(hashes) == 3


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_resolved_recipe_keeps_spellings(spelling: str, written: Write) -> None:
    recipe = load_recipe(written(MANY.format(spelling)))
    again = load_recipe(written(recipe.resolved(), "again.yaml"))
    assert again.canonical() == recipe.canonical()
    assert list(build_graph(again).steps) == list(build_graph(recipe).steps)
