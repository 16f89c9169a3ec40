"""Members on the line between two models: their places, numbers from 0 to 1, both ends among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import EvalError
from lines_pipeline.ops.metrics_table import Member, number


def line_diagnostics(x: str, members: Sequence[Member]) -> Iterable[Diagnostic]:
    """Yield what is wrong with the places that the name ``x`` of ``for_each`` gives the members of one line."""
    places = [number(member.names.get(x)) for member in members]
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        yield Diagnostic(("x",), f"'{x}' is no number in {places.count(None)} of {len(places)} members")
    elif 0 not in known or 1 not in known:
        yield Diagnostic(("x",), f"a line needs members where '{x}' is 0 and 1, found {_listed(known)}")
    elif not 0 <= min(known) <= max(known) <= 1 or len(set(known)) < len(known):
        yield Diagnostic(("x",), f"expected each '{x}' of a line once, from 0 to 1, found {_listed(known)}")


def _listed(places: Sequence[float]) -> str:
    text = ", ".join(f"{place:g}" for place in places[:12])
    return text + (", ..." if len(places) > 12 else "")


def values_by_place(x: str, metric: str, members: Iterable[Member]) -> dict[float, float]:
    """Return a metric by place; ``EvalError`` where a member's is no finite number."""
    return {_place(x, member): _value(metric, member) for member in members}


def _place(x: str, member: Member) -> float:
    place = number(member.names[x])
    assert place is not None
    return place


def _value(metric: str, member: Member) -> float:
    value = number(member.metric(metric))
    if value is None:
        raise EvalError(f"'{member.step}': '{metric}' is no finite number")
    return value
