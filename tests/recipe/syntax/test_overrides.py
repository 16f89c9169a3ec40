from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from lines_pipeline.core.errors import RecipeError
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.syntax.overrides import parse_set

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodes.scaled.beta=0.5", ("nodes.scaled.beta", 0.5)),
        ("vars.zoo=/data/a=b", ("vars.zoo", "/data/a=b")),
        ("vars.tasks=[a, 1]", ("vars.tasks", ["a", 1])),
        ("tune=null", ("tune", None)),
        ("tune=", ("tune", None)),
        (" seed = 1e3 ", ("seed", 1000.0)),
        ("description='0.5'", ("description", "0.5")),
        ("tracking.tags={a: b}", ("tracking.tags", {"a": "b"})),
    ],
)
def test_values_are_read_as_yaml(text: str, expected: tuple[str, object]) -> None:
    assert parse_set(text) == expected


@pytest.mark.parametrize("text", ["seed", "=3", "", "seed=[1", "seed=!!int 3", "seed={a: 1, a: 2}"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"^--set"):
        parse_set(text)


def test_values_are_replaced_by_path(written: Write, good: str) -> None:
    sets = {
        "vars.zoo": Path("/data"),
        "vars.tasks.1": "roman",
        "nodes.scaled.beta": Fraction(1, 4),
        "nodes.merged.scope": "tensor",
        "engine.workers": 3,
        "tracking.tags.team": "vision",
        "tune.parameters.scaled.beta.low": 0.5,
        "seed": 7,
    }
    recipe = load_recipe(written(good), sets)
    assert recipe.nodes["base"]["path"] == "/data/pretrained"
    assert recipe.nodes["experts"]["for_each"] == {"task": ["letters", "roman", "greek"]}
    assert recipe.nodes["scaled"]["beta"] == 0.25
    assert recipe.nodes["merged"]["scope"] == "tensor"
    assert (recipe.engine.workers, recipe.seed, recipe.tracking.tags) == (3, 7, {"team": "vision"})
    assert recipe.tune is not None
    assert recipe.tune.parameters["scaled.beta"].low == 0.5


def test_a_new_range_to_tune_needs_no_quotes(written: Write, good: str) -> None:
    sets = {"tune.parameters.merged.density": {"values": [0.1, 0.2]}, "tune.parameters.scaled.beta.step": 0.7}
    tune = load_recipe(written(good), sets).tune
    assert tune is not None
    assert tune.parameters["merged.density"].choices() == (0.1, 0.2)
    assert tune.parameters["scaled.beta"].choices() == (0.1, 0.8, 1.5)


def test_set_values_are_filled_too(written: Write, good: str) -> None:
    assert load_recipe(written(good), {"nodes.base.path": "${zoo}/other"}).nodes["base"]["path"] == "zoo://glyphs/other"


def test_a_variable_that_the_recipe_leaves_open_may_be_set(written: Write, good: str) -> None:
    text = good.replace("  zoo: zoo://glyphs\n", "")
    assert load_recipe(written(text), {"vars.zoo": "/z"}).nodes["base"]["path"] == "/z/pretrained"
    with pytest.raises(RecipeError, match=r"'vars' has no 'zo'"):
        load_recipe(written(text), {"vars.zo": "/z"})


def test_tuning_can_be_taken_out(written: Write, good: str) -> None:
    assert load_recipe(written(good), {"tune": None}).tune is None


def test_a_node_can_be_taken_out(written: Write, good: str) -> None:
    path = written(good)
    kept = [name for name in load_recipe(path).nodes if name != "saved"]
    recipe = load_recipe(path, dict([parse_set("nodes.saved=null")]))
    assert list(recipe.nodes) == list(recipe.recorded["nodes"]) == kept and "saved" not in recipe.resolved()
    with pytest.raises(RecipeError, match=r"^--set nodes\.saved\.path: unknown path: 'nodes' has no 'saved'"):
        load_recipe(path, {"nodes.saved": None, "nodes.saved.path": "x"})
    with pytest.raises(RecipeError, match=r"^--set nodes\.nowhere: unknown path: 'nodes' has no 'nowhere'$"):
        load_recipe(path, {"nodes.nowhere": None})


def test_a_node_that_others_need_is_missed_where_they_name_it(written: Write, good: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+:\d+: node 'scaled': 'delta': unknown node 'merged'"):
        build_graph(load_recipe(written(good), {"nodes.merged": None}))


def test_all_unknown_paths_are_told_at_once(written: Write, good: str) -> None:
    sets = {"nodes.skaled.beta": 1, "vars.tusks": 2, "engine.wrokers": 3, "nodes.scaled.bta": 4}
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(good), sets)
    assert [diagnostic.location.file for diagnostic in caught.value.diagnostics] == sorted(
        f"--set {path}" for path in sets
    )
    assert all("did you mean" in diagnostic.message for diagnostic in caught.value.diagnostics)
