"""Carries out the ops that have a driver, which evaluates models and finds what takes a step's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import Event
from lines_pipeline.core.types import EdgeType
from lines_pipeline.evaluation.evaluator import Evaluator
from lines_pipeline.executor.devices import resolve_device
from lines_pipeline.executor.keeping import keep_value
from lines_pipeline.executor.materialising import OutputRequest, existing, materialise
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.ops.base import Measured, TaskData, Variant
from lines_pipeline.suites.models import StoredModel, state_of


@dataclass
class Drivers:
    """Replaces steps that have a driver by what the driver finds."""

    evaluator: Evaluator

    def resolve(self, graph: Graph) -> Graph:
        """Return the graph with every driver's work done, in topological order."""
        for step_id in graph.needed(graph.sinks):
            step = graph.steps[step_id]
            driver = step.op.driver_of(step.params)
            if driver is not None:
                found = driver(step.inputs, _StepContext(self.evaluator, graph, step))
                graph = _with_step(graph, _as(step, found, step.id, step.gives))
                if found.measured is not None:
                    graph = self._kept(graph, graph.steps[step_id], found.measured)
        return graph

    def _kept(self, graph: Graph, step: Step, measured: Measured) -> Graph:
        """Keep the value of a step; return the graph with what only the value tells of the step."""
        try:
            path = keep_value(self.evaluator.session, graph, step.id, measured)
        except EvalError as error:
            raise EvalError(f"node '{step.node}': {error}") from error
        if not measured.tells_tensors:
            return graph
        stored = open_checkpoint(path).tensors
        return _with_step(graph, replace(step, measured={name: one.spec for name, one in stored.items()}))


@dataclass
class _StepContext:
    """Answers the driver of one step (``DriverContext``)."""

    _evaluator: Evaluator
    _graph: Graph
    _step: Step

    @property
    def step(self) -> str:
        """Return the id of the step that is carried out."""
        return self._step.id

    @property
    def node(self) -> str:
        """Return its node."""
        return self._step.node

    @property
    def device(self) -> str:
        """Where tensors are computed."""
        return resolve_device(self._evaluator.session.settings.device)

    def materialise(self, step: str) -> dict[str, torch.Tensor]:
        """The tensors of a step's value; a file that is made for it goes again."""
        session, request = self._evaluator.session, OutputRequest(step)
        there = existing(session, self._graph, request)
        (stored,), _ = materialise(session, self._graph, [request])
        try:
            return state_of(StoredModel(stored.path))
        finally:
            if there is None:
                session.cache.discard(stored.path)

    def suite(self, uri: str) -> TaskData:
        """The suite at a path from the recipe's folder on."""
        return self._evaluator.suite(uri)

    def evaluate(self, models: Mapping[str, Variant], judge: Callable[[str], Variant]) -> dict[str, dict[str, float]]:
        """Return the metrics of each of ``models``, which are made for it and dropped again."""
        trial, names, step = self._graph, {}, self._step
        for index, (name, variant) in enumerate(models.items()):
            model = _as(step, variant, f"{step.id}.trial{index}", step.gives)
            evaluation = _as(step, judge(model.id), f"{model.id}.judge", EdgeType.METRICS)
            evaluation = replace(evaluation, item=None, include=(), exclude=())
            trial = _with_step(_with_step(trial, model), evaluation)
            names[evaluation.id] = name
        found = self._evaluator.compare([self._evaluator.prepare(trial, list(names))])[0]
        return {names[step_id]: metrics for step_id, metrics in found.items()}

    def higher_is_better(self, metric: str) -> bool:
        """Return what the suite of the step declares of the metric; True where it declares nothing."""
        return self._evaluator.directions(self._graph, self._step.id).get(metric, "higher") == "higher"

    def emit(self, event: Event) -> None:
        """Tell the sinks."""
        self._evaluator.session.emit(event)


def _as(step: Step, variant: Variant, step_id: str, gives: EdgeType) -> Step:
    content = "" if variant.measured is None else variant.measured.content
    found = replace(step, id=step_id, op=variant.op, params=variant.params, inputs=variant.inputs)
    return replace(found, gives=gives, content=content)


def _with_step(graph: Graph, step: Step) -> Graph:
    """Return the graph with a step replaced, or added after all others."""
    return replace(graph, steps={**graph.steps, step.id: step})
