from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lines_pipeline.core.errors import RecipeError
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe

Write = Callable[..., Path]


def test_a_recipe_lies_over_the_one_it_extends(written: Write, good: str) -> None:
    written(good, "stock/base.yaml")
    path = written("extends: stock/base.yaml\nname: mine\nnodes: {scaled: {beta: 0.9}}\nvars: {tasks: [a]}\n")
    recipe = load_recipe(path)
    assert recipe.name == "mine"
    assert recipe.nodes["scaled"] == {
        "op": "lines-scale",
        "delta": "merged",
        "alpha": "auto",
        "deltas": "updates",
        "beta": 0.9,
    }
    assert recipe.nodes["experts"]["for_each"] == {"task": ["a"]}
    assert recipe.folder == path.parent
    assert list(build_graph(recipe).members["updates"]) == ["updates[a]"]


def test_chains_lie_over_one_another(written: Write, good: str) -> None:
    written(good, "one.yaml")
    written("extends: one.yaml\nname: two\nseed: 2\n", "two.yaml")
    recipe = load_recipe(written("extends: two.yaml\nname: three\n", "three.yaml"))
    assert (recipe.name, recipe.seed) == ("three", 2)


def test_a_node_that_is_null_takes_the_other_recipes_node_out(written: Write, good: str) -> None:
    written(good, "base.yaml")
    outer = load_recipe(written("extends: base.yaml\nname: mine\nnodes: {saved: null}\n", "mine.yaml"))
    base = load_recipe(written(good, "base.yaml"))
    assert outer.nodes.keys() == base.nodes.keys() - {"saved"}
    with pytest.raises(RecipeError, match="saved"):
        load_recipe(written(good.replace("saved:", "saved: null #"), "alone.yaml"))


def test_the_merged_recipe_equals_the_one_written_out(written: Write, good: str) -> None:
    written(good, "base.yaml")
    laid_over = load_recipe(written("extends: base.yaml\nnodes: {scaled: {beta: 0.9}}\n", "over.yaml"))
    in_one = load_recipe(written(good.replace("beta: 0.5", "beta: 0.9"), "whole.yaml"))
    assert laid_over.hash == in_one.hash


def test_places_lead_to_the_file_that_holds_the_mistake(written: Write, good: str) -> None:
    base = written(good.replace("density: 0.2", "density: 20"), "base.yaml")
    over = written("extends: base.yaml\nnodes:\n  scaled: {betta: 1}\n", "over.yaml")
    with pytest.raises(RecipeError) as caught:
        build_graph(load_recipe(over))
    spots = [(diagnostic.location.file, diagnostic.location.line) for diagnostic in caught.value.diagnostics]
    assert spots == [(str(base), 9), (str(over), 3)]


def test_places_of_a_replaced_list_are_the_new_ones(written: Write, good: str) -> None:
    written(good.replace('"${tasks}"', "[a, b]"), "base.yaml")
    over = written(
        "extends: base.yaml\nvars: {t: [{x: 1}]}\nnodes:\n  experts: {for_each: {task: '${t}'}}\n", "over.yaml"
    )
    with pytest.raises(RecipeError, match=r"over\.yaml:4:30: .*found a map of x"):
        build_graph(load_recipe(over))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.yaml": "extends: a.yaml\n"}, r"a\.yaml:1:10: .* in a circle: a\.yaml -> a\.yaml"),
        (
            {"a.yaml": "extends: b.yaml\n", "b.yaml": "name: x\nextends: ./a.yaml\n"},
            r"b\.yaml:2:10: .*a\.yaml -> b\.yaml -> a",
        ),
        ({"a.yaml": "extends: absent.yaml\n"}, r"a\.yaml:1:10: .*absent\.yaml' does not exist"),
        ({"a.yaml": "extends: [b.yaml]\n"}, r"a\.yaml:1:10: 'extends' is .*expected the path of one recipe"),
        ({"a.yaml": "extends: '${x}.yaml'\n"}, r"a\.yaml:1:10: .*read before any variable"),
        ({"a.yaml": "extends: b.yaml\n", "b.yaml": "- x\n"}, r"b\.yaml:1:1: expected a recipe"),
        (
            {f"{n}.yaml": f"extends: {n + 1}.yaml\n" for n in range(30)} | {"a.yaml": "extends: 0.yaml\n"},
            "more than 20",
        ),
    ],
    ids=["itself", "circle", "absent", "list", "variable", "no-map", "long"],
)
def test_what_cannot_be_extended_is_refused(written: Write, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        written(text, name)
    with pytest.raises(RecipeError, match=words):
        load_recipe(written(files["a.yaml"], "a.yaml"))
