"""``barrier``: how far a metric on the line between two models falls below the line between its ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port
from lines_pipeline.ops.derivations import Derivation, Derived
from lines_pipeline.ops.line_places import line_diagnostics, values_by_place
from lines_pipeline.ops.metrics_table import Member, cell_text

Line = dict[float, float]
"""The metric by the place on the line."""


class BarrierParams(OpParams):
    metric: str = Field(description="The metric that is followed.", min_length=1)
    x: str = Field("t", description="The name of for_each that says where a member is, from 0 to 1.", min_length=1)


class Barrier(Op[BarrierParams]):
    """Gives ``barrier``, which is 0 or more, and ``at``: where it is, the first of equals.

    The members are models ``(1 - t) a + t b``, with both ends among them. Where lower is better, the sign turns.
    Members that differ in other names than t are on lines of their own: ``barrier/<names>``, ``at/<names>`` of each,
    and ``barrier`` is the highest.
    """

    name = "barrier"
    formula = "max over t of (1 - t) m(0) + t m(1) - m(t)"
    source = "Frankle et al., arXiv 1912.05671 (linear mode connectivity)"
    gives = EdgeType.METRICS
    is_output = True
    inputs = {"metrics": Port(EdgeType.METRICS, many=True)}
    granularity = Granularity.MODEL
    Params = BarrierParams

    def derivation_of(self, params: BarrierParams) -> Derivation:
        return Derivation(
            make=lambda members: _derived(params, members["metrics"]),
            columns=((("x",), params.x), (("metric",), params.metric)),
            check=lambda members: _diagnostics(params, members["metrics"]),
        )


def _diagnostics(params: BarrierParams, members: Sequence[Member]) -> Iterable[Diagnostic]:
    for line in _lines(params.x, members).values():
        yield from line_diagnostics(params.x, line)


def _lines(x: str, members: Sequence[Member]) -> dict[str, list[Member]]:
    """Return the members by line: by what tells them apart besides their place on it."""
    places = [
        {column: cell_text(cell) for column, cell in member.known_columns.items() if column != x} for member in members
    ]
    telling = _telling(places)
    lines: dict[str, list[Member]] = {}
    for member, place in zip(members, places, strict=True):
        lines.setdefault("/".join(place.get(column, "") for column in telling), []).append(member)
    return lines


def _telling(places: Sequence[dict[str, str]]) -> list[str]:
    """Return the first columns that tell apart all that differ; none where nothing does."""
    columns: list[str] = []
    groups = len({tuple(sorted(place.items())) for place in places})
    for column in dict.fromkeys(column for place in places for column in place):
        known = len({tuple(place.get(name) for name in columns) for place in places})
        if known < groups and len({tuple(place.get(name) for name in (*columns, column)) for place in places}) > known:
            columns.append(column)
    return columns


def _derived(params: BarrierParams, members: Sequence[Member]) -> Derived:
    lower, unit = members[0].directions.get(params.metric) == "lower", members[0].units.get(params.metric, "")
    by_line = {
        name: highest(values_by_place(params.x, params.metric, line), lower=lower)
        for name, line in _lines(params.x, members).items()
    }
    most = max(by_line.values(), key=lambda point: point[0])
    metrics = {"barrier": most[0], "at": most[1]}
    if len(by_line) > 1:
        metrics |= {f"barrier/{name}": height for name, (height, _) in by_line.items()}
        metrics |= {f"at/{name}": at for name, (_, at) in by_line.items()}
    return Derived(metrics, {name: unit for name in metrics if name.startswith("barrier")})


def highest(line: Line, *, lower: bool = False) -> tuple[float, float]:
    """Return the barrier of a metric along t, and its t; ``lower``: of a metric of which less is better."""
    sign = -1.0 if lower else 1.0
    falls = {t: sign * ((1 - t) * line[0.0] + t * line[1.0] - line[t]) + 0.0 for t in sorted(line)}
    at = max(falls, key=lambda t: falls[t])
    return falls[at], at
