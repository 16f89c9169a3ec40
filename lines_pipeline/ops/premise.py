"""``premise``: whether experts hold their task in deep blocks, as LiNeS presumes: one table and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.types import EdgeType
from lines_pipeline.core.units import SHARE
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port
from lines_pipeline.ops.derivations import Derivation, Derived, Members
from lines_pipeline.ops.mean_intervals import Interval, mean_interval
from lines_pipeline.ops.metrics_table import Member, number

SCALINGS: Mapping[str, str] = {"whole": "whole", "shallow": "shallow_down", "deep": "deep_down", "uniform": "uniform"}
"""What the rows of the table are called, by port."""
PARTS = ("target", "control")
_SHOWN = {"whole": "whole update", "shallow": "shallow-down", "deep": "deep-down", "uniform": "uniform"}


class PremiseParams(OpParams):
    metric: str = Field("accuracy", description="The suite's metric of which normalized figures count.", min_length=1)


class Premise(Op[PremiseParams]):
    """Gives ``target/<scaling>`` and ``control/<scaling>``, means over experts, and differences with 95 % intervals.

    The inputs are collections with a member an expert, of updates of equal size, each evaluated with its ``target``.
    ``holds`` is 1 where shallow-down keeps more of the target than deep-down, -1 where it keeps less, and 0 where the
    interval contains 0. Intervals are Student's over experts, pair by pair; one expert alone has none.
    """

    name = "premise"
    formula = "mean over experts of target(shallow-down) - target(deep-down), +- t(0.975, N - 1) s / sqrt(N)"
    source = "the premise: Wang et al., arXiv 2410.17146; the interval: Student, Biometrika 6 (1908)"
    gives = EdgeType.METRICS
    is_output = True
    inputs = {port: Port(EdgeType.METRICS, many=True, optional=port == "whole") for port in SCALINGS}
    granularity = Granularity.MODEL
    Params = PremiseParams

    def derivation_of(self, params: PremiseParams) -> Derivation:
        return Derivation(lambda members: _derived(params, members), check=_diagnostics)


def _diagnostics(members: Members) -> Iterable[Diagnostic]:
    first = _keys(members["shallow"])
    for port in members:
        if _keys(members[port]) != first:
            theirs, expected = ", ".join(_keys(members[port])), ", ".join(first)
            message = f"'{port}' has the experts {theirs}, 'shallow' has {expected}; expected the same ones"
            yield Diagnostic((port,), message)


def _keys(members: Sequence[Member]) -> list[str]:
    """Return what tells the experts apart: their keys; nothing for one that is in no collection."""
    return [member.item or "" for member in members]


def _derived(params: PremiseParams, members: Members) -> Derived:
    figures = {
        (part, port): [_figure(member, f"{part}_normalized_{params.metric}") for member in members[port]]
        for part in PARTS
        for port in SCALINGS
        if port in members
    }
    means = {f"{part}/{SCALINGS[port]}": fmean(values) for (part, port), values in figures.items()}
    differences = {
        (other, part): _difference(figures[part, "shallow"], figures[part, other])
        for other in ("deep", "uniform")
        for part in PARTS
    }
    told = dict[str, float]()
    for (other, part), interval in differences.items():
        told |= interval.metrics(f"shallow_minus_{SCALINGS[other]}/{part}")
    shares = dict.fromkeys([*means, *told], SHARE)
    rows = [
        {"scaling": SCALINGS[port], **{part: means[f"{part}/{SCALINGS[port]}"] for part in PARTS}}
        for port in SCALINGS
        if port in members
    ]
    decided = differences["deep", "target"]
    notes = (_table(means, members), _verdict(decided, len(members["shallow"])), _beside_uniform(differences))
    return Derived({**means, **told, "holds": float(decided.sign)}, shares, notes, tuple(rows))


def _difference(values: Sequence[float], others: Sequence[float]) -> Interval:
    return mean_interval([value - other for value, other in zip(values, others, strict=True)])


def _figure(member: Member, metric: str) -> float:
    figure = number(member.metric(metric))
    if figure is None:
        raise EvalError(f"'{member.step}': '{metric}' is no finite number")
    return figure


def _table(means: Mapping[str, float], members: Members) -> str:
    """Return the table on one line: what is kept of the target, and of control, by scaling."""
    parts = [
        f"{_SHOWN[port]} {means[f'target/{name}']:.1%} and {means[f'control/{name}']:.1%}"
        for port, name in SCALINGS.items()
        if port in members
    ]
    return f"kept of the target (over the expert) and of control (over the pretrained model): {'; '.join(parts)}"


def _verdict(interval: Interval, experts: int) -> str:
    measured = f"{interval.told}, {experts} expert{'s' * (experts > 1)}"
    claim = f"at equal size, shallow-down keeps {interval.points} of the target than deep-down ({measured})"
    if interval.low is None:
        return f"one expert does not tell whether LiNeS' premise holds: {claim}"
    if interval.sign > 0:
        return f"LiNeS' premise holds: {claim}"
    if interval.sign < 0:
        return f"LiNeS' premise does not hold, these tasks are in shallow blocks: {claim}"
    return f"whether LiNeS' premise holds is not decided: {claim}"


def _beside_uniform(differences: Mapping[tuple[str, str], Interval]) -> str:
    target, control = (differences["uniform", part] for part in PARTS)
    return (
        f"beside uniform scaling of equal size, shallow-down keeps {target.points} of the target ({target.told}) "
        f"and {control.points} of control ({control.told})"
    )
