"""Where the boxes of a graph's picture go: layers from left to right, few crossings, straight long edges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import networkx

GAP_Y = 26
GAP_X = 128
STUB = 66
"""What an edge runs straight after its box: room for the stack behind it and for a label."""
BEND_HEIGHT = 10
_SWEEPS = 8


@dataclass(frozen=True)
class Box:
    """A rectangle, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Return the height of its centre."""
        return self.y + self.height / 2


@dataclass(frozen=True)
class Drawing:
    """The boxes by node, the points each edge runs through, and the size of it all."""

    boxes: Mapping[str, Box]
    routes: Mapping[tuple[str, str], tuple[tuple[float, float], ...]]
    width: float
    height: float


_Bend = tuple[str, str, int]
"""Where an edge crosses a layer between those of its ends."""


def arranged(graph: networkx.DiGraph[str], sizes: Mapping[str, tuple[float, float]]) -> Drawing:
    """Return the layout of an acyclic graph whose nodes have the given widths and heights."""
    layer_of = _layers(graph)
    columns, links = _with_bends(graph, layer_of)
    _uncross(columns, links)
    lefts = _lefts(columns, sizes)
    middles = _middles(columns, links, sizes)
    boxes = {}
    for node in graph.nodes:
        width, height = sizes[node]
        boxes[node] = Box(lefts[layer_of[node]], middles[node] - height / 2, width, height)
    routes = {edge: _route(edge, boxes, layer_of, lefts, middles, columns, sizes) for edge in graph.edges}
    right = max(box.x + box.width for box in boxes.values())
    lowest = max([*(box.y + box.height for box in boxes.values()), *middles.values()])
    return Drawing(boxes, routes, right, lowest)


def _layers(graph: networkx.DiGraph[str]) -> dict[str, int]:
    """Return the longest way from a source; sources themselves stand right before what needs them first."""
    layer_of = {node: depth for depth, nodes in enumerate(networkx.topological_generations(graph)) for node in nodes}
    for node in [node for node in layer_of if not graph.in_degree(node) and graph.out_degree(node)]:
        layer_of[node] = min(layer_of[after] for after in graph.successors(node)) - 1
    return layer_of


def _with_bends(
    graph: networkx.DiGraph[str], layer_of: Mapping[str, int]
) -> tuple[list[list[str | _Bend]], list[tuple[str | _Bend, str | _Bend]]]:
    columns: list[list[str | _Bend]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for node in sorted(graph.nodes):
        columns[layer_of[node]].append(node)
    links: list[tuple[str | _Bend, str | _Bend]] = []
    for source, target in sorted(graph.edges):
        bends: list[str | _Bend] = [(source, target, layer) for layer in range(layer_of[source] + 1, layer_of[target])]
        for layer, bend in enumerate(bends, layer_of[source] + 1):
            columns[layer].append(bend)
        chain = [source, *bends, target]
        links += list(pairwise(chain))
    return columns, links


def _uncross(columns: list[list[str | _Bend]], links: Iterable[tuple[str | _Bend, str | _Bend]]) -> None:
    """Sort every column by the mean position of what its entries connect to, back and forth."""
    near = _neighbours(links)
    for sweep in range(_SWEEPS):
        order = columns[1:] if sweep % 2 == 0 else columns[-2::-1]
        for column in order:
            location = {
                entry: index / max(len(any_column) - 1, 1)
                for any_column in columns
                for index, entry in enumerate(any_column)
            }
            means = {
                entry: _mean([location[neighbour] for neighbour in near.get(entry, ())] or [location[entry]])
                for entry in column
            }
            column.sort(key=lambda entry: means[entry])


def _neighbours(links: Iterable[tuple[str | _Bend, str | _Bend]]) -> dict[str | _Bend, list[str | _Bend]]:
    near: dict[str | _Bend, list[str | _Bend]] = {}
    for source, target in links:
        near.setdefault(source, []).append(target)
        near.setdefault(target, []).append(source)
    return near


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def _lefts(columns: list[list[str | _Bend]], sizes: Mapping[str, tuple[float, float]]) -> list[float]:
    lefts, x = [], 0.0
    for column in columns:
        lefts.append(x)
        x += max((sizes[entry][0] for entry in column if isinstance(entry, str)), default=0) + GAP_X
    return lefts


def _middles(
    columns: list[list[str | _Bend]],
    links: Iterable[tuple[str | _Bend, str | _Bend]],
    sizes: Mapping[str, tuple[float, float]],
) -> dict[str | _Bend, float]:
    """Return heights: each entry as near to the mean of what it connects to as its column's order and gaps allow."""
    near = _neighbours(links)
    high = {
        entry: sizes[entry][1] if isinstance(entry, str) else BEND_HEIGHT
        for column_of_entry in columns
        for entry in column_of_entry
    }
    middles: dict[str | _Bend, float] = {}
    for column in columns:
        _stack(column, dict.fromkeys(column, 0.0), high, middles)
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 else reversed(columns):
            targets = {entry: _mean([middles[neighbour] for neighbour in near.get(entry, [entry])]) for entry in column}
            _stack(column, targets, high, middles)
    top = min(middle - high[entry] / 2 for entry, middle in middles.items())
    return {entry: middle - top for entry, middle in middles.items()}


def _stack(
    column: list[str | _Bend],
    targets: Mapping[str | _Bend, float],
    high: Mapping[str | _Bend, float],
    middles: dict[str | _Bend, float],
) -> None:
    """Place a column in its order with gaps, its centre where the entries want to be on average."""
    offsets, below = {}, 0.0
    for entry in column:
        offsets[entry] = below + high[entry] / 2
        below += high[entry] + GAP_Y
    shift = _mean([targets[entry] - offsets[entry] for entry in column]) if column else 0.0
    middles.update({entry: offset + shift for entry, offset in offsets.items()})


def _route(
    edge: tuple[str, str],
    boxes: Mapping[str, Box],
    layer_of: Mapping[str, int],
    lefts: list[float],
    middles: Mapping[str | _Bend, float],
    columns: list[list[str | _Bend]],
    sizes: Mapping[str, tuple[float, float]],
) -> tuple[tuple[float, float], ...]:
    """Yield the line from the right side of one box to the left side of another, level across every layer between."""
    source, target = edge
    start = boxes[source]
    right = start.x + start.width
    points = [(right, start.middle), (right + STUB, start.middle)]
    for layer in range(layer_of[source] + 1, layer_of[target]):
        width = max((sizes[entry][0] for entry in columns[layer] if isinstance(entry, str)), default=0)
        points += [(lefts[layer], middles[(*edge, layer)]), (lefts[layer] + width, middles[(*edge, layer)])]
    return (*points, (boxes[target].x, boxes[target].middle))
