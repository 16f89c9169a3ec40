"""``premise``: the table and the verdict, worked out by hand; Student's interval against its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError, RecipeError
from lines_pipeline.ops.derivations import Derived
from lines_pipeline.ops.mean_intervals import mean_interval, student_quantile
from lines_pipeline.ops.metrics_table import Member
from lines_pipeline.ops.premise import Premise, PremiseParams


def members(target: Sequence[float], control: Sequence[float]) -> list[Member]:
    figures = [
        {"target_normalized_accuracy": own, "control_normalized_accuracy": others}
        for own, others in zip(target, control, strict=True)
    ]
    return [Member(f"n[{index}]", "n", str(index), metrics=found) for index, found in enumerate(figures)]


def derived(given: Mapping[str, list[Member]]) -> Derived:
    found = Premise().derivation_of(PremiseParams()).make(given)
    assert isinstance(found, Derived)
    return found


LEVEL = members([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])


def test_the_premise_holds_where_shallow_down_keeps_more_than_deep_down() -> None:
    shallow, deep = members([0.9, 0.9, 0.9], [1.0, 1.0, 1.0]), members([0.8, 0.7, 0.6], [0.5, 0.5, 0.8])
    found = derived({"shallow": shallow, "deep": deep, "uniform": LEVEL})
    # differences 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, and t of two degrees of freedom is 4.3027
    margin = 4.302653 * 0.1 / 3**0.5
    assert found.metrics["target/shallow_down"] == pytest.approx(0.9)
    assert found.metrics["control/deep_down"] == pytest.approx(0.6)
    assert found.metrics["shallow_minus_deep_down/target"] == pytest.approx(0.2)
    assert found.metrics["shallow_minus_deep_down/target/low"] == pytest.approx(0.2 - margin, abs=1e-6)
    assert found.metrics["shallow_minus_deep_down/target/high"] == pytest.approx(0.2 + margin, abs=1e-6)
    assert found.metrics["holds"] == 0 and "is not decided: at equal size" in found.notes[1]
    steadier = members([0.71, 0.7, 0.69], [0.5, 0.5, 0.8])
    found = derived({"shallow": shallow, "deep": steadier, "uniform": LEVEL})
    assert found.metrics["holds"] == 1
    assert found.notes[1] == (
        "LiNeS' premise holds: at equal size, shallow-down keeps 20.0 points more of the target than deep-down "
        "(95 % interval +17.5 to +22.5, 3 experts)"
    )
    assert found.notes[2] == (
        "beside uniform scaling of equal size, shallow-down keeps 40.0 points more of the target "
        "(95 % interval +40.0 to +40.0) and 50.0 points more of control (95 % interval +50.0 to +50.0)"
    )


def test_the_contrary_is_told_as_well() -> None:
    shallow, deep = members([0.5, 0.51, 0.52], [1.0] * 3), members([0.9, 0.9, 0.9], [0.9] * 3)
    found = derived({"whole": members([1.0] * 3, [0.6] * 3), "shallow": shallow, "deep": deep, "uniform": LEVEL})
    assert found.metrics["holds"] == -1
    assert found.notes[1].startswith("LiNeS' premise does not hold, these tasks are in shallow blocks: ")
    assert found.notes[0].endswith(
        "whole update 100.0% and 60.0%; shallow-down 51.0% and 100.0%; deep-down 90.0% and 90.0%; "
        "uniform 50.0% and 50.0%"
    )
    assert [row["scaling"] for row in found.rows] == ["whole", "shallow_down", "deep_down", "uniform"]


def test_one_expert_has_no_interval() -> None:
    one = {port: members([0.5], [0.5]) for port in ("shallow", "deep", "uniform")}
    found = derived(one)
    assert found.metrics["holds"] == 0 and not [name for name in found.metrics if name.endswith("/low")]
    assert found.notes[1].startswith("one expert does not tell")


def test_what_is_not_measured_is_named() -> None:
    bare = [Member("n[0]", "n", "0", metrics={"target_accuracy": 0.5})]
    with pytest.raises(EvalError, match=r"'n\[0\]' has no metric 'target_normalized_accuracy'"):
        derived({"shallow": bare, "deep": bare, "uniform": bare})


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (19, 2.0930), (30, 2.0423), (120, 1.9799)],
)
def test_quantiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert student_quantile(freedom) == pytest.approx(expected, abs=5e-5)


@settings(deadline=None, max_examples=25)
@given(values=st.lists(st.floats(-1, 1), min_size=2, max_size=8), shift=st.floats(-1, 1))
def test_an_interval_moves_with_its_figures(values: list[float], shift: float) -> None:
    one, other = mean_interval(values), mean_interval([value + shift for value in values])
    assert one.low is not None and one.high is not None and other.low is not None
    assert one.low <= one.mean <= one.high
    assert other.low == pytest.approx(one.low + shift, abs=1e-9)


BASE = {"pretrained": (0.25, 0.25), "deep": (0.25, 0.75), "deeper": (0.25, 0.6875)}
IMAGES = tuple(number / 16 for number in range(1, 16))
DIAGNOSE = Path(__file__).parents[2] / "recipes" / "diagnose.yaml"


def test_the_stock_recipe_finds_experts_that_are_deep(toy: Path) -> None:
    for name, weights in BASE.items():
        (toy / name).mkdir()
        write_model(toy / name / "model.safetensors", *weights)
    tasks = {"deep": above(*IMAGES), "deeper": [*above(*IMAGES[:14]), *below(IMAGES[14])]}
    write_suite(toy, {task: {"val": images} for task, images in tasks.items()}, blocks=2)
    sets: dict[str, Any] = {"vars.zoo": str(toy), "vars.suite": str(toy / "suite.yaml"), "vars.tasks": list(tasks)}
    result = lines_pipeline.run(DIAGNOSE, sets=sets, out="out", tracking=False, trust=True)
    verdict = result.metrics["verdict"]
    # all of the update is in the last block: shallow-down keeps it, and deep-down, whose norm is 0, nothing of it
    assert verdict["target/whole"] == verdict["target/shallow_down"] == 1.0
    base = sum(BASE["pretrained"])
    right = [sum((base > image) == bool(label) for image, label in images) for images in tasks.values()]
    full = [sum((sum(BASE[t]) > image) == bool(label) for image, label in tasks[t]) for t in tasks]
    kept = [one / other for one, other in zip(right, full, strict=True)]
    assert verdict["target/deep_down"] == pytest.approx(sum(kept) / 2)
    assert verdict["target/uniform"] == 1.0  # of equal norm: the same model
    told = [note for note in result.notes if "verdict" in note]
    assert len(told) == 3 and "shallow-down keeps" in told[1]
    names = {file.name for file in result.files}
    assert names == {f"{name}.{end}" for name in ("by_expert", "means") for end in ("svg", "csv")}


def test_the_same_experts_are_wanted_everywhere(toy: Path) -> None:
    for name in ("a", "b"):
        write_model(toy / f"{name}.safetensors", 0.5)
    write_suite(toy, {task: {"val": above(0.25)} for task in ("a", "b")})
    judge = {"op": "evaluate", "suite": "suite.yaml", "split": "val"}
    nodes = {
        "models": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b"]}},
        "one": {**judge, "model": "models[a]", "target": "a"},
        "all": {**judge, "model": "models", "target": "{e}"},
        "verdict": {"op": "premise", "shallow": "all", "deep": "one", "uniform": "all"},
    }
    path = toy / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "odd", "nodes": nodes}))
    with pytest.raises(RecipeError, match="node 'verdict': 'deep' has the experts , 'shallow' has a, b"):
        lines_pipeline.validate(path)
