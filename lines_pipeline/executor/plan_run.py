"""Carries out a plan: its stages in order, and again what was made under a wrong assumption."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lines_pipeline.executor.aggregation import combine_all
from lines_pipeline.executor.input_contents import InputContents
from lines_pipeline.executor.non_finite import BlockPosition, Unheld
from lines_pipeline.executor.sweeps import Sweeper
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.ops.base import AnyStatistic
from lines_pipeline.planner.lowering import Outputs, compile_stage, stage_sources
from lines_pipeline.planner.memory import stage_memory
from lines_pipeline.planner.plan import Plan
from lines_pipeline.planner.population import population
from lines_pipeline.planner.stages import Stage
from lines_pipeline.planner.tasks import StagePlan, TensorSlice, cut_tasks, group_slices


@dataclass
class Outcome:
    """Gathers what stages give besides files: statistics, and values of results that their types cannot hold."""

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
        """Forget what could not be stored of blocks of ``steps`` that are made again."""
        for (step, tensor, _), blocks in self.unheld.items():
            for tensor_slice in slices:
                if step in steps and tensor == tensor_slice.tensor:
                    blocks.pop(tensor_slice.start, None)


@dataclass(frozen=True)
class PlanRun:
    """Carries out one plan; ``outputs`` tells where written values go, under temporary names."""

    plan: Plan
    outputs: Outputs
    contents: InputContents
    sweeper: Sweeper

    def outcome(self) -> Outcome:
        """Carry out all stages; return what they give besides files."""
        outcome = Outcome(dict(self.plan.known))
        for stage in self.plan.stages:
            chosen = stage if stage.otherwise is None or self._is_finite() else stage.otherwise
            if not chosen.is_empty:
                speculative = self._carry_out(chosen, outcome)
                self._correct(chosen, outcome, speculative)
        return outcome

    def _carry_out(self, stage: Stage, outcome: Outcome) -> list[TensorSlice]:
        """Add to the outcome; return the blocks of partial outputs that depend on what was assumed."""
        stage_plan = self._compiled(stage, outcome)
        tasks = cut_tasks(stage_plan, self.sweeper.scheduler.tasks_at_once)
        mode = self.sweeper.compilation.mode(sum(task.nbytes for task in tasks))
        numels = {statistic: population(statistic, self.plan.schemas) for statistic in stage.statistics}
        stage_plan = replace(stage_plan, compile=mode)
        states = self.sweeper.sampled_states(stage, stage_plan, numels)
        observations = tuple(
            replace(observation, state=states.get(observation.statistic)) for observation in stage_plan.observations
        )
        stage_plan = replace(stage_plan, observations=observations)
        name = f"{stage.number}/{len(self.plan.stages)}"
        results = self.sweeper.sweep(name, stage_plan, tasks)
        self.contents.learn(stage_plan.hashed, results)
        speculative = outcome.take(results)
        combined = combine_all(observations, results, numels)
        results.clear()  # a sweep again needs the room of the magnitudes in them
        outcome.known |= self.sweeper.sweep_again(name, stage_plan, combined, numels)
        return speculative

    def _correct(self, stage: Stage, outcome: Outcome, speculative: Sequence[TensorSlice]) -> None:
        """Make partial outputs anew that were made under a wrong assumption, where that makes a difference."""
        wrong = {
            sink: replace(partial_output, speculation=None)
            for sink, partial_output in stage.partial_outputs.items()
            if partial_output.speculation is not None
            and partial_output.speculation.outcome(outcome.known[partial_output.speculation])
        }
        if not wrong or not speculative or not self._is_finite():
            return
        corrected = replace(stage, statistics=(), speculations={}, sinks=(), partial_outputs=wrong)
        stage_plan = self._compiled(corrected, outcome)
        outcome.forget(wrong, speculative)
        tasks = group_slices(stage_plan, speculative, self.sweeper.scheduler.tasks_at_once)
        outcome.take(self.sweeper.sweep(f"{stage.number} corrected", stage_plan, tasks))

    def _compiled(self, stage: Stage, outcome: Outcome) -> StagePlan:
        """Return the plan of a stage, without the states of its statistics."""
        plan = self.plan
        stage_plan = compile_stage(
            plan,
            stage,
            stage_sources(plan, stage, self.outputs),
            known=outcome.known,
            outputs=self.outputs,
            hashed=self.contents.unhashed(stage.steps),
            nonfinite={**self.contents.nonfinite, **self._inherited()},
        )
        memory = stage_memory(plan.graph, stage, plan.schemas, plan.settings)
        return replace(stage_plan, device=plan.settings.device, most_at_once=memory.at_once)

    def _inherited(self) -> dict[str, frozenset[str]]:
        """Return, by step read from the cache, the tensors in which something that it was made of has NaN or Inf."""
        nonfinite, ancestors = self.contents.nonfinite, self.plan.graph.ancestors
        return {
            step: frozenset().union(*(nonfinite.get(ancestor, ()) for ancestor in ancestors([step])))
            for step in self.plan.cached
        }

    def _is_finite(self) -> bool:
        """Return whether no input has NaN or Inf: a partial output cannot tell where they were."""
        return not any(self.contents.nonfinite.get(step) for step in self.plan.schemas)
