"""Carries out the ops that have a driver, which finds what takes a step's place, or what its metrics are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import Event
from lines_pipeline.evaluation.evaluator import EvaluationBatch, Evaluator
from lines_pipeline.executor.devices import resolve_device
from lines_pipeline.executor.keeping import keep_value
from lines_pipeline.executor.materialising import OutputRequest, existing, materialise
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.companions import config_of
from lines_pipeline.io.layers import LayerMap
from lines_pipeline.io.mapping import MappedTensors
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.temporaries import temporary_folder
from lines_pipeline.ops.base import op_of
from lines_pipeline.ops.drivers import Evaluated, Measured, MeasuredMetrics, TaskData, Variant
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.ops.sample_parts import SamplePart
from lines_pipeline.planner.layer_maps import layers_of
from lines_pipeline.planner.schemas import schema_of
from lines_pipeline.planner.varying_numbers import resolve_numbers
from lines_pipeline.search.measurements import Measurements
from lines_pipeline.suites.models import StoredModel, state_of


@dataclass
class Drivers:
    """Asks the drivers of steps: replaces a step by what its driver finds, has suites evaluate those with metrics."""

    evaluator: Evaluator
    measurements: Measurements

    @classmethod
    def of(cls, session: Session, folder: Path) -> Drivers:
        """Return the drivers of a recipe in a folder, which evaluate on its suites."""
        return cls(Evaluator(session, folder), Measurements(session))

    @property
    def cached(self) -> Sequence[str]:
        """Return the steps of which ``metrics`` gave remembered figures."""
        return [*self.evaluator.cached, *self.measurements.cached]

    @property
    def units(self) -> Mapping[str, Mapping[str, str]]:
        """Return the units of what ``metrics`` gave, by step and metric."""
        return {**self.evaluator.units, **self.measurements.units}

    def resolve(self, graph: Graph, targets: Iterable[str] | None = None) -> Graph:
        """Return the graph with the steps replaced that drivers replace, in topological order; metrics come later.

        These are the steps that ``targets`` (step ids, or nodes) need; by default the sinks. Numbers that vary by
        tensor are those of each tensor from then on.
        """
        graph = resolve_numbers(graph, self.evaluator.session.checkpoints)
        for step_id in graph.ancestors(graph.sinks if targets is None else targets):
            step = graph.steps[step_id]
            outcome = self._outcome(graph, step)
            if isinstance(outcome, Variant):
                graph = _with_step(graph, _as(step, outcome, step.id))
                if outcome.measured is not None:
                    graph = self._kept(graph, graph.steps[step_id], outcome.measured)
        return graph

    def metrics(self, graph: Graph) -> dict[str, dict[str, float]]:
        """Return the metrics of every step that has some of models; sinks are told, and models are made in one go."""
        evaluated = self.evaluator.evaluate(graph, self._uses(graph, graph.evaluations), graph.evaluations)
        measured = self._measured(graph)
        return evaluated | {s: self.measurements.metrics(graph, graph.steps[s], of) for s, of in measured.items()}

    def unmade_models(self, graph: Graph) -> list[str]:
        """Return the steps whose weights have to be made for ``metrics``."""
        evaluated = self.evaluator.unscored_models(graph, self._uses(graph, graph.evaluations))
        measured = self._measured(graph)
        missing = [s for s, of in measured.items() if not self.measurements.is_remembered(graph, graph.steps[s], of)]
        return list(dict.fromkeys([*evaluated, *graph.models_measured_by(missing)]))

    def prepare(self, graph: Graph, steps: Sequence[str], part: SamplePart | None = None) -> EvaluationBatch:
        """Make the models that the metrics of some steps wait for; ``Evaluator.compare`` gives these.

        With ``part``, the steps are judged by these of their samples alone, and what normalizes them by all.
        """
        uses = self._uses(graph, steps)
        if part is not None:
            uses |= {step: replace(uses[step], part=_within(part, uses[step].part)) for step in steps}
        return self.evaluator.prepare(graph, uses, steps)

    def directions(self, step: Step) -> dict[str, str]:
        """Return which of ``higher`` and ``lower`` is better, by full name of a metric of the step, or its suite."""
        if step.op.measures_metrics:
            return dict(self.measurements.directions.get(step.id, {}))
        use = step.op.suite_of(step.params, step.inputs)
        return {} if use is None else self.evaluator.suites.directions(use)

    def table(self, graph: Graph, step_id: str) -> dict[str, list[float]]:
        """Return the coefficients that a step gives, by tensor."""
        tensors = _StepContext(self, graph, graph.steps[step_id]).materialise(step_id)
        return {name: numbers.tolist() for name, numbers in tensors.items()}

    def _uses(self, graph: Graph, steps: Iterable[str]) -> dict[str, SuiteUse]:
        """Return what is evaluated for the metrics of steps, and before each for those that normalize it directly."""
        uses: dict[str, SuiteUse] = {}
        for step in steps:
            use = self._use(graph, step)
            baselines = (baseline for by_role in use.baselines.values() for baseline in by_role)
            uses |= {baseline: self._use(graph, baseline) for baseline in baselines} | {step: use}
        return uses

    def _use(self, graph: Graph, step_id: str) -> SuiteUse:
        step = graph.steps[step_id]
        outcome = self._outcome(graph, step)
        if not isinstance(outcome, Evaluated):
            raise EvalError(
                f"node '{step.node}': '{step.op.name}' gives metrics, but its driver says of no model that it is to be "
                "evaluated; expected 'Evaluated' from 'driver_of'"
            )
        return outcome.use

    def _measured(self, graph: Graph) -> dict[str, MeasuredMetrics]:
        """Return what drivers measure themselves, by step."""
        outcomes = {step: self._outcome(graph, graph.steps[step]) for step in graph.measurements}
        return {step: outcome for step, outcome in outcomes.items() if isinstance(outcome, MeasuredMetrics)}

    def _outcome(self, graph: Graph, step: Step) -> Variant | Evaluated | MeasuredMetrics | None:
        driver = step.op.driver_of(step.params)
        return None if driver is None else driver(step.inputs, _StepContext(self, graph, step))

    def _kept(self, graph: Graph, step: Step, measured: Measured) -> Graph:
        """Keep the value of a step and tell of it; return the graph with what only the value tells of the step."""
        try:
            path, summary = keep_value(self.evaluator.session, graph, step.id, measured)
        except EvalError as error:
            raise EvalError(f"node '{step.node}': {error}") from error
        for event in measured.tell(summary):
            self.evaluator.session.emit(event)
        if not measured.tells_tensors:
            return graph
        stored = open_checkpoint(path).tensors
        return _with_step(graph, replace(step, measured={name: tensor.spec for name, tensor in stored.items()}))


@dataclass
class _StepContext:
    """Answers the driver of one step (``DriverContext``)."""

    _drivers: Drivers
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
        """Return where tensors are computed."""
        return resolve_device(self._session.settings.device)

    def materialise(self, step: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a step's value."""
        with self._files([step]) as (path,):
            return state_of(StoredModel(path))

    @contextmanager
    def mapped(self, steps: Sequence[str]) -> Iterator[tuple[Mapping[str, torch.Tensor], ...]]:
        """Map the tensors of steps' values into memory."""
        with self._files(steps) as paths:
            yield tuple(MappedTensors(open_checkpoint(path)) for path in paths)

    @contextmanager
    def _files(self, steps: Sequence[str]) -> Iterator[list[Path]]:
        """Make the values of steps; files that are made for it go again."""
        session, requests = self._session, [OutputRequest(step) for step in steps]
        were_there = [existing(session, self._graph, request) is not None for request in requests]
        stored, _ = materialise(session, self._graph, requests)
        paths = [value.path for value in stored]
        try:
            yield paths
        finally:
            for path, was_there in zip(paths, were_there, strict=True):
                if not was_there:
                    session.cache.values.discard(path)

    def config(self, step: str) -> Mapping[str, Any]:
        """Return what ``config.json`` beside the checkpoint says that the step's value follows."""
        followed = self._session.checkpoints.get(self._graph.followed(step))
        return {} if followed is None else config_of(Path(followed.files[0].path))

    def layers(self) -> LayerMap | None:
        """Return the layer map of the step's value."""
        return layers_of(self._step, schema_of(self._graph, self._step.id, self._session.checkpoints))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a folder beside the values of the cache, which goes again."""
        spool = self._session.cache.spool
        spool.mkdir(parents=True, exist_ok=True)
        with temporary_folder(spool / self._step.node) as folder:
            yield folder

    def suite(self, uri: str) -> TaskData:
        """Return the suite at a path from the recipe's folder on."""
        return self._drivers.evaluator.suites.suite(uri)

    def evaluate(self, models: Mapping[str, Variant], use: SuiteUse) -> dict[str, dict[str, float]]:
        """Return the metrics of each of ``models``, which are made for it and dropped again."""
        trial, steps = self._graph, dict[str, str]()
        for index, (name, variant) in enumerate(models.items()):
            steps[name] = f"{self.step}.trial{index}"
            trial = _with_step(trial, _as(self._step, variant, steps[name]))
        uses = {step: replace(use, models=(step,)) for step in steps.values()}
        evaluator = self._drivers.evaluator
        (metrics,) = evaluator.compare([evaluator.prepare(trial, uses, list(uses))])
        return {name: metrics[step] for name, step in steps.items()}

    def higher_is_better(self, metric: str) -> bool:
        """Return what the suite of the step declares of the metric; True where it declares nothing."""
        return self._drivers.directions(self._step).get(metric, "higher") == "higher"

    def emit(self, event: Event) -> None:
        """Tell the sinks."""
        self._session.emit(event)

    @property
    def _session(self) -> Session:
        return self._drivers.evaluator.session


def _as(step: Step, variant: Variant, step_id: str) -> Step:
    content = "" if variant.measured is None else variant.measured.content
    return replace(step, id=step_id, op=op_of(variant), params=variant.params, inputs=variant.inputs, content=content)


def _within(part: SamplePart, whole: SamplePart | None) -> SamplePart:
    """Return the part of the samples that a step is judged by in any case."""
    return part if whole is None else replace(part, first=whole.first)


def _with_step(graph: Graph, step: Step) -> Graph:
    """Return the graph with a step replaced, or added after all others."""
    return replace(graph, steps={**graph.steps, step.id: step})
