"""Evaluates models: makes a step's weights, has a suite evaluate them, and remembers scores by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lines_pipeline.core.events import MetricsComputed, SamplesJudged
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.logs import LOG
from lines_pipeline.evaluation import remembered
from lines_pipeline.evaluation.worker import Evaluation, evaluate_all
from lines_pipeline.executor.materialising import OutputRequest, existing, materialise
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.suites.base import Metric, Scores, Suite
from lines_pipeline.suites.metrics import described, node_metrics
from lines_pipeline.suites.normalizing import Known, baselines_of, judges_behind
from lines_pipeline.suites.opening import chosen_tasks, open_suite

EVALUATION_VERSION = 3


@dataclass(frozen=True)
class EvaluationBatch:
    """Holds ``evaluate`` steps whose models are made: scores that are remembered, and files for the rest."""

    graph: Graph
    steps: tuple[str, ...]
    """The steps that were asked for."""
    scores: Mapping[str, Scores | None]
    """Scores by step, also of steps that normalize; None for steps to evaluate."""
    files: Mapping[str, Path]
    """Files by the step whose weights they hold."""
    made: tuple[Path, ...]
    """The files that were not there before."""


@dataclass
class Evaluator:
    """Evaluates ``evaluate`` steps; ``folder`` is the recipe's."""

    session: Session
    folder: Path
    cached: list[str] = field(default_factory=list)
    """Steps whose scores were remembered."""
    units: dict[str, dict[str, str]] = field(default_factory=dict)
    """Units by step and metric, of steps that were evaluated."""
    _suites: dict[str, Suite] = field(default_factory=dict)
    _normalizing: dict[str, Scores] = field(default_factory=dict)
    """Scores that normalize, by key: evaluated once a run, also where the cache is not read."""

    def evaluate(self, graph: Graph, steps: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return metrics by step, which sinks are told too. All models that are needed are made in one go, and kept."""
        batch = self.prepare(graph, steps)
        scores = self._scores([batch])[0]
        self.cached += [step for step in batch.steps if batch.scores[step] is not None]
        by_step = self._metrics(batch, scores)
        for step, values in by_step.items():
            metrics = self._described(graph.steps[step])
            self.units[step] = {name: metrics[name].unit for name in values}
            self.session.emit(
                MetricsComputed(step, values, step in self.cached, self.units[step], self._declared(graph.steps[step]))
            )
            if scores[step].samples:
                self.session.emit(self._samples_judged(graph.steps[step], scores[step]))
        return by_step

    def compare(self, batches: Sequence[EvaluationBatch]) -> list[dict[str, dict[str, float]]]:
        """Return metrics by step of every batch, side by side where the scheduler can; drop models made for it."""
        try:
            scored = zip(batches, self._scores(batches), strict=True)
            return [self._metrics(batch, scores) for batch, scores in scored]
        finally:
            for path in (path for batch in batches for path in batch.made):
                self.session.cache.discard(path)

    def prepare(self, graph: Graph, steps: Sequence[str]) -> EvaluationBatch:
        """Make the models of ``steps``, and of those that normalize them, where no scores are remembered."""
        remembered = self._remembered_by_step(graph, judges_behind(graph, steps))
        models = _unscored(graph, remembered)
        requests = [OutputRequest(model) for model in models]
        there = {value for r in requests if (value := existing(self.session, graph, r)) is not None}
        values, _ = materialise(self.session, graph, requests) if requests else ([], {})
        paths = [value.path for value in values]
        made = tuple(value.path for value in values if value not in there)
        return EvaluationBatch(graph, tuple(steps), remembered, dict(zip(models, paths, strict=True)), made)

    def unscored_models(self, graph: Graph, steps: Sequence[str]) -> list[str]:
        """Return the steps whose weights have to be made for ``evaluate`` steps without remembered scores."""
        return _unscored(graph, self._remembered_by_step(graph, steps))

    def models(self, graph: Graph, steps: Sequence[str]) -> list[str]:
        """Return the steps whose weights ``evaluate`` steps evaluate, each once."""
        return list(dict.fromkeys(_model(graph, step) for step in steps))

    def suite(self, uri: str) -> Suite:
        """Return a suite, which is opened once."""
        if uri not in self._suites:
            LOG.info("opening the suite '%s'", uri)
            self._suites[uri] = open_suite(uri, self.folder, lambda event: self.session.emit(event))
        return self._suites[uri]

    def directions(self, graph: Graph, step_id: str) -> dict[str, str]:
        """Return which of ``higher`` and ``lower`` is better, by full name of a metric of a step or its objective."""
        return {name: metric.direction for name, metric in self._described(graph.steps[step_id]).items()}

    def _scores(self, batches: Sequence[EvaluationBatch]) -> list[dict[str, Scores]]:
        """Return the scores of all steps of every batch; evaluate what is not remembered, equal models once."""
        wanted: dict[str, tuple[EvaluationBatch, Step]] = {}
        for number, batch in enumerate(batches):
            for step_id, scores in batch.scores.items():
                if scores is None:
                    step = batch.graph.steps[step_id]
                    wanted.setdefault(self._key(batch.graph, step) or f"{number}/{step_id}", (batch, step))
        evaluations = [self._evaluation(batch, step) for batch, step in wanted.values()]
        session = self.session
        scored = evaluate_all(session.scheduler, evaluations, session.settings.memory)
        results = dict(zip(wanted, scored, strict=True))
        for key, scores in results.items():
            batch, step = wanted[key]
            self._remember(batch.graph, step, scores, normalizes=step.id not in batch.steps)
        return [
            {
                step_id: scores or results[self._key(batch.graph, batch.graph.steps[step_id]) or f"{number}/{step_id}"]
                for step_id, scores in batch.scores.items()
            }
            for number, batch in enumerate(batches)
        ]

    def _evaluation(self, batch: EvaluationBatch, step: Step) -> Evaluation:
        params, model = _params(step), _model(batch.graph, step.id)
        followed = self.session.checkpoints.get(batch.graph.followed(model))
        return Evaluation(
            node=step.node,
            model=SourceFile.of(batch.files[model].absolute()),
            suite=params.suite,
            folder=self.folder.absolute(),
            digest=self.suite(params.suite).digest(params.split),
            tasks=self._tasks(params),
            split=params.split,
            device=self.session.settings.device,
            followed=Path(followed.files[0].path) if followed is not None and followed.files else None,
        )

    def _tasks(self, params: SuiteUse) -> tuple[str, ...]:
        return chosen_tasks(self.suite(params.suite), params.suite, params.tasks, params.target)

    def _key(self, graph: Graph, step: Step) -> str | None:
        params, model = _params(step), self.session.keys(graph).step(_model(graph, step.id))
        if model is None:
            return None
        digest = self.suite(params.suite).digest(params.split)
        return content_key([remembered.KIND, EVALUATION_VERSION, model, digest, self._tasks(params)])

    def _remembered_by_step(self, graph: Graph, steps: Sequence[str]) -> dict[str, Scores | None]:
        return {step: self._remembered(graph, graph.steps[step]) for step in steps}

    def _remember(self, graph: Graph, step: Step, scores: Scores, *, normalizes: bool) -> None:
        key = self._key(graph, step)
        if key is not None and normalizes:
            self._normalizing[key] = scores
        self.session.cache.put(remembered.KIND, key, remembered.packed(scores, self._tasks(_params(step))))

    def _remembered(self, graph: Graph, step: Step) -> Scores | None:
        key = self._key(graph, step)
        if key in self._normalizing:
            return self._normalizing[str(key)]
        return remembered.unpacked(self.session.cache.get(remembered.KIND, key), self._tasks(_params(step)))

    def _metrics(self, batch: EvaluationBatch, scores: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
        known = Known(batch.graph, scores)
        by_step = {}
        for step_id in batch.steps:
            step = batch.graph.steps[step_id]
            params, suite = _params(step), self.suite(_params(step).suite)
            baselines = baselines_of(params, suite, list(scores[step_id].values), known)
            by_step[step_id] = node_metrics(suite.metrics, scores[step_id], baselines, params.target)
        return by_step

    def _described(self, step: Step) -> dict[str, Metric]:
        params = _params(step)
        return described(self.suite(params.suite).metrics, self._tasks(params), params.target)

    def _declared(self, step: Step) -> dict[str, str]:
        metrics = self.suite(_params(step).suite).metrics
        return {metric.name: f"{metric.unit}, {metric.direction} is better" for metric in metrics}

    def _samples_judged(self, step: Step, scores: Scores) -> SamplesJudged:
        params = _params(step)
        data = content_key([self.suite(params.suite).digest(params.split), params.split])
        return SamplesJudged(step.id, data, remembered.packed_samples(scores))


def _unscored(graph: Graph, scores: Mapping[str, Scores | None]) -> list[str]:
    """Return the models of steps without scores, each once."""
    return list(dict.fromkeys(_model(graph, step) for step, known in scores.items() if known is None))


def _model(graph: Graph, step: str) -> str:
    model = _params(graph.steps[step]).model
    assert model is not None
    return model


def _params(step: Step) -> SuiteUse:
    """Return the suite, split and tasks that the step evaluates its model by."""
    use = step.op.suite_of(step.params, step.inputs)
    assert use is not None
    return use
