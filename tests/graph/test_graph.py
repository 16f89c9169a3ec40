from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lines_pipeline.core.errors import RecipeError
from lines_pipeline.core.types import EdgeType
from lines_pipeline.graph.graph import Graph
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe

Write = Callable[..., Path]

START = """\
name: x
nodes:
  base: {op: load, path: b}
  experts: {op: load, path: "{task}.pt", for_each: {task: [one, two, three]}}
  updates: {op: task-vector, model: experts, base: base}
  total: {op: task-arithmetic, deltas: updates}
"""
END = "  end: {op: evaluate, model: base, suite: s}\n"


def graph_of(written: Write, nodes: str) -> Graph:
    """The graph of the common start and some more nodes."""
    lines = "".join(f"  {line}\n" for line in nodes.splitlines())
    return build_graph(load_recipe(written(START + lines + END)))


def params(graph: Graph, step: str) -> dict[str, Any]:
    return graph.steps[step].params.model_dump()


def test_nodes_become_steps_in_order(written: Write, good: str) -> None:
    graph = build_graph(load_recipe(written(good)))
    assert list(graph.steps)[:4] == ["base", "experts[letters]", "experts[digits]", "experts[greek]"]
    assert graph.members["updates"] == ("updates[letters]", "updates[digits]", "updates[greek]")
    step = graph.steps["updates[digits]"]
    assert (step.node, step.item, step.op.name, step.gives) == ("updates", "digits", "task-vector", EdgeType.DELTA)
    assert step.inputs == {"model": ("experts[digits]",), "base": ("base",)}
    assert graph.steps["merged"].inputs["deltas"] == graph.members["updates"]
    assert graph.steps["merged"].op.name == "ties"
    assert graph.steps["saved"].gives is EdgeType.WEIGHTS
    assert graph.sinks == ("saved", "val")


def test_every_step_comes_after_what_it_takes(written: Write, good: str) -> None:
    graph = build_graph(load_recipe(written(good)))
    order = list(graph.steps)
    assert all(order.index(source) < order.index(step.id) for step in graph.steps.values() for source in step.sources)


def test_needed_are_the_ancestors_in_order(written: Write, good: str) -> None:
    graph = build_graph(load_recipe(written(good)))
    assert graph.ancestors(["updates[digits]"]) == ("base", "experts[digits]", "updates[digits]")
    assert graph.ancestors(["val"]) == tuple(step for step in graph.steps if step != "saved")
    assert graph.ancestors(["updates", "base"])[-1] == "updates[greek]"
    with pytest.raises(KeyError, match="nothing"):
        graph.ancestors(["nothing"])


def test_the_picture_graph_names_ports_and_types(written: Write, good: str) -> None:
    drawn = build_graph(load_recipe(written(good))).digraph
    assert drawn.edges["updates", "scaled"] == {"type": EdgeType.DELTA, "ports": ("deltas",)}
    assert drawn.number_of_nodes() == 8


def test_mapping_keeps_keys_and_names(written: Write) -> None:
    graph = graph_of(
        written, 'models: {op: apply, base: base, delta: updates}\nout: {op: save, model: models, path: "{task}/"}'
    )
    assert [params(graph, step)["path"] for step in graph.members["out"]] == ["one/", "two/", "three/"]
    assert graph.steps["out[two]"].inputs == {"model": ("models[two]",)}


def test_collections_zip_by_key_whatever_their_order(written: Write) -> None:
    graph = graph_of(
        written,
        "other: {op: load, path: '{n}', for_each: {n: [three, one, two]}}\n"
        "odd: {op: task-vector, model: experts, base: other}",
    )
    assert graph.members["odd"] == ("odd[one]", "odd[two]", "odd[three]")
    assert graph.steps["odd[three]"].inputs == {"model": ("experts[three]",), "base": ("other[three]",)}


def test_lists_flatten_collections_in_order(written: Write) -> None:
    graph = graph_of(written, "mix: {op: soup, models: [base, experts, 'experts[one]']}")
    assert graph.steps["mix"].inputs["models"] == (
        "base",
        "experts[one]",
        "experts[two]",
        "experts[three]",
        "experts[one]",
    )


def test_items_pick_members(written: Write) -> None:
    graph = graph_of(written, "more: {op: scale, delta: 'updates[{t}]', by: 2, for_each: {t: [three, one]}}")
    assert graph.members["more"] == ("more[three]", "more[one]")
    assert graph.steps["more[one]"].inputs == {"delta": ("updates[one]",)}


def test_each_ports_map_over_lists_and_collections(written: Write) -> None:
    graph = graph_of(
        written,
        "all: {op: tall-mask, deltas: updates, merged: total, threshold: {three: 0.3, one: 0.1, two: 0.2}}\n"
        "some: {op: tall-mask, deltas: ['updates[two]', total], merged: total, threshold: [0.5, 0.6]}\n"
        "single: {op: tall-mask, deltas: total, merged: total}",
    )
    assert [params(graph, step)["threshold"] for step in graph.members["all"]] == [(0.1,), (0.2,), (0.3,)]
    assert graph.members["some"] == ("some[two]", "some[total]")
    assert params(graph, "some[total]")["threshold"] == (0.6,)
    assert graph.members["single"] == ("single[total]",)
    assert params(graph, "single[total]")["threshold"] == (0.4,)


@pytest.mark.parametrize(
    ("written_as", "expected"),
    [
        ("2", (2.0, 2.0, 2.0)),
        ("[1, 2, 3]", (1.0, 2.0, 3.0)),
        ("{three: 3, two: 2, one: 1}", (1.0, 2.0, 3.0)),
    ],
)
def test_parameters_by_item(written: Write, written_as: str, expected: tuple[float, ...]) -> None:
    graph = graph_of(written, f"sum: {{op: task-arithmetic, deltas: updates, weights: {written_as}}}")
    assert params(graph, "sum")["weights"] == expected
    assert params(graph, "total")["weights"] == (1.0, 1.0, 1.0)


def test_maps_by_item_name_single_nodes_by_their_names(written: Write) -> None:
    graph = graph_of(
        written, "sum: {op: task-arithmetic, deltas: ['updates[one]', total], weights: {total: 2, one: 1}}"
    )
    assert params(graph, "sum")["weights"] == (1.0, 2.0)


def test_any_parameter_of_a_collection_may_be_a_map_by_item(written: Write) -> None:
    graph = graph_of(written, "s: {op: scale, delta: updates, by: {one: 1, two: 2, three: 3}}")
    assert [params(graph, step)["by"] for step in graph.members["s"]] == [1.0, 2.0, 3.0]


def test_items_keep_their_type_where_they_are_the_whole_text(written: Write) -> None:
    graph = graph_of(written, "s: {op: lines-scale, delta: total, gamma: '{g}', for_each: {g: [0, 0.5, 1]}}")
    assert graph.members["s"] == ("s[0]", "s[0.5]", "s[1]")
    assert [params(graph, step)["gamma"] for step in graph.members["s"]] == [0.0, 0.5, 1.0]


def test_several_names_go_side_by_side(written: Write) -> None:
    graph = graph_of(written, "s: {op: load, path: '{d}/{n}', for_each: {n: [a, b], d: [x, y]}}")
    assert {step: params(graph, step)["path"] for step in graph.members["s"]} == {"s[a]": "x/a", "s[b]": "y/b"}


def test_only_declared_names_are_replaced(written: Write) -> None:
    graph = graph_of(
        written, r"s: {op: load, path: 'a{task}{n}', rename: [{from: 'h\d{1,2}', to: '{n}'}], for_each: {n: [7]}}"
    )
    assert params(graph, "s[7]")["path"] == "a{task}7"
    assert params(graph, "s[7]")["rename"][0]["from_"] == r"h\d{1,2}"


def test_globs_are_kept_and_filled(written: Write) -> None:
    graph = graph_of(written, "s: {op: scale, delta: updates, by: 1, include: ['{task}.*'], exclude: ['*.bias']}")
    assert (graph.steps["s[two]"].include, graph.steps["s[two]"].exclude) == (("two.*",), ("*.bias",))


def test_a_circle_hides_no_other_mistake(written: Write) -> None:
    nodes = "a: {op: scale, delta: b, by: 1}\nb: {op: scale, delta: a, by: 1}\nc: {op: scale, delta: a, by: x}"
    nodes += "\nd: {op: teis}"
    with pytest.raises(RecipeError) as caught:
        graph_of(written, nodes)
    assert [diagnostic.node for diagnostic in caught.value.diagnostics] == ["a", "c", "d"]


def shuffled(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, Mapping):
        return value
    keys = list(value)
    rng.shuffle(keys)
    return {key: shuffled(value[key], rng) for key in keys}


@given(st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_keys_means_nothing(written: Write, good: str, rng: random.Random) -> None:
    import json

    from lines_pipeline.recipe.syntax.yaml_source import parse_yaml

    recipe = load_recipe(written(good))
    data = parse_yaml(good, "x")[0]
    two = load_recipe(written(json.dumps(shuffled(data, rng)), "shuffled.yaml"))
    assert (two.canonical(), two.hash) == (recipe.canonical(), recipe.hash)
    first, second = build_graph(recipe), build_graph(two)
    assert list(first.steps.items()) == list(second.steps.items())
    assert list(first.members.items()) == list(second.members.items())
