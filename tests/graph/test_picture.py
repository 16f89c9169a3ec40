from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lines_pipeline.graph.drawing import arranged
from lines_pipeline.graph.graph import Graph
from lines_pipeline.graph.picture import mermaid, svg
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe

Write = Callable[..., Path]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def graph(written: Write, good: str) -> Graph:
    return build_graph(load_recipe(written(good)))


def test_mermaid_names_nodes_parameters_sizes_and_types(graph: Graph) -> None:
    lines = mermaid(graph).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  n3[["<b>updates  ×3</b><br/>task-vector"]]:::delta' not in lines
    assert '  n2[["<b>updates  ×3</b><br/>task-vector"]]:::delta' in lines
    assert '  n3["<b>merged</b><br/>ties<br/>density: 0.2"]:::delta' in lines
    assert '  n2 -- "delta" --> n3' in lines
    assert sum(" --> " in line for line in lines) == graph.digraph.number_of_edges()


def test_svg_stands_alone_and_says_the_same(graph: Graph) -> None:
    drawing = svg(graph)
    root = ElementTree.fromstring(drawing)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    for text in ("updates  ×3", "merged", "ties", "density: 0.2", "path: zoo://glyphs/{task}", "weights", "delta"):
        assert text in texts
    assert "http" not in drawing.replace("http://www.w3.org/2000/svg", "")
    assert drawing == svg(graph)


def test_collections_are_drawn_as_stacks(graph: Graph) -> None:
    rectangles = [element for element in ElementTree.fromstring(svg(graph)).iter(f"{SVG}rect") if element.get("rx")]
    assert len(rectangles) == 6 + 2 * 3


def test_boxes_do_not_overlap_and_edges_go_right(graph: Graph) -> None:
    sizes = {node: (100.0 + 10 * index, 40.0 + 5 * index) for index, node in enumerate(graph.digraph.nodes)}
    drawing = arranged(graph.digraph, sizes)
    boxes = list(drawing.boxes.values())
    for index, box in enumerate(boxes):
        for two in boxes[:index]:
            apart = box.x >= two.x + two.width or two.x >= box.x + box.width
            assert apart or box.y >= two.y + two.height or two.y >= box.y + box.height
    for (source, target), points in drawing.routes.items():
        assert drawing.boxes[source].x < drawing.boxes[target].x
        assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_long_edges_run_clear_of_boxes(graph: Graph) -> None:
    drawing = arranged(graph.digraph, dict.fromkeys(graph.digraph.nodes, (120.0, 60.0)))
    points = [(x, y) for route in drawing.routes.values() for x, y in route[2:-1]]
    assert points
    for x, y in points:
        assert not any(
            box.x < x < box.x + box.width and box.y < y < box.y + box.height for box in drawing.boxes.values()
        )


def test_odd_texts_are_escaped(written: Write) -> None:
    text = "name: x\nnodes:\n  a: {op: load, path: '<b>\"&]|`x`\\u0000 ü'}\n  s: {op: save, model: a, path: x/}\n"
    graph = build_graph(load_recipe(written(text)))
    assert any("<b>" in (element.text or "") for element in ElementTree.fromstring(svg(graph)).iter(f"{SVG}text"))
    assert "#60;b#62;#34;#38;#93;#124;" in mermaid(graph)
