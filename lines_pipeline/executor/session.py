"""One run's engine: makes the values of steps into files, in as few sweeps as it can, and remembers what it learnt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lines_pipeline.cache.store import NodeCache
from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.events import Note, Sink, StageFinished, StageProgress, StageStarted
from lines_pipeline.core.logs import LOG
from lines_pipeline.executor.aggregation import Sample, combine_all
from lines_pipeline.executor.compilation import Compilation
from lines_pipeline.executor.non_finite import BlockPosition, Unheld
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.executor.schedulers.local import DRIVER
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.digests import Known, identify
from lines_pipeline.io.reading import check_unchanged
from lines_pipeline.ops.base import AnyStatistic, Retry
from lines_pipeline.planner.fingerprints import Fingerprints
from lines_pipeline.planner.lowering import Outputs, compile_stage, stage_sources
from lines_pipeline.planner.memory import EngineSettings, stage_memory
from lines_pipeline.planner.plan import Catalogue, Plan, Wanted
from lines_pipeline.planner.planning import plan
from lines_pipeline.planner.population import population
from lines_pipeline.planner.stages import Results, Stage, ancestors, statistics_of
from lines_pipeline.planner.tasks import (
    Observation,
    StagePlan,
    Task,
    TensorSlice,
    cut_tasks,
    group_slices,
    observed_tensors,
    sample_tasks,
)

MAX_SWEEPS = 12
"""Sweeps after which a bracket that keeps missing is a defect of ours."""


@dataclass
class Outcome:
    """What stages gave besides files: statistics, and values of results that their types cannot hold."""

    known: dict[AnyStatistic, Any]
    unheld: dict[BlockPosition, dict[int, Unheld]] = field(default_factory=dict)
    """By where in the tensor their block starts."""

    def take(self, results: Iterable[TaskResult]) -> list[TensorSlice]:
        """Note what a sweep could not store; return the blocks of partial outputs that depend on assumptions."""
        speculative: list[TensorSlice] = []
        for result in results:
            speculative += result.speculative
            for position, blocks in result.unheld.items():
                self.unheld.setdefault(position, {}).update(blocks)
        return speculative

    def forget(self, steps: Iterable[str], slices: Iterable[TensorSlice]) -> None:
        """Blocks of ``steps`` that are made again."""
        for (step, tensor, _), blocks in self.unheld.items():
            for tensor_slice in slices:
                if step in steps and tensor == tensor_slice.tensor:
                    blocks.pop(tensor_slice.start, None)


@dataclass
class Session:
    """State of a run's engine; ``checkpoints`` by load step."""

    checkpoints: Mapping[str, Checkpoint]
    cache: NodeCache
    settings: EngineSettings
    emit: Sink
    scheduler: Scheduler = DRIVER
    digests: dict[str, str] = field(default_factory=dict)
    nonfinite: dict[str, frozenset[str]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    """Statistics of this run by content key."""
    summaries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What drivers told of the values that they measured, by step."""

    def __post_init__(self) -> None:
        self._compilation = Compilation(self.settings, self.emit)
        for step, checkpoint in self.checkpoints.items():
            for path in map(Path, {stored.path for stored in checkpoint.tensors.values()}):
                if path.parent == self.cache.spool:
                    self.cache.hold(path)
            remembered = self.cache.digest(checkpoint)
            if remembered:
                self.digests[step] = remembered.digest
                self.nonfinite[step] = frozenset(remembered.nonfinite)

    def keys(self, graph: Graph) -> Fingerprints:
        """Content keys as far as the inputs' contents are known."""
        return Fingerprints(graph, self.digests)

    def catalogue(self, graph: Graph, steps: Iterable[str]) -> Catalogue:
        """What is known of ``steps`` and all behind them; reads headers and small entries of the cache."""
        behind, keys = ancestors(graph, steps), self.keys(graph)
        computed = {step: keys.step(step) for step in behind if not graph.steps[step].op.is_source}
        opened = {s: self.cache.open_value(str(key)) for s, key in computed.items() if self.cache.has_value(key)}
        values = {step: value for step, value in opened.items() if value is not None}
        return Catalogue(self.checkpoints, values, self.known(graph, behind))

    def plan(self, graph: Graph, wanted: Wanted) -> Plan:
        """Plan what is wanted, with what this run and earlier ones have found."""
        return plan(graph, wanted, self.catalogue(graph, (*wanted.files, *wanted.told)), self.settings)

    def sound_plan(self, graph: Graph, wanted: Wanted) -> Plan:
        """As ``plan``; reads the cached values that it relies on, and plans without those that are damaged."""
        planned, keys = self.plan(graph, wanted), self.keys(graph)
        read = {step for part in planned.parts for stage in part.stages for step in stage.steps if step in part.cached}
        steps_read = sorted(read & planned.catalogue.values.keys())
        paths = [self.cache.value_path(str(keys.step(step))) for step in steps_read]
        sound = [self.cache.is_sound(path) for path in paths]
        return planned if all(sound) else self.sound_plan(graph, wanted)

    def known(self, graph: Graph, steps: Iterable[str]) -> dict[AnyStatistic, Any]:
        """Statistics of ``steps`` that this run or an earlier one computed."""
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
        """Carry out all stages; the written files are left under their temporary names."""
        outcome = Outcome(dict(planned.known))
        for stage in planned.stages:
            chosen = stage if stage.otherwise is None or self._finite(planned) else stage.otherwise
            if not chosen.is_empty:
                speculative = self._run_pass(planned, chosen, outcome, outputs)
                self._correct(planned, chosen, outcome, outputs, speculative)
        return outcome

    def _correct(
        self, planned: Plan, stage: Stage, outcome: Outcome, outputs: Outputs, speculative: Sequence[TensorSlice]
    ) -> None:
        """Make partial outputs anew that were made under a wrong assumption, where that makes a difference."""
        wrong = {
            sink: replace(partial_output, speculation=None)
            for sink, partial_output in stage.partial_outputs.items()
            if partial_output.speculation is not None
            and partial_output.speculation.outcome(outcome.known[partial_output.speculation])
        }
        if not wrong or not speculative or not self._finite(planned):
            return
        corrected = replace(stage, statistics=(), speculations={}, sinks=(), partial_outputs=wrong)
        stage_plan = self._compiled(planned, corrected, outcome.known, outputs)
        outcome.forget(wrong, speculative)
        tasks = group_slices(stage_plan, speculative, self.scheduler.tasks_at_once)
        outcome.take(self._sweep(f"{stage.number} corrected", stage_plan, tasks))

    def _compiled(self, planned: Plan, stage: Stage, known: Results, outputs: Outputs) -> StagePlan:
        """The plan of a stage, but for the states of its statistics."""
        sources = stage_sources(planned, stage, outputs)
        unhashed = frozenset(step for step in stage.steps if step in self.checkpoints and step not in self.digests)
        nonfinite = {**self.nonfinite, **self._inherited(planned)}
        compiled = compile_stage(
            stage, planned.graph, planned.schemas, sources, known, outputs, hashed=unhashed, nonfinite=nonfinite
        )
        memory = stage_memory(planned.graph, stage, planned.schemas, self.settings)
        return replace(compiled, device=self.settings.device, most_at_once=memory.at_once)

    def _inherited(self, planned: Plan) -> dict[str, frozenset[str]]:
        """By step that is read from the cache: tensors in which something that it was made of has NaN or Inf."""
        return {
            step: frozenset().union(*(self.nonfinite.get(ancestor, ()) for ancestor in planned.graph.needed([step])))
            for step in planned.cached
        }

    def _finite(self, planned: Plan) -> bool:
        """Whether no input has NaN or Inf: a partial output cannot tell where they were."""
        return not any(self.nonfinite.get(step) for step in planned.schemas)

    def remember(self, graph: Graph, known: Mapping[AnyStatistic, Any]) -> None:
        """Keep statistics under their keys, which are all known after the first sweep."""
        keys = self.keys(graph)
        for statistic, result in known.items():
            key = keys.statistic(statistic)
            if key is not None and key not in self.results:
                self.results[key] = result
                self.cache.put("stats", key, result)

    def _run_pass(self, planned: Plan, stage: Stage, outcome: Outcome, outputs: Outputs) -> list[TensorSlice]:
        """Add to the outcome; gives the blocks of partial outputs that depend on what was assumed."""
        stage_plan = self._compiled(planned, stage, outcome.known, outputs)
        tasks = cut_tasks(stage_plan, self.scheduler.tasks_at_once)
        stage_plan = replace(stage_plan, compile=self._compilation.mode(sum(task.nbytes for task in tasks)))
        states = self._states(planned, stage_plan, stage)
        observations = tuple(replace(o, state=states.get(o.statistic)) for o in stage_plan.observations)
        stage_plan = replace(stage_plan, observations=observations)
        name = f"{stage.number}/{len(planned.stages)}"
        results = self._sweep(name, stage_plan, tasks)
        self._learn_digests(stage_plan, results)
        numels = {o.statistic: population(o.statistic, planned.schemas) for o in observations}
        speculative = outcome.take(results)
        combined = combine_all(observations, results, numels)
        results.clear()  # a sweep again needs the room of the magnitudes in them
        outcome.known |= self._resolve(name, stage_plan, combined, numels)
        return speculative

    def _states(self, planned: Plan, stage_plan: StagePlan, stage: Stage) -> dict[AnyStatistic, Any]:
        """What sampled statistics learn from a sample before the sweep."""
        if not stage.sampled:
            return {}
        numels = {statistic: population(statistic, planned.schemas) for statistic in stage.sampled}
        tensors_of = {o.statistic: o.tensors for o in stage_plan.observations}
        taps = tuple(
            Observation(_sample(statistic), (), None, tensors=tensors_of[statistic]) for statistic in stage.sampled
        )
        tensors = {key: spec.numel for tap in taps for key, spec in observed_tensors(stage_plan, tap).items()}
        samples: Mapping[Any, Any] = {}
        runs = max(statistic.sample_runs(numels[statistic]) for statistic in stage.sampled)
        if runs:
            sampler = replace(stage_plan, observations=taps, writes=(), hashed=frozenset())
            results = self._sweep(f"{stage.number} sample", sampler, sample_tasks(tensors, runs))
            samples = combine_all(taps, results, {tap.statistic: {} for tap in taps})
        return {
            statistic: statistic.prepare(samples.get(_sample(statistic), {}), numels[statistic])
            for statistic in stage.sampled
        }

    def _resolve(
        self,
        name: str,
        stage_plan: StagePlan,
        combined: dict[AnyStatistic, Any],
        numels: Mapping[AnyStatistic, Mapping[str, int]],
    ) -> dict[AnyStatistic, Any]:
        """Sweep again for statistics whose bracket missed, until none does."""
        for _ in range(MAX_SWEEPS):
            missed = {statistic: result.state for statistic, result in combined.items() if isinstance(result, Retry)}
            if not missed:
                return combined
            observations = tuple(
                replace(o, state=missed[o.statistic]) for o in stage_plan.observations if o.statistic in missed
            )
            narrowed = replace(stage_plan, observations=observations, writes=(), hashed=frozenset())
            results = self._sweep(f"{name} again", narrowed, cut_tasks(narrowed, self.scheduler.tasks_at_once))
            combined |= combine_all(observations, results, numels)
        raise PlanError("a trim threshold was not found; please report this")

    def _sweep(self, name: str, stage_plan: StagePlan, tasks: Sequence[Task]) -> list[TaskResult]:
        check_unchanged(stage_plan.files)
        nbytes = sum(task.nbytes for task in tasks)
        LOG.info("pass %s begins: %d jobs, %.1f MB%s", name, len(tasks), nbytes / 1e6, _way(stage_plan))
        self.emit(StageStarted(name, nbytes))
        started, bytes_read = time.perf_counter(), 0

        def progress(result: TaskResult) -> None:
            nonlocal bytes_read
            bytes_read += result.bytes_read
            self.emit(StageProgress(bytes_read))

        results = self.scheduler.run_tasks(stage_plan, tasks, progress)
        check_unchanged(stage_plan.files)
        self._compilation.tell(result.compiler_failure for result in results)
        for text in sorted({text for result in results for text in result.remarks}):
            self.emit(Note(text))
        written = sum(result.bytes_written for result in results)
        self.emit(StageFinished(name, time.perf_counter() - started, bytes_read, written))
        return results

    def _learn_digests(self, stage_plan: StagePlan, results: Sequence[TaskResult]) -> None:
        blocks: dict[str, dict[str, list[tuple[int, int]]]] = {step: {} for step in stage_plan.hashed}
        bad: dict[str, set[str]] = {step: set() for step in stage_plan.hashed}
        for result in results:
            for (source, tensor), of_tensor in result.digests.items():
                blocks[source].setdefault(tensor, []).extend(of_tensor)
            for source, tensor in result.nonfinite:
                bad[source].add(tensor)
        for step in sorted(stage_plan.hashed):
            checkpoint = self.checkpoints[step]
            ordered = {
                tensor: [digest for _, digest in sorted(of_tensor)] for tensor, of_tensor in blocks[step].items()
            }
            self._learn(step, identify(checkpoint, ordered, bad[step]))

    def identify(self, step: str) -> str:
        """The content digest of a load step's checkpoint; reads all of it where that is not known yet."""
        if step not in self.digests:
            self._learn(step, identify(self.checkpoints[step]))
        return self.digests[step]

    def _learn(self, step: str, known: Known) -> None:
        self.digests[step], self.nonfinite[step] = known.digest, frozenset(known.nonfinite)
        self.cache.put_digest(self.checkpoints[step], known)


def _way(stage_plan: StagePlan) -> str:
    return "" if stage_plan.compile == "never" else ", in compiled loops"


def _sample(statistic: AnyStatistic) -> Sample:
    """What is sampled for a statistic: magnitudes of the first value that it observes."""
    return Sample(statistic.of[:1], bounds=statistic.bounds)
