"""Judges models: makes a step's weights, has them evaluated on a suite, and remembers accuracies by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lines_pipeline.core.events import MetricsComputed
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.logs import LOG
from lines_pipeline.evaluation.worker import Evaluation, evaluate_all
from lines_pipeline.executor.materialising import OutputRequest, existing, materialise
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.suites.base import Suite, chosen_tasks, open_suite
from lines_pipeline.suites.metrics import metrics

EVALUATION_VERSION = 2


@dataclass(frozen=True)
class EvaluationBatch:
    """``evaluate`` steps of a graph whose models are made: accuracies that are remembered, and files for the rest."""

    graph: Graph
    accuracies: Mapping[str, dict[str, float] | None]
    """By step; None for those to evaluate."""
    files: Mapping[str, Path]
    """By the step whose weights they hold."""
    made: tuple[Path, ...]
    """The files that were not there before."""


@dataclass
class Evaluator:
    """Evaluates ``evaluate`` steps; ``folder`` is the recipe's."""

    session: Session
    folder: Path
    cached: list[str] = field(default_factory=list)
    """Steps whose accuracies were remembered."""
    _suites: dict[str, Suite] = field(default_factory=dict)

    def evaluate(self, graph: Graph, steps: Sequence[str]) -> dict[str, dict[str, float]]:
        """Metrics by step, as sinks are told them too. All models that are needed are made in one go, and kept."""
        case = self.prepare(graph, steps)
        judged = self._judged([case])[0]
        self.cached += [step for step, accuracies in case.accuracies.items() if accuracies is not None]
        for step, values in judged.items():
            self.session.emit(MetricsComputed(step, values, step in self.cached))
        return judged

    def compare(self, cases: Sequence[EvaluationBatch]) -> list[dict[str, dict[str, float]]]:
        """Metrics by step of every case, measured side by side where the scheduler can; models made for it go."""
        try:
            return self._judged(cases)
        finally:
            for path in (path for case in cases for path in case.made):
                self.session.cache.discard(path)

    def prepare(self, graph: Graph, steps: Sequence[str]) -> EvaluationBatch:
        """Make the models that ``steps`` evaluate, as far as their accuracies are not remembered."""
        found = self._remembered_by_step(graph, steps)
        models = _unjudged(graph, found)
        requests = [OutputRequest(model) for model in models]
        there = {value for r in requests if (value := existing(self.session, graph, r)) is not None}
        values, _ = materialise(self.session, graph, requests) if requests else ([], {})
        paths = [value.path for value in values]
        made = tuple(value.path for value in values if value not in there)
        return EvaluationBatch(graph, found, dict(zip(models, paths, strict=True)), made)

    def unjudged_models(self, graph: Graph, steps: Sequence[str]) -> list[str]:
        """Steps whose weights have to be made for the ``evaluate`` steps, because no accuracies are remembered."""
        return _unjudged(graph, self._remembered_by_step(graph, steps))

    def models(self, graph: Graph, steps: Sequence[str]) -> list[str]:
        """The steps whose weights ``evaluate`` steps judge, each once."""
        return list(dict.fromkeys(_model(graph, step) for step in steps))

    def suite(self, uri: str) -> Suite:
        """An opened suite, opened once."""
        if uri not in self._suites:
            LOG.info("opening the suite '%s'", uri)
            self._suites[uri] = open_suite(uri, self.folder, lambda event: self.session.emit(event))
        return self._suites[uri]

    def _judged(self, cases: Sequence[EvaluationBatch]) -> list[dict[str, dict[str, float]]]:
        found = [dict(case.accuracies) for case in cases]
        wanted = [
            (number, step) for number, one in enumerate(found) for step, accuracies in one.items() if accuracies is None
        ]
        evaluations = [self._evaluation(cases[number], step) for number, step in wanted]
        for (number, step), accuracies in zip(wanted, evaluate_all(self.session.scheduler, evaluations), strict=True):
            found[number][step] = accuracies
            graph = cases[number].graph
            self._remember(graph.steps[step], self._key(graph, graph.steps[step]), accuracies)
        return [
            {step: self._metrics(case.graph.steps[step], accuracies or {}) for step, accuracies in one.items()}
            for case, one in zip(cases, found, strict=True)
        ]

    def _evaluation(self, case: EvaluationBatch, step_id: str) -> Evaluation:
        step, params = case.graph.steps[step_id], _params(case.graph.steps[step_id])
        return Evaluation(
            node=step.node,
            model=SourceFile.of(case.files[_model(case.graph, step_id)].absolute()),
            suite=params.suite,
            folder=self.folder.absolute(),
            digest=self.suite(params.suite).digest(params.split),
            tasks=self._tasks(params),
            split=params.split,
            device=self.session.settings.device,
        )

    def _tasks(self, params: SuiteUse) -> tuple[str, ...]:
        return chosen_tasks(params.suite, self.folder, params.tasks, params.target)

    def _key(self, graph: Graph, step: Step) -> str | None:
        params, model = _params(step), self.session.keys(graph).step(_model(graph, step.id))
        if model is None:
            return None
        digest = self.suite(params.suite).digest(params.split)
        return content_key([EVALUATION_VERSION, model, digest, self._tasks(params)])

    def _remembered_by_step(self, graph: Graph, steps: Sequence[str]) -> dict[str, dict[str, float] | None]:
        keys = {step: self._key(graph, graph.steps[step]) for step in steps}
        return {step: self._remembered(graph.steps[step], key) for step, key in keys.items()}

    def _remember(self, step: Step, key: str | None, accuracies: Mapping[str, float]) -> None:
        """Keep accuracies in the order of the tasks, whose names may come from the environment."""
        self.session.cache.put("accuracies", key, [accuracies[task] for task in self._tasks(_params(step))])

    def _remembered(self, step: Step, key: str | None) -> dict[str, float] | None:
        found, tasks = self.session.cache.get("accuracies", key), self._tasks(_params(step))
        return dict(zip(tasks, found, strict=True)) if isinstance(found, list) and len(found) == len(tasks) else None

    def _metrics(self, step: Step, accuracies: Mapping[str, float]) -> dict[str, float]:
        params = _params(step)
        suite = self.suite(params.suite)
        return metrics(
            accuracies,
            suite.expert_accuracies(list(accuracies), params.split).get,
            lambda task: suite.pretrained_accuracy(task, params.split),
            params.target,
        )


def _unjudged(graph: Graph, accuracies: Mapping[str, dict[str, float] | None]) -> list[str]:
    """The models of steps without accuracies, each once."""
    return list(dict.fromkeys(_model(graph, step) for step, found in accuracies.items() if found is None))


def _model(graph: Graph, step: str) -> str:
    model = _params(graph.steps[step]).model
    assert model is not None
    return model


def _params(step: Step) -> SuiteUse:
    """What the step has its model judged by."""
    use = step.op.suite_of(step.params, step.inputs)
    assert use is not None
    return use
