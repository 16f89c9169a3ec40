"""What can be told of the suites that a recipe names before anything is read: tasks, splits, files, Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lines_pipeline.core.errors import EvalError
from lines_pipeline.executor.placing import each, placed
from lines_pipeline.graph.graph import Graph
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.recipe.binding.objective import parse_objective
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.suites.base import Suite
from lines_pipeline.suites.dividing import PRUNING, SUBSET, require_divisible
from lines_pipeline.suites.ensembles import require_classifier
from lines_pipeline.suites.normalizing import evaluations_by_task
from lines_pipeline.suites.opening import chosen_tasks, open_suite


@dataclass
class SuiteChecks:
    """Checks the suites of one recipe, each opened once."""

    recipe: Recipe
    graph: Graph
    _opened: dict[str, Suite] = field(default_factory=dict)

    def missing_files(self) -> list[str]:
        """Return what the suites lack, by place.

        Raises ``EvalError`` for what is no suite, for ensembles that it cannot judge, for tasks and splits that it has
        not got, and for baselines without a member for a task.
        """
        recipe, graph, uses = self.recipe, self.graph, self._uses
        each(recipe, graph, "suite", uses, self._suite)
        each(recipe, graph, "suite", (step for step, use in uses.items() if len(use.models) > 1), self._ensemble)
        each(recipe, graph, "suite", self._evaluated_in_parts, lambda step: self._divisible(step, PRUNING))
        of_subsets = (step for step, use in uses.items() if use.part is not None)
        each(recipe, graph, "subset", of_subsets, lambda step: self._divisible(step, SUBSET))
        tasks = each(recipe, graph, self._unknown, uses, self._chosen)
        missing = each(
            recipe, graph, "split", uses, lambda step: self._suite(step).check(tasks[step], uses[step].split)
        )
        each(recipe, graph, "baselines", uses, lambda step: self._check_baselines(step, tasks[step]))
        lacking = [(graph.steps[step].node, file) for step, files in missing.items() for file in files]
        return list(dict.fromkeys(placed(recipe, node, "suite", file) for node, file in lacking))

    def code(self, *, trust: bool, build: bool) -> list[str]:
        """Return notes of the Python that suites name; import nothing. ``EvalError`` where a run may not run it."""

        def runs(step: str) -> str:
            uri, code = self._uses[step].suite, self._suite(step).foreign_code()
            if code is None:
                return ""
            refused = "" if trust else code.untrusted
            if refused and build:
                raise EvalError(f"the suite {uri} runs Python, {code.what}, but {refused}")
            return f"the suite {uri} runs Python: {code.what}" + (f"; {refused}" if refused else "")

        notes = each(self.recipe, self.graph, "suite", self._uses, runs)
        return [] if build else list(dict.fromkeys(note for note in notes.values() if note))

    @cached_property
    def _uses(self) -> dict[str, SuiteUse]:
        """Return the part of a suite that judges models, by step."""
        steps = self.graph.steps.values()
        return {step.id: use for step in steps if (use := step.op.suite_of(step.params, step.inputs)) is not None}

    def _suite(self, step: str) -> Suite:
        uri = self._uses[step].suite
        if uri not in self._opened:
            self._opened[uri] = open_suite(uri, self.recipe.folder)
        return self._opened[uri]

    def _ensemble(self, step: str) -> None:
        require_classifier(self._suite(step), self._uses[step].suite)

    @property
    def _evaluated_in_parts(self) -> list[str]:
        """The steps by which trials are stopped early."""
        tune = self.recipe.tune
        named = [] if tune is None or tune.pruning is None else parse_objective(tune.objective).nodes
        return [step for step in named if step in self._uses]

    def _divisible(self, step: str, consequence: str) -> None:
        require_divisible(self._suite(step), self._uses[step].suite, consequence)

    def _chosen(self, step: str) -> tuple[str, ...]:
        use = self._uses[step]
        return chosen_tasks(self._suite(step), use.suite, use.tasks, use.target)

    def _unknown(self, step: str) -> str:
        return "target" if set(self._uses[step].tasks or ()) <= set(self._suite(step).tasks) else "tasks"

    def _check_baselines(self, step: str, tasks: Sequence[str]) -> None:
        """Raise ``EvalError`` where a task has no baseline: no member with its key, or one that does not judge it."""
        for named in self._uses[step].baselines.values():
            for task, baseline in evaluations_by_task(self.graph, named, tasks).items():
                if baseline not in self._uses:
                    raise EvalError(f"'{baseline}' is no 'evaluate' node, expected one that judges '{task}'")
                if task not in (known := self._chosen(baseline)):
                    raise EvalError(f"'{baseline}' does not judge the task '{task}', only: {', '.join(known)}")
