"""Ranges of items, and nodes that combine what they map over with items of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lines_pipeline.core.errors import RecipeError
from lines_pipeline.graph.graph import Graph
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe

Write = Callable[..., Path]

RANGE = """\
name: swept
vars: {{scales: {0}}}
nodes:
  m: {{op: load, path: m.safetensors}}
  d: {{op: task-vector, base: m, model: m}}
  s: {{op: scale, delta: d, by: "{{gamma}}", for_each: {{gamma: {0}}}}}
  v: {{op: scale, delta: d, by: "{{gamma}}", for_each: {{gamma: "${{scales}}"}}}}
  saved: {{op: save, model: s, path: "by-{{gamma}}.safetensors"}}
"""


def graph_of(path: Path) -> Graph:
    return build_graph(load_recipe(path))


def members(graph: Graph, node: str) -> list[str]:
    """The items of a node."""
    return [step.removeprefix(node)[1:-1] for step in graph.members[node]]


@pytest.mark.parametrize(
    ("written_range", "keys"),
    [
        ("{low: 0, high: 1, step: 0.25}", ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        ("{low: 0.1, high: 0.5, step: 0.2}", ["0.1", "0.3", "0.5"]),
        ("{low: 1, high: 10, step: 3}", ["1", "4", "7", "10"]),
        ("{low: 0, high: 2e-3, step: 1e-3}", ["0.000", "0.001", "0.002"]),
        ("{low: 0.05, high: 0.25, step: 0.1}", ["0.05", "0.15", "0.25"]),
        ("{low: -1, high: 1, step: 1.0}", ["-1", "0", "1"]),
        ("{low: 2, high: 2, step: 0.5}", ["2.0"]),
    ],
)
def test_a_range_is_a_list_of_exact_decimals(written_range: str, keys: list[str], written: Write) -> None:
    graph = graph_of(written(RANGE.format(written_range)))
    assert members(graph, "s") == members(graph, "v") == keys
    assert [graph.steps[f"s[{key}]"].params.model_dump()["by"] for key in keys] == [float(key) for key in keys]
    assert [graph.steps[step].params.model_dump()["path"] for step in graph.members["saved"]] == [
        f"by-{key}.safetensors" for key in keys
    ]


@pytest.mark.parametrize(
    ("written_range", "message"),
    [
        ("{low: 0, high: 1}", "'step' is missing"),
        ("{low: 0, high: 1, step: 0.3}", r"steps of 0\.3 from 0 do not reach 1; set 'high' to 0\.9"),
        ("{low: 1, high: 0, step: 0.1}", r"'low' \(1\) is above 'high' \(0\)"),
        ("{low: 0, high: 1, step: 0}", "expected a number above 0, found 0"),
        ("{low: 0, high: 1, step: 1e-9}", "more than 10,000 values"),
        ("{low: 0, high: x, step: 1}", "expected a number, found 'x'"),
        ("{low: 0, high: 1, stepp: 1}", r"unknown key 'stepp' \(did you mean 'step'\?\)"),
        ("{a: 1}", "expected a list of items, found a map of a"),
    ],
)
def test_what_is_no_range_is_told(written_range: str, message: str, written: Write) -> None:
    with pytest.raises(RecipeError, match=message):
        graph_of(written(RANGE.format(written_range)))


PRODUCT = """\
name: product
nodes:
  base: {op: load, path: base.safetensors}
  experts: {op: load, path: "{task}.safetensors", for_each: {task: [greek, digits]}}
  updates: {op: task-vector, base: base, model: experts}
  scaled: {op: scale, delta: updates, by: "{gamma}", for_each: {gamma: {low: 0, high: 1, step: 0.5}}}
  model: {op: apply, base: base, delta: scaled}
  saved: {op: save, model: model, path: "{task}-{gamma}.safetensors"}
"""
KEYS = ["greek/0.0", "greek/0.5", "greek/1.0", "digits/0.0", "digits/0.5", "digits/1.0"]


def test_a_product_has_a_member_a_pair(written: Write) -> None:
    graph = graph_of(written(PRODUCT))
    assert members(graph, "scaled") == members(graph, "model") == members(graph, "saved") == KEYS
    step = graph.steps["scaled[digits/0.5]"]
    assert step.inputs == {"delta": ("updates[digits]",)} and step.params.model_dump()["by"] == 0.5
    assert graph.steps["saved[greek/1.0]"].params.model_dump()["path"] == "greek-1.0.safetensors"


def test_a_member_of_a_product_can_be_named(written: Write) -> None:
    graph = graph_of(written(PRODUCT + "  one: {op: save, model: 'model[digits/0.5]', path: one.safetensors}\n"))
    assert graph.steps["one"].inputs == {"model": ("model[digits/0.5]",)}


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("{greek: 1, digits: 2}", [1, 1, 1, 2, 2, 2]),
        ("{0.0: 1, 0.5: 2, 1.0: 3}", [1, 2, 3, 1, 2, 3]),
        ("{" + ", ".join(f"{key}: {number}" for number, key in enumerate(KEYS)) + "}", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_map_by_item_may_name_one_side_or_the_pairs(by: str, expected: list[float], written: Write) -> None:
    graph = graph_of(written(PRODUCT.replace('by: "{gamma}"', f"by: {by}")))
    assert [graph.steps[f"scaled[{key}]"].params.model_dump()["by"] for key in KEYS] == expected


def test_items_of_the_same_name_go_together(written: Write) -> None:
    text = PRODUCT.replace(
        "for_each: {gamma: {low: 0, high: 1, step: 0.5}}", "for_each: {task: [digits, greek], gamma: [1, 2]}"
    )
    graph = graph_of(written(text))
    assert members(graph, "scaled") == ["digits", "greek"]
    assert graph.steps["scaled[greek]"].params.model_dump()["by"] == 2


def test_too_large_a_product_is_refused(written: Write) -> None:
    text = PRODUCT.replace("step: 0.5", "step: 0.0002").replace("[greek, digits]", "[a, b, c]")
    with pytest.raises(RecipeError, match="3 members times 5,001 items are too many, expected at most 10,000"):
        graph_of(written(text))
