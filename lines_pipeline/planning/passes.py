"""Which statistics and files are made in which sweep, as few sweeps as their order allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lines_pipeline.ops.base import Granularity, Measure
from lines_pipeline.recipe.graph import Graph, Step

Results = Mapping[Measure, Any]
"""Results of measures that are already known."""


@dataclass(frozen=True)
class Draft:
    """The step whose value is written where an output will be, under the first hypothesis of ``guess``."""

    step: str
    guess: Measure | None = None


@dataclass(frozen=True)
class Pass:
    """One sweep over the tiles: gathers ``measures`` and writes ``sinks`` (step ids); evaluates ``steps``."""

    number: int
    measures: tuple[Measure, ...]
    sinks: tuple[str, ...]
    steps: tuple[str, ...]
    """Every step whose value is needed, in topological order."""
    guesses: Mapping[Measure, Measure] = field(default_factory=dict)
    """Measures gathered under each hypothesis about another one of the same sweep."""
    drafts: Mapping[str, Draft] = field(default_factory=dict)
    """By sink of the last pass: what this pass leaves in its place."""
    finishes: Mapping[str, Draft] = field(default_factory=dict)
    """By sink: the draft that this pass reads back; ``steps`` is only what is computed from there."""
    otherwise: Pass | None = None
    """What is done in place of this pass where a draft cannot be used."""

    @property
    def is_empty(self) -> bool:
        """Whether drafts have left nothing to do."""
        return not self.sinks and not self.measures

    @property
    def sampled(self) -> tuple[Measure, ...]:
        """Measures that want a sample first."""
        return tuple(measure for measure in self.measures if measure.sampled)


def measures_of(graph: Graph, step_id: str) -> Mapping[str, Measure]:
    """The statistics a step needs, by the name its op gives them."""
    step = graph.steps[step_id]
    others = set(step.inputs.values())
    told = {
        port: _summed(graph, ids, others) if step.op.inputs[port].by_sum else ids for port, ids in step.inputs.items()
    }
    found = step.op.measures(step.params, told, step.id)
    return {name: _bounded(step, measure) for name, measure in found.items()}


def _bounded(step: Step, measure: Measure) -> Measure:
    """The measure over what the step keeps: ``include`` and ``exclude`` limit what is counted, too."""
    if step.id in measure.of or not (step.include or step.exclude):
        return measure
    needs = tuple(_bounded(step, need) for need in measure.needs)
    return replace(measure, bounds=(step.include, step.exclude), needs=needs)


def stats_of(graph: Graph, step_id: str, known: Results) -> dict[str, Any] | None:
    """A step's statistics that are known, by name; None while one that it needs is not."""
    measures = measures_of(graph, step_id)
    if any(measure not in known for measure in measures.values() if not measure.optional):
        return None
    return {name: known[measure] for name, measure in measures.items() if measure in known}


def _summed(graph: Graph, ids: tuple[str, ...], others: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the steps whose plain sum a step is, where ``others`` has just these; else return the step itself."""
    step = graph.steps[ids[0]]
    port = None if step.include or step.exclude else step.op.sum_of(step.params)
    return step.inputs[port] if port and step.inputs[port] in others else ids


class Levels:
    """After which sweep each step's value can be computed, and in which each measure is gathered (from 1)."""

    def __init__(self, graph: Graph, known: Results, available: Iterable[str] = ()) -> None:
        self._graph, self._known, self._available = graph, known, frozenset(available)
        self._ready: dict[str, int] = {}
        self._level: dict[Measure, int] = {}
        self.guesses: dict[Measure, Measure] = {}

    def ready(self, step_id: str) -> int:
        """The last sweep whose statistics the step's value depends on."""
        if step_id not in self._ready:
            self._ready[step_id] = max((self.level(m) for m in self._waits_for(step_id)), default=0)
        return self._ready[step_id]

    def level(self, measure: Measure) -> int:
        """The sweep in which a measure is gathered; 0 when it is known already."""
        if measure in self._known:
            return 0
        if measure not in self._level:
            blockers = {m for step_id in measure.of for m in self._waits_for(step_id)} | set(measure.needs)
            last = max((self.level(m) for m in blockers), default=0)
            latest = [m for m in blockers if last and self.level(m) == last]
            if len(latest) == 1 and latest[0].hypotheses and latest[0] not in measure.needs and not measure.sampled:
                self.guesses[measure] = latest[0]
                self._level[measure] = last
            else:
                self._level[measure] = last + 1
        return self._level[measure]

    def earliest(self, step_id: str) -> tuple[int, Measure | None]:
        """The first sweep that can compute the step's value, and the measure that it has to guess for that."""
        blockers = self._waits_for(step_id)
        last = max((self.level(m) for m in blockers), default=0)
        latest = [m for m in blockers if last and self.level(m) == last]
        if len(latest) == 1 and latest[0].hypotheses:
            return last, latest[0]
        return last + 1, None

    def _waits_for(self, step_id: str) -> set[Measure]:
        """Unknown measures, required by the step or anything it is computed from."""
        found: set[Measure] = set()
        for ancestor in value_cone(self._graph, [step_id], self._available):
            if ancestor not in self._available:
                step_measures = measures_of(self._graph, ancestor).values()
                found |= {m for m in step_measures if not m.optional and m not in self._known}
        return found


def cone(graph: Graph, targets: Iterable[str], available: Iterable[str] = ()) -> tuple[str, ...]:
    """``targets`` and all they are computed from, in topological order; nothing above an ``available`` step."""
    return _reached(graph, targets, available, lambda step: step.sources)


def value_cone(graph: Graph, targets: Iterable[str], available: Iterable[str] = ()) -> tuple[str, ...]:
    """As ``cone``, without what is only measured: all that has to be computed once every measure is known."""
    return _reached(graph, targets, available, _ingredients)


def _ingredients(step: Step) -> tuple[str, ...]:
    return tuple(i for ids in step.ingredients.values() for i in ids)


def _reached(
    graph: Graph, targets: Iterable[str], available: Iterable[str], follow: Callable[[Step], Iterable[str]]
) -> tuple[str, ...]:
    stop, found, stack = set(available), set(), list(targets)
    while stack:
        step_id = stack.pop()
        if step_id not in found:
            found.add(step_id)
            if step_id not in stop:
                stack += follow(graph.steps[step_id])
    return tuple(step_id for step_id in graph.steps if step_id in found)


def plan_passes(
    graph: Graph, sinks: Iterable[str], known: Results, available: Iterable[str] = (), also: Iterable[Measure] = ()
) -> list[Pass]:
    """The sweeps that write ``sinks``; steps in ``available`` are read from files of their own.

    ``also`` are measures to gather that ``sinks`` may not depend on, with all that they need themselves.
    """
    sinks, available = tuple(sinks), frozenset(available)
    levels = Levels(graph, known, available)
    live = [step_id for step_id in _needed(graph, sinks, known, available) if step_id not in available]
    wanted = [m for step_id in live for m in measures_of(graph, step_id).values() if m not in known]
    required = list(dict.fromkeys([*(m for m in wanted if not m.optional), *also]))
    last = max([levels.level(m) for m in required] + [levels.ready(sink) + 1 for sink in sinks], default=0)
    passes: list[Pass] = []
    placed: set[Measure] = set()
    for number in range(1, last + 1):
        gathered = [m for m in required if levels.level(m) == number]
        written = tuple(sink for sink in sinks if levels.ready(sink) + 1 == number)
        steps = value_cone(graph, [*written, *(s for m in gathered for s in m.of)], available)
        extra = [m for m in dict.fromkeys(wanted) if m not in required and m not in placed and set(m.of) <= set(steps)]
        extra = [] if any(_breaks(graph, s) for s in written) else extra  # of whole tensors nothing is measured
        extra = [m for m in extra if _optional_level(levels, m) <= number]
        placed |= set(extra)
        guesses = {m: levels.guesses[m] for m in gathered if m in levels.guesses}
        passes.append(Pass(number, (*gathered, *extra), written, steps, guesses))
    return passes


def lacking_measures(graph: Graph, steps: Iterable[str], known: Results, passes: Iterable[Pass]) -> list[Measure]:
    """What a run that knows nothing would measure to make ``steps``, but is not known, nor gathered by ``passes``."""
    gathered = {measure for one in passes for measure in one.measures}
    measured = (measure for one in plan_passes(graph, steps, {}) for measure in one.measures)
    return [measure for measure in measured if measure not in known and measure not in gathered]


def whole_tensor_steps(graph: Graph, targets: Iterable[str], available: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the steps behind ``targets`` that take whole tensors, in the order in which they have to be made.

    They break the pipeline: each is made by passes of its own, and its value is then read like an input.
    """
    stop = frozenset(available)
    return tuple(step for step in cone(graph, targets, stop) if step not in stop and _breaks(graph, step))


def _breaks(graph: Graph, step: str) -> bool:
    return graph.steps[step].op.granularity is Granularity.TENSOR


def _needed(graph: Graph, sinks: Iterable[str], known: Results, available: frozenset[str]) -> tuple[str, ...]:
    """What ``sinks`` are computed from, and what the measures that are not known yet are taken of."""

    def follow(step: Step) -> Iterable[str]:
        unknown = (m for m in measures_of(graph, step.id).values() if m not in known and not m.optional)
        return (*_ingredients(step), *(step_id for measure in unknown for step_id in measure.of))

    return _reached(graph, sinks, available, follow)


def _optional_level(levels: Levels, measure: Measure) -> int:
    return max([levels.level(m) for m in measure.needs] + [levels.ready(step_id) for step_id in measure.of]) + 1
