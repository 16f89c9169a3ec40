"""Sweeps over the data of a stage: the main one, that of a sample before it, and those for what it missed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.events import Note, Sink, StageFinished, StageProgress, StageStarted
from lines_pipeline.core.logs import LOG
from lines_pipeline.executor.aggregation import Sample, combine_all
from lines_pipeline.executor.compilation import Compilation
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.io.reading import check_unchanged
from lines_pipeline.ops.base import AnyStatistic, Retry
from lines_pipeline.planner.stages import Stage
from lines_pipeline.planner.tasks import Observation, StagePlan, Task, cut_tasks, observed_tensors, sample_tasks

MAX_SWEEPS = 12
"""Sweeps after which a bracket that keeps missing is a defect of ours."""

Numels = Mapping[AnyStatistic, Mapping[str, int]]
"""The entries that each statistic counts, by tensor."""


@dataclass(frozen=True)
class Sweeper:
    """Has a scheduler carry out tasks, and tells sinks of it."""

    scheduler: Scheduler
    emit: Sink
    compilation: Compilation

    def sweep(self, name: str, stage_plan: StagePlan, tasks: Sequence[Task]) -> list[TaskResult]:
        """Carry out tasks; return their results. Raises ``EngineError`` where an input changes meanwhile."""
        check_unchanged(stage_plan.files)
        nbytes = sum(task.nbytes for task in tasks)
        how = "" if stage_plan.compile == "never" else ", in compiled loops"
        LOG.info("pass %s begins: %d tasks, %.1f MB%s", name, len(tasks), nbytes / 1e6, how)
        self.emit(StageStarted(name, nbytes))
        started, bytes_read = time.perf_counter(), 0

        def progress(result: TaskResult) -> None:
            nonlocal bytes_read
            bytes_read += result.bytes_read
            self.emit(StageProgress(bytes_read))

        results = self.scheduler.run_tasks(stage_plan, tasks, progress)
        check_unchanged(stage_plan.files)
        self.compilation.tell(result.compiler_failure for result in results)
        for text in sorted({text for result in results for text in result.remarks}):
            self.emit(Note(text))
        written = sum(result.bytes_written for result in results)
        self.emit(StageFinished(name, time.perf_counter() - started, bytes_read, written))
        return results

    def sampled_states(self, stage: Stage, stage_plan: StagePlan, numels: Numels) -> dict[AnyStatistic, Any]:
        """Return the states that sampled statistics make of a sample before the sweep."""
        if not stage.sampled:
            return {}
        tensors_of = {observation.statistic: observation.tensors for observation in stage_plan.observations}
        taps = tuple(
            Observation(_sample(statistic), (), None, tensors=tensors_of[statistic]) for statistic in stage.sampled
        )
        tensors = {key: spec.numel for tap in taps for key, spec in observed_tensors(stage_plan, tap).items()}
        samples: Mapping[Any, Any] = {}
        runs = max(statistic.sample_runs(numels[statistic]) for statistic in stage.sampled)
        if runs:
            sampler = replace(stage_plan, observations=taps, writes=(), hashed=frozenset())
            results = self.sweep(f"{stage.number} sample", sampler, sample_tasks(tensors, runs))
            samples = combine_all(taps, results, {tap.statistic: {} for tap in taps})
        return {
            statistic: statistic.prepare(samples.get(_sample(statistic), {}), numels[statistic])
            for statistic in stage.sampled
        }

    def sweep_again(
        self, name: str, stage_plan: StagePlan, combined: dict[AnyStatistic, Any], numels: Numels
    ) -> dict[AnyStatistic, Any]:
        """Sweep again for the statistics whose bracket missed, until none does; return the results of all."""
        for _ in range(MAX_SWEEPS):
            missed = {statistic: result.state for statistic, result in combined.items() if isinstance(result, Retry)}
            if not missed:
                return combined
            observations = tuple(
                replace(observation, state=missed[observation.statistic])
                for observation in stage_plan.observations
                if observation.statistic in missed
            )
            narrowed = replace(stage_plan, observations=observations, writes=(), hashed=frozenset())
            results = self.sweep(f"{name} again", narrowed, cut_tasks(narrowed, self.scheduler.tasks_at_once))
            combined |= combine_all(observations, results, numels)
        raise PlanError("a trim threshold was not found; please report this")


def _sample(statistic: AnyStatistic) -> Sample:
    """Return the statistic of a sample: magnitudes of the first value that a statistic observes."""
    return Sample(statistic.of[:1], bounds=statistic.bounds)
