"""Finds circles among a recipe's nodes, and an order in which each comes after those that it names."""

from __future__ import annotations

from collections.abc import Mapping

import networkx

from lines_pipeline.recipe.binding.nodes import UnboundNode


def circles(unbound_nodes: Mapping[str, UnboundNode]) -> list[list[str]]:
    """Return the nodes that depend on themselves, each circle as names from the first in the alphabet back to it."""
    graph = _dependencies(unbound_nodes)
    ways = []
    for group in networkx.strongly_connected_components(graph):
        start = min(group)
        inside = graph.subgraph(group)
        if inside.has_edge(start, start):
            ways.append([start, start])
        elif len(group) > 1:
            ways.append(_way_round(inside, start))
    return sorted(ways)


def _way_round(graph: networkx.DiGraph[str], start: str) -> list[str]:
    """Return the shortest way from a node back to it, the first in the alphabet of several."""
    steps_left = dict(networkx.single_target_shortest_path_length(graph, start))
    way = [start]
    while len(way) == 1 or way[-1] != start:
        way.append(min(graph.successors(way[-1]), key=lambda node: (steps_left[node], node)))
    return way


def node_order(unbound_nodes: Mapping[str, UnboundNode]) -> list[str]:
    """Return the names in topological order, ties by name; what is in a circle or behind one is left out."""
    graph = _dependencies(unbound_nodes)
    for group in list(networkx.strongly_connected_components(graph)):
        if len(group) > 1 or graph.has_edge(*(list(group) * 2)):
            graph.remove_nodes_from(group)
    return list(networkx.lexicographical_topological_sort(graph))


def _dependencies(unbound_nodes: Mapping[str, UnboundNode]) -> networkx.DiGraph[str]:
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(sorted(unbound_nodes))
    graph.add_edges_from(
        (source, name)
        for name in sorted(unbound_nodes)
        for source in unbound_nodes[name].named()
        if source in unbound_nodes
    )
    return graph
