"""Which statistics and files are made in which sweep, as few sweeps as their order allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lines_pipeline.core.types import FILED
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.ops.base import AnyStatistic

Results = Mapping[AnyStatistic, Any]
"""Results of statistics that are already known."""


@dataclass(frozen=True)
class PartialOutput:
    """The step whose value is written where an output will be, under the first outcome of ``speculation``."""

    step: str
    speculation: AnyStatistic | None = None


@dataclass(frozen=True)
class Stage:
    """One sweep over the slices: gathers ``statistics`` and writes ``sinks`` (step ids); evaluates ``steps``."""

    number: int
    statistics: tuple[AnyStatistic, ...]
    sinks: tuple[str, ...]
    steps: tuple[str, ...]
    """Every step whose value is needed, in topological order."""
    speculations: Mapping[AnyStatistic, AnyStatistic] = field(default_factory=dict)
    """Statistics gathered under each outcome about another one of the same sweep."""
    partial_outputs: Mapping[str, PartialOutput] = field(default_factory=dict)
    """By sink of the last stage: what this stage leaves in its place."""
    finishes: Mapping[str, PartialOutput] = field(default_factory=dict)
    """By sink: the partial output that this stage reads back; ``steps`` is only what is computed from there."""
    otherwise: Stage | None = None
    """What is done in place of this stage where a partial output cannot be used."""

    @property
    def is_empty(self) -> bool:
        """Return whether partial outputs have left nothing to do."""
        return not self.sinks and not self.statistics

    @property
    def sampled(self) -> tuple[AnyStatistic, ...]:
        """Return the statistics that want a sample first."""
        return tuple(statistic for statistic in self.statistics if statistic.sampled)

    def narrowed(self, factor: float) -> Stage:
        """Return the same stage, whose statistics keep less of the sweep."""
        return replace(self, statistics=tuple(statistic.narrowed(factor) for statistic in self.statistics))


def statistics_of(graph: Graph, step_id: str) -> Mapping[str, AnyStatistic]:
    """Return the statistics a step needs, by the name its op gives them."""
    step = graph.steps[step_id]
    all_ids = set(step.inputs.values())
    ids_told = {
        port: _summed(graph, ids, all_ids) if step.op.inputs[port].from_sum else ids
        for port, ids in step.inputs.items()
    }
    return {
        step.stats_name(variant, name): _bounded(step, statistic)
        for variant, params in enumerate(step.all_params)
        for name, statistic in step.op.statistics(params, ids_told, step.id).items()
    }


def _bounded(step: Step, statistic: AnyStatistic) -> AnyStatistic:
    """Return the statistic over what the step keeps: ``include`` and ``exclude`` limit what is counted, too."""
    if step.id in statistic.of or not (step.include or step.exclude):
        return statistic
    needs = tuple(_bounded(step, need) for need in statistic.needs)
    return replace(statistic, bounds=(step.include, step.exclude), needs=needs)


def stats_of(graph: Graph, step_id: str, known: Results) -> dict[str, Any] | None:
    """Return a step's statistics that are known, by name; None while one that it needs is not."""
    statistics = statistics_of(graph, step_id)
    if any(statistic not in known for statistic in statistics.values() if not statistic.optional):
        return None
    return {name: known[statistic] for name, statistic in statistics.items() if statistic in known}


def _summed(graph: Graph, ids: tuple[str, ...], known_ids: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the steps whose plain sum a step is, where ``known_ids`` has just these; else return the step itself."""
    step = graph.steps[ids[0]]
    ports = {step.op.is_sum_of(params) for params in step.all_params}
    port = None if step.include or step.exclude or len(ports) > 1 else ports.pop()
    return step.inputs[port] if port and step.inputs[port] in known_ids else ids


class StageAssignment:
    """Finds the sweep after which each step's value can be computed, and that gathers each statistic (from 1)."""

    def __init__(self, graph: Graph, known: Results, available: Iterable[str] = ()) -> None:
        self._graph, self._known, self._available = graph, known, frozenset(available)
        self._ready: dict[str, int] = {}
        self._level: dict[AnyStatistic, int] = {}
        self.speculations: dict[AnyStatistic, AnyStatistic] = {}

    def ready(self, step_id: str) -> int:
        """Return the last sweep whose statistics the step's value depends on."""
        if step_id not in self._ready:
            self._ready[step_id] = max((self.level(m) for m in self._waits_for(step_id)), default=0)
        return self._ready[step_id]

    def level(self, statistic: AnyStatistic) -> int:
        """Return the sweep in which a statistic is gathered; 0 when it is known already."""
        if statistic in self._known:
            return 0
        if statistic not in self._level:
            blockers = {m for step_id in statistic.of for m in self._waits_for(step_id)} | set(statistic.needs)
            last = max((self.level(m) for m in blockers), default=0)
            latest = [m for m in blockers if last and self.level(m) == last]
            if len(latest) == 1 and latest[0].outcomes and latest[0] not in statistic.needs and not statistic.sampled:
                self.speculations[statistic] = latest[0]
                self._level[statistic] = last
            else:
                self._level[statistic] = last + 1
        return self._level[statistic]

    def earliest(self, step_id: str) -> tuple[int, AnyStatistic | None]:
        """Return the first sweep that can compute the step's value, and the statistic whose result it then assumes."""
        blockers = self._waits_for(step_id)
        last = max((self.level(m) for m in blockers), default=0)
        latest = [m for m in blockers if last and self.level(m) == last]
        if len(latest) == 1 and latest[0].outcomes:
            return last, latest[0]
        return last + 1, None

    def _waits_for(self, step_id: str) -> set[AnyStatistic]:
        """Return the unknown statistics, required by the step or anything it is computed from."""
        awaited: set[AnyStatistic] = set()
        for ancestor in value_ancestors(self._graph, [step_id], self._available):
            if ancestor not in self._available:
                step_measures = statistics_of(self._graph, ancestor).values()
                awaited |= {m for m in step_measures if not m.optional and m not in self._known}
        return awaited


def ancestors(graph: Graph, targets: Iterable[str], available: Iterable[str] = ()) -> tuple[str, ...]:
    """Return ``targets`` and all they are computed from, in topological order; nothing above an ``available`` step."""
    return _reached(graph, targets, available, lambda step: step.sources)


def value_ancestors(graph: Graph, targets: Iterable[str], available: Iterable[str] = ()) -> tuple[str, ...]:
    """Return ``ancestors`` without what is only measured: all to compute once every statistic is known."""
    return _reached(graph, targets, available, _value_inputs)


def _value_inputs(step: Step) -> tuple[str, ...]:
    return tuple(i for ids in step.value_inputs.values() for i in ids)


def _reached(
    graph: Graph, targets: Iterable[str], available: Iterable[str], follow: Callable[[Step], Iterable[str]]
) -> tuple[str, ...]:
    stop, reached, stack = set(available), set(), list(targets)
    while stack:
        step_id = stack.pop()
        if step_id not in reached:
            reached.add(step_id)
            if step_id not in stop:
                stack += follow(graph.steps[step_id])
    return tuple(step_id for step_id in graph.steps if step_id in reached)


def plan_stages(
    graph: Graph, sinks: Iterable[str], known: Results, available: Iterable[str] = (), also: Iterable[AnyStatistic] = ()
) -> list[Stage]:
    """Return the sweeps that write ``sinks``; steps in ``available`` are read from files of their own.

    ``also`` are statistics to gather that ``sinks`` may not depend on, with all that they need themselves.
    """
    sinks, available = tuple(sinks), frozenset(available)
    levels = StageAssignment(graph, known, available)
    live = [step_id for step_id in _uncomputed_ancestors(graph, sinks, known, available) if step_id not in available]
    statistics = [m for step_id in live for m in statistics_of(graph, step_id).values() if m not in known]
    required = list(dict.fromkeys([*(m for m in statistics if not m.optional), *also]))
    last = max([levels.level(m) for m in required] + [levels.ready(sink) + 1 for sink in sinks], default=0)
    stages: list[Stage] = []
    placed: set[AnyStatistic] = set()
    for number in range(1, last + 1):
        gathered = [m for m in required if levels.level(m) == number]
        written = tuple(sink for sink in sinks if levels.ready(sink) + 1 == number)
        steps = value_ancestors(graph, [*written, *(s for m in gathered for s in m.of)], available)
        extra = [
            m for m in dict.fromkeys(statistics) if m not in required and m not in placed and set(m.of) <= set(steps)
        ]
        extra = [] if any(_breaks(graph, s) for s in written) else extra  # of whole tensors nothing is measured
        extra = [m for m in extra if _optional_level(levels, m) <= number]
        placed |= set(extra)
        speculations = {m: levels.speculations[m] for m in gathered if m in levels.speculations}
        stages.append(Stage(number, (*gathered, *extra), written, steps, speculations))
    return stages


def lacking_statistics(
    graph: Graph, steps: Iterable[str], known: Results, stages: Iterable[Stage]
) -> list[AnyStatistic]:
    """Return the statistics behind ``steps`` that are neither known nor gathered by ``stages``."""
    gathered = {statistic for stage in stages for statistic in stage.statistics}
    statistics_only = (statistic for stage in plan_stages(graph, steps, {}) for statistic in stage.statistics)
    return [statistic for statistic in statistics_only if statistic not in known and statistic not in gathered]


def whole_tensor_steps(graph: Graph, targets: Iterable[str], available: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the steps behind ``targets`` that take whole tensors, in the order in which they have to be made.

    They break the pipeline: each is made by stages of its own, and its value is then read like an input.
    """
    stop = frozenset(available)
    return tuple(step for step in ancestors(graph, targets, stop) if step not in stop and _breaks(graph, step))


def is_measured(step: Step) -> bool:
    """Return whether a driver measures the step's value: no pass computes it."""
    return step.op.is_measured(step.params) and step.gives in FILED


def _breaks(graph: Graph, step: str) -> bool:
    return any(map(graph.steps[step].op.breaks_pipeline, graph.steps[step].all_params))


def _uncomputed_ancestors(
    graph: Graph, sinks: Iterable[str], known: Results, available: frozenset[str]
) -> tuple[str, ...]:
    """Return what ``sinks`` are computed from, and what the statistics that are not known yet are taken of."""

    def follow(step: Step) -> Iterable[str]:
        unknown = (m for m in statistics_of(graph, step.id).values() if m not in known and not m.optional)
        return (*_value_inputs(step), *(step_id for statistic in unknown for step_id in statistic.of))

    return _reached(graph, sinks, available, follow)


def _optional_level(levels: StageAssignment, statistic: AnyStatistic) -> int:
    return max([levels.level(m) for m in statistic.needs] + [levels.ready(step_id) for step_id in statistic.of]) + 1
