"""The graph of a recipe as a picture: Mermaid text, or a self-contained SVG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from lines_pipeline.core.printable import shortened
from lines_pipeline.core.scalars import scalar_text
from lines_pipeline.core.types import EdgeType
from lines_pipeline.graph.drawing import Box, Drawing, arranged
from lines_pipeline.graph.graph import Graph

_COLOURS = {
    EdgeType.WEIGHTS: ("#1f5fa8", "#eaf2fb"),
    EdgeType.DELTA: ("#a8530f", "#fdf1e6"),
    EdgeType.MASK: ("#6b3fa0", "#f3edfa"),
    EdgeType.STATISTICS: ("#1a7a7a", "#e6f5f5"),
    EdgeType.COEFFICIENTS: ("#8a2f5a", "#fbeaf2"),
    EdgeType.METRICS: ("#2d7a3e", "#eaf6ec"),
    EdgeType.FIGURE: ("#5a5a5a", "#f2f2f2"),
}
"""Line and fill by edge type; every line also carries its type in words."""

_MARGIN = 24
_STACK = 5
_NAME_WIDTH, _TEXT_WIDTH, _LINE = 8.4, 6.6, 16
_MAX_LINES, _MAX_TEXT = 5, 34
_FONT = "font-family=\"'DejaVu Sans', Verdana, Arial, sans-serif\""


def mermaid(graph: Graph) -> str:
    """Return a Mermaid flowchart, left to right: nodes with op and parameters, edges with types."""
    drawn = graph.digraph
    number = {node: f"n{index}" for index, node in enumerate(drawn.nodes)}
    lines = ["flowchart LR"]
    for node, short in number.items():
        label = "<br/>".join([f"<b>{_entity(_title(graph, node))}</b>", *map(_entity, _lines(graph, node))])
        opening, closing = ("[[", "]]") if _is_collection(graph, node) else ("[", "]")
        lines.append(f'  {short}{opening}"{label}"{closing}:::{_gives(graph, node)}')
    for source, target, edge in drawn.edges(data=True):
        lines.append(f'  {number[source]} -- "{edge["type"]}" --> {number[target]}')
    for kind, (line, fill) in _COLOURS.items():
        lines.append(f"  classDef {kind} fill:{fill},stroke:{line},color:#1b1b1b")
    return "\n".join(lines) + "\n"


def _entity(text: str) -> str:
    """Return a text as Mermaid takes it in a quoted label."""
    special = '&"<>#;[]{}()|`\\'
    return "".join(f"#{ord(letter)};" if letter in special else letter for letter in text)


def svg(graph: Graph) -> str:
    """Return an SVG drawing, left to right: nodes with op and parameters, collections as stacks, edges with types."""
    sizes = {node: _size(graph, node) for node in graph.digraph.nodes}
    drawing = arranged(graph.digraph, sizes)
    width, height = drawing.width + 2 * _MARGIN, drawing.height + 2 * _MARGIN
    parts = [
        _opening(width, height),
        "<title>Graph of the recipe's nodes</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        f'<g transform="translate({_MARGIN} {_MARGIN})">',
        *_drawn_edges(graph, drawing),
        *(line for node, box in drawing.boxes.items() for line in _drawn_node(graph, node, box)),
        *_drawn_labels(graph, drawing),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _opening(width: float, height: float) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {_FONT} font-size="11" role="img">'


def _gives(graph: Graph, node: str) -> EdgeType:
    return graph.steps[graph.members[node][0]].gives


def _is_collection(graph: Graph, node: str) -> bool:
    return graph.steps[graph.members[node][0]].item is not None


def _title(graph: Graph, node: str) -> str:
    return f"{node}  ×{len(graph.members[node])}" if _is_collection(graph, node) else node


def _lines(graph: Graph, node: str) -> list[str]:
    """Return what stands under a node's name: its op, and the parameters that the recipe gives it."""
    written = graph.recorded.get(node, {})
    lines = [shortened(f"{name}: {_value(value)}", _MAX_TEXT) for name, value in written.items()]
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], f"and {len(lines) - _MAX_LINES + 1} more"]
    return [graph.steps[graph.members[node][0]].op.name, *lines]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(inside)}" for key, inside in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return scalar_text(value)


def _size(graph: Graph, node: str) -> tuple[float, float]:
    lines = _lines(graph, node)
    widths = [len(_title(graph, node)) * _NAME_WIDTH, *(len(line) * _TEXT_WIDTH for line in lines)]
    return max(90.0, max(widths) + 24), 26.0 + _LINE * len(lines)


def _drawn_node(graph: Graph, node: str, box: Box) -> Iterable[str]:
    line, fill = _COLOURS[_gives(graph, node)]
    for shift in (2 * _STACK, _STACK, 0) if _is_collection(graph, node) else (0,):
        yield (
            f'<rect x="{box.x + shift:.1f}" y="{box.y - shift:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
            f'rx="7" fill="{fill}" stroke="{line}" stroke-width="1.3"/>'
        )
    x, y = box.x + 11, box.y + 18
    name = escape(_title(graph, node))
    yield f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" font-weight="bold" fill="#1b1b1b">{name}</text>'
    for index, text in enumerate(_lines(graph, node)):
        colour = line if index == 0 else "#444444"
        yield f'<text x="{x:.1f}" y="{y + _LINE * (index + 1):.1f}" fill="{colour}">{escape(_printable(text))}</text>'


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _drawn_edges(graph: Graph, drawing: Drawing) -> Iterable[str]:
    for source, target, edge in graph.digraph.edges(data=True):
        colour = _COLOURS[edge["type"]][0]
        points = drawing.routes[source, target]
        way = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        for (x0, y0), (x1, y1) in zip(points, (*points[1:-1], (points[-1][0] - 6, points[-1][1])), strict=False):
            if (x1, y1) == (x0, y0):
                continue
            bend = (x1 - x0) / 2
            way += f" C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
        x, y = points[-1]
        yield f'<path d="{way}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
        yield f'<path d="M{x - 8:.1f} {y - 4:.1f} L{x:.1f} {y:.1f} L{x - 8:.1f} {y + 4:.1f} Z" fill="{colour}"/>'


def _drawn_labels(graph: Graph, drawing: Drawing) -> Iterable[str]:
    """Return the type of each edge, once where the edges of a node leave together."""
    for node in graph.digraph.nodes:
        if not graph.digraph.out_degree(node):
            continue
        box, kind = drawing.boxes[node], _gives(graph, node)
        x, width = box.x + box.width + (16 if _is_collection(graph, node) else 8), 8 + len(kind) * 6.2
        yield f'<rect x="{x:.1f}" y="{box.middle - 8:.1f}" width="{width:.1f}" height="16" fill="#ffffff"/>'
        yield (
            f'<text x="{x + width / 2:.1f}" y="{box.middle + 3.5:.1f}" font-size="10" text-anchor="middle" '
            f'fill="{_COLOURS[kind][0]}">{kind}</text>'
        )
