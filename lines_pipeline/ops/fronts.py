"""Pareto fronts and hypervolumes of points, of which more is better in every objective."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, ...]
"""The objectives of a member, one number each; more is better."""


def front(points: Sequence[Point | None]) -> list[bool]:
    """Return of each point whether no other is better in one objective and not worse in any; equal points all are."""
    known = [point for point in points if point is not None]
    return [point is not None and not any(_dominates(rival, point) for rival in known) for point in points]


def _dominates(rival: Point, point: Point) -> bool:
    return rival != point and all(a >= b for a, b in zip(rival, point, strict=True))


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the volume of all that some point is better than and that is better than the reference.

    It is cut into slices along the last objective, between which the points that reach a slice stay the same.
    """
    better = [point for point in points if all(a > b for a, b in zip(point, reference, strict=True))]
    if not better:
        return 0.0
    if len(reference) == 1:
        return max(better)[0] - reference[0]
    heights = [*sorted({point[-1] for point in better}, reverse=True), reference[-1]]
    volume = 0.0
    for top, bottom in pairwise(heights):
        reaching = [point[:-1] for point in better if point[-1] >= top]
        volume += (top - bottom) * hypervolume(reaching, reference[:-1])
    return volume
