"""``tune`` over single entries of a parameter: a table of scales, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.syntax.overrides import entry_path

pytestmark = pytest.mark.usefixtures("shared_store")

TABLE = {"schedule": "table", "table": [0.25, 0.25, 0.25], "outside": "by-position"}
RANGE = {"low": 0.0, "high": 1.0, "step": 0.5}


@pytest.fixture
def recipe(toy: Path) -> Callable[..., Path]:
    """Writes a recipe of three blocks of 0.25 each; images between 0.25 and 0.5 separate the classes."""
    write_model(toy / "base.safetensors", 0.0, 0.0, 0.0)
    write_model(toy / "a.safetensors", 0.25, 0.25, 0.25)
    write_suite(toy, {"rise": {"val": [*above(0.125, 0.25, 0.3125), *below(0.5, 0.625)]}}, blocks=3)

    def write(parameters: Mapping[str, Any], scaled: Mapping[str, Any] = TABLE, **tune: Any) -> Path:
        nodes = {
            "base": {"op": "load", "path": "base.safetensors"},
            "expert": {"op": "load", "path": "a.safetensors"},
            "update": {"op": "task-vector", "model": "expert", "base": "base"},
            "scaled": {"op": "lines-scale", "delta": "update", **scaled},
            "model": {"op": "apply", "base": "base", "delta": "scaled"},
            "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
            "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
        }
        tuned = {"parameters": dict(parameters), "objective": "val.accuracy/rise", **tune}
        path = toy / "recipe.yaml"
        path.write_text(yaml.safe_dump({"name": "entries", "nodes": nodes, "tune": tuned}, sort_keys=False))
        return path

    return write


Recipe = Callable[..., Path]


def weights(result: lines_pipeline.RunResult) -> list[float]:
    tensors = load_file(result.files[0])
    return [tensors[f"blocks.{block}.weight"].item() for block in range(3)]


def test_entries_are_chosen_and_the_others_stay(shared_store: str, recipe: Recipe) -> None:
    path = recipe({"scaled.table.0": {"values": [0.0, 1.0]}, "scaled.table.2": RANGE})
    result = lines_pipeline.run(path, out="out")
    # the sum is 0.25 * (first + 0.25 + last), and all is right from 0.3125 to 0.5: 1 + 0.25 + 0.5 is the first
    assert result.chosen == {"scaled.table.0": 1.0, "scaled.table.2": 0.5}
    assert weights(result) == [0.25, 0.0625, 0.125]
    params = MlflowClient(tracking_uri=shared_store).get_run(result.run_id).data.params
    assert (params["scaled.table"], params["scaled.table.2"]) == ("[1.0, 0.25, 0.5]", "0.5")
    assert weights(lines_pipeline.run(path, out="out", tune=False)) == [0.0625] * 3


def test_a_whole_table_is_found_by_cmaes(recipe: Recipe) -> None:
    pytest.importorskip("optuna")
    ranges = {f"scaled.table.{block}": {"low": 0.0, "high": 1.0} for block in range(3)}
    result = lines_pipeline.run(recipe(ranges, sampler="cmaes", trials=12), out="out")
    assert set(result.chosen) == set(ranges) and len(result.trials) == 12
    assert weights(result) == pytest.approx([0.25 * value for value in result.chosen.values()])


def test_entries_of_tables_of_towers_and_of_maps(recipe: Recipe) -> None:
    towers = {**TABLE, "table": [[0.25, 0.25, 0.25]]}
    path = recipe({"scaled.table.0.1": RANGE}, towers)
    assert load_recipe(path).with_values({"scaled.table.0.1": 0.5}).nodes["scaled"]["table"] == [[0.25, 0.5, 0.25]]
    lines_pipeline.validate(path, trust=True)
    written = {"by_name": {"a.b": 1, "*": 2}}
    assert entry_path(written, "by_name.a.b") == ("by_name", "a.b") and entry_path([[3]], "0.0") == (0, 0)


def test_set_may_change_the_range_of_an_entry_and_add_one(recipe: Recipe) -> None:
    path = recipe({"scaled.table.0": RANGE})
    sets = {"tune.parameters.scaled.table.0.low": 0.5, "tune.parameters.scaled.table.1.values": [0.0]}
    tuned = load_recipe(path, sets=sets).tune
    assert tuned is not None and list(tuned.parameters) == ["scaled.table.0", "scaled.table.1"]
    assert tuned.parameters["scaled.table.0"].choices() == (0.5, 1.0)


@pytest.mark.parametrize(
    ("name", "scaled", "message"),
    [
        ("scaled.table.3", TABLE, "'table' of 'scaled' is a list of 3 here, expected an index from 0 to 2, found '3'"),
        ("scaled.table.-1", TABLE, "expected an index from 0 to 2, found '-1'"),
        ("scaled.table.first", TABLE, "expected an index from 0 to 2, found 'first'"),
        ("scaled.table.0.1", TABLE, "'table' of 'scaled' is no list here that could have an entry '1'"),
        ("scaled.table.0", {"gamma": 0.5}, "'table' of 'scaled' is not written there: write it whole"),
        ("scaled.tables.0", TABLE, "'scaled' has no parameter 'tables' (did you mean 'table'?)"),
        ("scaled.table[0]", TABLE, "'scaled' has no parameter 'table[0]'; entries of a list are named 'table.0'"),
    ],
)
def test_entries_that_are_not_there(name: str, scaled: Mapping[str, Any], message: str, recipe: Recipe) -> None:
    with pytest.raises(RecipeError) as error:
        lines_pipeline.validate(recipe({name: RANGE}, scaled), trust=True)
    assert message in str(error.value) and "recipe.yaml:" in str(error.value)


def test_values_that_an_entry_does_not_take(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"with 'table\.1' as 'much'"):
        lines_pipeline.validate(recipe({"scaled.table.1": {"values": ["much"]}}), trust=True)


def test_a_parameter_is_not_tuned_as_a_whole_besides(recipe: Recipe) -> None:
    whole = {"values": [[0.0, 0.5, 1.0]]}
    with pytest.raises(RecipeError, match=r"'scaled\.table' is tuned too, which 'scaled\.table\.1' is a part of"):
        lines_pipeline.validate(recipe({"scaled.table": whole, "scaled.table.1": RANGE}), trust=True)
