"""One run's engine: makes the values of steps into files, in as few sweeps as it can, and remembers what it learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lines_pipeline.cache.store import NodeCache
from lines_pipeline.core.events import Sink
from lines_pipeline.executor.compilation import Compilation
from lines_pipeline.executor.input_contents import InputContents
from lines_pipeline.executor.plan_run import Outcome, PlanRun
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.executor.schedulers.local import DRIVER
from lines_pipeline.executor.sweeps import Sweeper
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.ops.base import AnyStatistic
from lines_pipeline.planner.fingerprints import Fingerprints
from lines_pipeline.planner.lowering import Outputs
from lines_pipeline.planner.memory import EngineSettings
from lines_pipeline.planner.plan import Catalogue, Plan, Wanted
from lines_pipeline.planner.planning import plan
from lines_pipeline.planner.stages import ancestors, statistics_of


@dataclass
class Session:
    """Carries out plans; ``checkpoints`` by load step."""

    checkpoints: Mapping[str, Checkpoint]
    cache: NodeCache
    settings: EngineSettings
    emit: Sink
    scheduler: Scheduler = DRIVER
    results: dict[str, Any] = field(default_factory=dict)
    """Statistics of this run by content key."""
    summaries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What drivers told of the values that they measured, by step."""

    def __post_init__(self) -> None:
        self.contents = InputContents(self.checkpoints, self.cache)
        self._compilation = Compilation(self.settings, self.emit)
        for checkpoint in self.checkpoints.values():
            for path in map(Path, {stored.path for stored in checkpoint.tensors.values()}):
                if path.parent == self.cache.spool:
                    self.cache.values.hold(path)

    @property
    def digests(self) -> Mapping[str, str]:
        """Return the digests of inputs that are known, by step that loads one."""
        return self.contents.digests

    def keys(self, graph: Graph) -> Fingerprints:
        """Return the content keys as far as the inputs' contents are known."""
        return Fingerprints(graph, self.digests)

    def catalogue(self, graph: Graph, steps: Iterable[str]) -> Catalogue:
        """Return what is known of ``steps`` and all behind them; reads headers and small entries of the cache."""
        behind, keys = ancestors(graph, steps), self.keys(graph)
        computed = {step: keys.step(step) for step in behind if not graph.steps[step].op.is_source}
        opened = {s: self.cache.values.open(str(key)) for s, key in computed.items() if self.cache.values.has(key)}
        values = {step: value for step, value in opened.items() if value is not None}
        return Catalogue(self.checkpoints, values, self.known(graph, behind))

    def plan(self, graph: Graph, wanted: Wanted) -> Plan:
        """Plan what is wanted, with what this run and earlier ones have found."""
        return plan(graph, wanted, self.catalogue(graph, (*wanted.files, *wanted.summarised)), self.settings)

    def sound_plan(self, graph: Graph, wanted: Wanted) -> Plan:
        """Plan as ``plan`` does; read the cached values that it relies on, and plan without those that are damaged."""
        planned, keys = self.plan(graph, wanted), self.keys(graph)
        read = {step for part in planned.parts for stage in part.stages for step in stage.steps if step in part.cached}
        steps_read = sorted(read & planned.catalogue.values.keys())
        paths = [self.cache.values.path(str(keys.step(step))) for step in steps_read]
        sound = [self.cache.values.is_sound(path) for path in paths]
        return planned if all(sound) else self.sound_plan(graph, wanted)

    def known(self, graph: Graph, steps: Iterable[str]) -> dict[AnyStatistic, Any]:
        """Return the statistics of ``steps`` that this run or an earlier one computed."""
        keys = self.keys(graph)
        known: dict[AnyStatistic, Any] = {}
        for step_id in steps:
            for statistic in statistics_of(graph, step_id).values():
                key = keys.statistic(statistic)
                if key in self.results:
                    known[statistic] = self.results[key]
                elif key is not None and (kept := self.cache.get("stats", key)) is not None:
                    known[statistic] = self.results[key] = statistic.decode(kept)
        return known

    def run(self, planned: Plan, outputs: Outputs) -> Outcome:
        """Carry out a plan; the written files are left under their temporary names."""
        sweeper = Sweeper(self.scheduler, self.emit, self._compilation)  # a search replaces `emit` for a while
        return PlanRun(planned, outputs, self.contents, sweeper).outcome()

    def remember(self, graph: Graph, known: Mapping[AnyStatistic, Any]) -> None:
        """Keep statistics under their keys, which are all known after the first sweep."""
        keys = self.keys(graph)
        for statistic, result in known.items():
            key = keys.statistic(statistic)
            if key is not None and key not in self.results:
                self.results[key] = result
                self.cache.put("stats", key, result)
