"""``pareto``: which members no other is better than, and the volume that they are better than a reference in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port
from lines_pipeline.ops.derivations import Derivation, Derived, Members
from lines_pipeline.ops.fronts import Point, front, hypervolume
from lines_pipeline.ops.metrics_table import Member, number


class ParetoParams(OpParams):
    objectives: tuple[str, ...] = Field(description="Two metrics or more.", min_length=2, strict=False)
    reference: tuple[float, ...] | None = Field(
        None, description="The point that volume is counted from, one number an objective; default 0.", strict=False
    )
    directions: tuple[Literal["maximize", "minimize"], ...] | None = Field(
        None,
        description="maximize or minimize, one an objective; default: what is better.",
        strict=False,
    )


class Pareto(Op[ParetoParams]):
    """Gives ``hypervolume``, ``front_size``, and ``on_front/<member>``: 1 of those on the front, else 0.

    Objectives that are minimized are negated. What is not better than the reference in all of them adds no volume.
    ``parent`` is a node whose metrics are the reference, such as the model that all members were tuned from.
    """

    name = "pareto"
    formula = "front: no other is >= in all objectives and > in one; hypervolume: volume between front and reference"
    source = "Zitzler & Thiele 1999; While et al. 2006 (slices); rewarded soups: arXiv 2306.04488"
    gives = EdgeType.METRICS
    is_output = True
    inputs = {
        "metrics": Port(EdgeType.METRICS, many=True),
        "parent": Port(EdgeType.METRICS, optional=True),
    }
    granularity = Granularity.MODEL
    Params = ParetoParams

    def check(self, params: ParetoParams, counts: Mapping[str, int]) -> str | None:
        count = len(params.objectives)
        for name in ("reference", "directions"):
            entries = getattr(params, name)
            if entries is not None and len(entries) != count:
                return f"'{name}' has {len(entries)} entries, expected {count}, one an objective"
        if counts["parent"] and params.reference is not None:
            return "the reference is 'reference' or 'parent', not both"
        return None

    def derivation_of(self, params: ParetoParams) -> Derivation:
        columns = [(("objectives", index), name) for index, name in enumerate(params.objectives)]
        return Derivation(lambda members: _derived(params, members), tuple(columns))


def _derived(params: ParetoParams, members: Members) -> Derived:
    shown, parent = members["metrics"], next(iter(members.get("parent", ())), None)
    signs = _signs(params, shown[0])
    reference = _reference(params, parent, signs)
    points = [_point(params, member, signs) for member in shown]
    on_front = front(points)
    volume = hypervolume([point for point in points if point is not None], reference)
    labels = [member.label for member in shown]
    names = labels if len(set(labels)) == len(labels) else [member.step for member in shown]
    flags = {f"on_front/{name}": float(kept) for name, kept in zip(names, on_front, strict=True)}
    return Derived({"hypervolume": volume, "front_size": float(sum(on_front)), **flags})


def _signs(params: ParetoParams, member: Member) -> Point:
    """Return 1 for objectives of which more is better, and -1 for the others."""
    if params.directions is not None:
        return tuple(1.0 if direction == "maximize" else -1.0 for direction in params.directions)
    return tuple(-1.0 if member.directions.get(name) == "lower" else 1.0 for name in params.objectives)


def _reference(params: ParetoParams, parent: Member | None, signs: Point) -> Point:
    """Return the point from which hypervolume is measured: the parent's, the given one, or else 0."""
    if parent is not None:
        point = _point(params, parent, signs)
        if point is None:
            raise EvalError(f"'{parent.step}' has an objective that is no finite number; give a 'reference'")
        return point
    if params.reference is None and min(signs) < 0:
        lower = params.objectives[signs.index(-1.0)]
        raise EvalError(f"'{lower}' is minimized, so that 0 is no reference; give 'reference' or 'parent'")
    return tuple(s * value for s, value in zip(signs, params.reference or (0.0,) * len(signs), strict=True))


def _point(params: ParetoParams, member: Member, signs: Point) -> Point | None:
    """Return the objectives of a member; None where one is no finite number."""
    values = [number(member.metric(name)) for name in params.objectives]
    known = [value for value in values if value is not None]
    return tuple(s * value for s, value in zip(signs, known, strict=True)) if len(known) == len(values) else None
