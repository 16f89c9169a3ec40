"""``wise-ft``: figures out of distribution against those in distribution, on the line from a model to its fine-tune."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port
from lines_pipeline.ops.derivations import Derivation, Derived, Members
from lines_pipeline.ops.fronts import hypervolume
from lines_pipeline.ops.line_places import line_diagnostics, values_by_place
from lines_pipeline.ops.metrics_table import Member

ID, OOD = "id", "ood"
HALF = 0.5


class WiseFTParams(OpParams):
    metric: str = Field("mean_accuracy", description="The metric of 'id', in distribution.", min_length=1)
    ood_metric: str = Field("", description="The metric of 'ood'; default: the same.")
    x: str = Field("g", description="The name of for_each that says where a member is, from 0 to 1.", min_length=1)
    tolerance: float = Field(0.005, description="What 'best' may lose in distribution, beside the fine-tune.", ge=0)

    @property
    def metrics(self) -> Mapping[str, str]:
        """Return the metric that is followed, by port."""
        return {ID: self.metric, OOD: self.ood_metric or self.metric}


class WiseFT(Op[WiseFTParams]):
    """Gives ``id/<g>`` and ``ood/<g>``, what each gains on both ends of the line, and a summary of the curve.

    The inputs are two evaluations of the same models, member by member: one in distribution, one out of it (another
    split, or other tasks). ``id_over_base``, ``ood_over_base`` (g = 0), ``id_over_expert`` and ``ood_over_expert`` (g =
    1) are differences, by g. ``best_ood`` is the best figure out of distribution of those that lose at most
    ``tolerance`` of the fine-tune's in distribution, at ``best_at``; ``half_id`` and ``half_ood`` are those of g = 0.5,
    where it is a member. ``area`` is the area below and left of the curve's points: the hypervolume from 0. It is left
    out of metrics of which less is better, as are points that are not above 0.
    """

    name = "wise-ft"
    formula = "ood(g) against id(g), g from 0 to 1"
    source = "Wortsman et al., arXiv 2109.01903"
    gives = EdgeType.METRICS
    is_output = True
    inputs = {ID: Port(EdgeType.METRICS, many=True), OOD: Port(EdgeType.METRICS, many=True)}
    granularity = Granularity.MODEL
    metrics_by = "place"
    Params = WiseFTParams

    def derivation_of(self, params: WiseFTParams) -> Derivation:
        return Derivation(
            make=lambda members: _derived(params, members),
            columns=((("metric",), params.metric),),
            check=lambda members: _diagnostics(params, members),
        )


def _diagnostics(params: WiseFTParams, members: Members) -> Iterable[Diagnostic]:
    yield from line_diagnostics(params.x, members[ID])
    places = [{str(member.names.get(params.x)) for member in members[port]} for port in (ID, OOD)]
    if places[0] != places[1]:
        yield Diagnostic((OOD,), f"'{OOD}' has other values of '{params.x}' than '{ID}'; expected the same models")


def _derived(params: WiseFTParams, members: Members) -> Derived:
    curves = {port: _curve(params, port, members[port]) for port in (ID, OOD)}
    metrics = {f"{port}/{place:g}": value for port, curve in curves.items() for place, value in curve.items()}
    for port, curve in curves.items():
        for end, name in ((0.0, "base"), (1.0, "expert")):
            metrics |= {f"{port}_over_{name}/{place:g}": value - curve[end] for place, value in curve.items()}
        if HALF in curve:
            metrics[f"half_{port}"] = curve[HALF]
    signs = {port: -1.0 if _is_lower(params, port, members[port]) else 1.0 for port in curves}
    best = best_place(curves, signs, params.tolerance)
    metrics |= {f"best_{OOD}": curves[OOD][best], "best_at": best}
    if set(signs.values()) == {1.0}:
        metrics["area"] = hypervolume([(curves[ID][place], curves[OOD][place]) for place in curves[ID]], (0.0, 0.0))
    return Derived(metrics, {name: _unit(params, members, name) for name in metrics if name not in ("best_at", "area")})


def best_place(curves: Mapping[str, Mapping[float, float]], signs: Mapping[str, float], tolerance: float) -> float:
    """Return the place of the best figure out of distribution whose loss in distribution is within ``tolerance``."""
    least = signs[ID] * curves[ID][1.0] - tolerance
    near = [place for place, value in curves[ID].items() if signs[ID] * value >= least]
    return max(near, key=lambda place: signs[OOD] * curves[OOD][place])


def _curve(params: WiseFTParams, port: str, members: Sequence[Member]) -> dict[float, float]:
    return dict(sorted(values_by_place(params.x, params.metrics[port], members).items()))


def _is_lower(params: WiseFTParams, port: str, members: Sequence[Member]) -> bool:
    return members[0].directions.get(params.metrics[port]) == "lower"


def _unit(params: WiseFTParams, members: Members, name: str) -> str:
    port = OOD if name.startswith(OOD) or name.endswith(f"_{OOD}") else ID
    return members[port][0].units.get(params.metrics[port], "")
