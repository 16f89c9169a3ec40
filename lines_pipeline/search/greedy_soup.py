"""Greedy soups: which models to average, found by trying every one in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import TableComputed
from lines_pipeline.core.types import EdgeType
from lines_pipeline.evaluation.evaluator import Evaluator
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.ops import registry
from lines_pipeline.ops.evaluate import EvaluateParams
from lines_pipeline.ops.soup import SoupParams
from lines_pipeline.suites.declaring import declared_metrics


@dataclass
class GreedySoups:
    """Replaces greedy soups in graphs by the uniform soups of the models they keep."""

    evaluator: Evaluator

    def settle(self, graph: Graph) -> Graph:
        """The graph with every greedy soup decided, in topological order."""
        for step_id in graph.steps:
            step = graph.steps[step_id]
            if isinstance(step.params, SoupParams) and step.params.kind == "greedy":
                graph = _with_step(graph, _uniform(step, self._choose(graph, step, step.params)))
        return graph

    def _choose(self, graph: Graph, step: Step, params: SoupParams) -> tuple[str, ...]:
        """Sort by the held-out metric, then keep each candidate that does not make the soup's worse."""
        scores = self._scores(graph, step, {model: (model,) for model in step.inputs["models"]})
        sign = 1 if self._more_is_better(step, params) else -1
        order = sorted(step.inputs["models"], key=lambda model: -sign * scores[model])
        kept, best = order[:1], scores[order[0]]
        rows = [{"model": order[0], "alone": best, "soup": best, "kept": True}]
        for candidate in order[1:]:
            score = self._scores(graph, step, {candidate: (*kept, candidate)})[candidate]
            if sign * score >= sign * best:
                kept, best = [*kept, candidate], score
            rows.append({"model": candidate, "alone": scores[candidate], "soup": score, "kept": candidate in kept})
        self.evaluator.session.emit(TableComputed(f"greedy_soup/{step.id}", tuple(rows)))
        return tuple(kept)

    def _more_is_better(self, step: Step, params: SoupParams) -> bool:
        declared = declared_metrics(step, self.evaluator.folder)
        return declared is None or declared.directions.get(params.objective, "higher") == "higher"

    def _scores(self, graph: Graph, step: Step, soups: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
        """The metric of the uniform soup of each entry's models."""
        params = step.params
        assert isinstance(params, SoupParams) and params.suite is not None
        trial, judges = graph, {}
        for index, (name, models) in enumerate(soups.items()):
            soup = replace(_uniform(step, models), id=f"{step.id}.trial{index}")
            suite = EvaluateParams(suite=params.suite, split=params.split, tasks=params.tasks)
            inputs = {"model": (soup.id,)}
            evaluator = Step(
                f"{soup.id}.judge", step.node, None, registry()["evaluate"], suite, inputs, (), (), EdgeType.METRICS
            )
            trial = _with_step(_with_step(trial, soup), evaluator)
            judges[evaluator.id] = name
        found = self.evaluator.compare([self.evaluator.prepare(trial, list(judges))])[0]
        if any(params.objective not in metrics for metrics in found.values()):
            known = ", ".join(next(iter(found.values())))
            raise EvalError(f"node '{step.node}': no metric '{params.objective}'; the suite gives: {known}")
        return {judges[judge_id]: metrics[params.objective] for judge_id, metrics in found.items()}


def _uniform(step: Step, models: tuple[str, ...]) -> Step:
    return replace(step, params=SoupParams(), inputs={"models": models})


def _with_step(graph: Graph, step: Step) -> Graph:
    """The graph with a step replaced, or added after all others."""
    return replace(graph, steps={**graph.steps, step.id: step})
