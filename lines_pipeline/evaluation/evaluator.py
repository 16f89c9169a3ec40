"""Evaluates models: makes a step's weights, has a suite evaluate them, and remembers scores by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lines_pipeline.core.events import MetricsComputed, SamplesJudged
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.logs import LOG
from lines_pipeline.evaluation import remembered
from lines_pipeline.evaluation.worker import Evaluation, ModelFile, evaluate_all
from lines_pipeline.executor.materialising import OutputRequest, existing, materialise
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.suites.base import Metric, Scores, Suite
from lines_pipeline.suites.metrics import described, node_metrics
from lines_pipeline.suites.normalizing import Known, baselines_of
from lines_pipeline.suites.opening import chosen_tasks, open_suite

EVALUATION_VERSION = 3
TRANSDUCTIVE = "transductive"
"""The metric, of value 1, that marks a model of which a part was learned from inputs of the test split."""

Uses = Mapping[str, SuiteUse]
"""What suites evaluate, by the step that asks for it."""


@dataclass(frozen=True)
class EvaluationBatch:
    """Holds evaluations whose models are made: scores that are remembered, and files for the rest."""

    graph: Graph
    uses: Uses
    """What is evaluated, also for steps that normalize."""
    steps: tuple[str, ...]
    """The steps that were asked for."""
    scores: Mapping[str, Scores | None]
    """Scores by step, also of steps that normalize; None for steps to evaluate."""
    files: Mapping[str, Path]
    """Files by the step whose weights they hold."""
    made: tuple[Path, ...]
    """The files that were not there before."""

    @property
    def is_remembered(self) -> bool:
        """Whether all that was asked for is remembered."""
        return all(self.scores[step] is not None for step in self.steps)


@dataclass
class Evaluator:
    """Evaluates models for steps; ``folder`` is the recipe's."""

    session: Session
    folder: Path
    cached: list[str] = field(default_factory=list)
    """Steps whose scores were remembered."""
    units: dict[str, dict[str, str]] = field(default_factory=dict)
    """Units by step and metric, of steps that were evaluated."""
    _suites: dict[str, Suite] = field(default_factory=dict)
    _normalizing: dict[str, Scores] = field(default_factory=dict)
    """Scores that normalize, by key: evaluated once a run, also where the cache is not read."""

    def evaluate(self, graph: Graph, uses: Uses, steps: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return metrics by step, which sinks are told too. All models that are needed are made in one go, and kept."""
        batch = self.prepare(graph, uses, steps)
        scores = self._scores([batch])[0]
        self.cached += [step for step in batch.steps if batch.scores[step] is not None]
        by_step = self._metrics(batch, scores)
        for step, values in by_step.items():
            metrics = self._described(uses[step])
            self.units[step] = {name: metrics[name].unit for name in values}
            if graph.transductive([step]):
                values[TRANSDUCTIVE], self.units[step][TRANSDUCTIVE] = 1.0, ""
            self.session.emit(
                MetricsComputed(step, values, step in self.cached, self.units[step], self._declared(uses[step]))
            )
            if scores[step].samples:
                self.session.emit(self._samples_judged(step, uses[step], scores[step]))
        return by_step

    def compare(self, batches: Sequence[EvaluationBatch]) -> list[dict[str, dict[str, float]]]:
        """Return metrics by step of every batch, side by side where the scheduler can; drop models made for it."""
        try:
            return self.judge(batches)
        finally:
            self.drop(batches)

    def judge(self, batches: Sequence[EvaluationBatch]) -> list[dict[str, dict[str, float]]]:
        """Return metrics by step of every batch, side by side where the scheduler can; models stay."""
        return [self._metrics(batch, scores) for batch, scores in zip(batches, self._scores(batches), strict=True)]

    def drop(self, batches: Sequence[EvaluationBatch]) -> None:
        """Remove the models that were made for batches."""
        for path in (path for batch in batches for path in batch.made):
            self.session.cache.values.discard(path)

    def prepare(self, graph: Graph, uses: Uses, steps: Sequence[str]) -> EvaluationBatch:
        """Make the models of ``uses``, those of ``steps`` and of what normalizes them, without remembered scores."""
        remembered = self._remembered_by_step(graph, uses)
        models = _unscored(uses, remembered)
        requests = [OutputRequest(model) for model in models]
        present = {value for request in requests if (value := existing(self.session, graph, request)) is not None}
        values, _ = materialise(self.session, graph, requests) if requests else ([], {})
        paths = [value.path for value in values]
        new_paths = tuple(value.path for value in values if value not in present)
        return EvaluationBatch(graph, uses, tuple(steps), remembered, dict(zip(models, paths, strict=True)), new_paths)

    def unscored_models(self, graph: Graph, uses: Uses) -> list[str]:
        """Return the steps whose weights have to be made, because no scores of them are remembered."""
        return _unscored(uses, self._remembered_by_step(graph, uses))

    def suite(self, uri: str) -> Suite:
        """Return a suite, which is opened once."""
        if uri not in self._suites:
            LOG.info("opening the suite '%s'", uri)
            self._suites[uri] = open_suite(uri, self.folder, lambda event: self.session.emit(event))
        return self._suites[uri]

    def directions(self, use: SuiteUse) -> dict[str, str]:
        """Return which of ``higher`` and ``lower`` is better, by full name of a metric."""
        return {name: metric.direction for name, metric in self._described(use).items()}

    def _scores(self, batches: Sequence[EvaluationBatch]) -> list[dict[str, Scores]]:
        """Return the scores of all steps of every batch; evaluate what is not remembered, equal models once."""
        missing: dict[str, tuple[EvaluationBatch, str]] = {}
        for number, batch in enumerate(batches):
            for step_id, scores in batch.scores.items():
                if scores is None:
                    key = self._key(batch.graph, batch.uses[step_id]) or f"{number}/{step_id}"
                    missing.setdefault(key, (batch, step_id))
        evaluations = [self._evaluation(batch, step) for batch, step in missing.values()]
        session = self.session
        scored = evaluate_all(session.scheduler, evaluations, session.settings.memory)
        results = dict(zip(missing, scored, strict=True))
        for key, scores in results.items():
            batch, step = missing[key]
            self._remember(batch.graph, batch.uses[step], scores, normalizes=step not in batch.steps)
        return [
            {
                step_id: scores or results[self._key(batch.graph, batch.uses[step_id]) or f"{number}/{step_id}"]
                for step_id, scores in batch.scores.items()
            }
            for number, batch in enumerate(batches)
        ]

    def _evaluation(self, batch: EvaluationBatch, step: str) -> Evaluation:
        use = batch.uses[step]
        return Evaluation(
            node=batch.graph.steps[step].node,
            models=tuple(self._file(batch, model) for model in use.models),
            suite=use.suite,
            folder=self.folder.absolute(),
            digest=self.suite(use.suite).digest(use.split),
            tasks=self._tasks(use),
            split=use.split,
            device=self.session.settings.device,
            combine=use.combine,
            part=use.part,
        )

    def _file(self, batch: EvaluationBatch, model: str) -> ModelFile:
        followed = self.session.checkpoints.get(batch.graph.followed(model))
        return ModelFile(
            SourceFile.of(batch.files[model].absolute()),
            Path(followed.files[0].path) if followed is not None and followed.files else None,
        )

    def _tasks(self, use: SuiteUse) -> tuple[str, ...]:
        return chosen_tasks(self.suite(use.suite), use.suite, use.tasks, use.target)

    def _key(self, graph: Graph, use: SuiteUse) -> str | None:
        keys = [self.session.keys(graph).step(model) for model in use.models]
        if None in keys:
            return None
        evaluated = keys[0] if len(keys) == 1 else [use.combine, *keys]
        digest = self.suite(use.suite).digest(use.split)
        part = [] if use.part is None else [[use.part.share, use.part.seed]]
        return content_key([remembered.KIND, EVALUATION_VERSION, evaluated, digest, self._tasks(use), *part])

    def _remembered_by_step(self, graph: Graph, uses: Uses) -> dict[str, Scores | None]:
        return {step: self._remembered(graph, use) for step, use in uses.items()}

    def _remember(self, graph: Graph, use: SuiteUse, scores: Scores, *, normalizes: bool) -> None:
        key = self._key(graph, use)
        if key is not None and normalizes:
            self._normalizing[key] = scores
        self.session.cache.put(remembered.KIND, key, remembered.packed(scores, self._tasks(use)))

    def _remembered(self, graph: Graph, use: SuiteUse) -> Scores | None:
        key = self._key(graph, use)
        if key in self._normalizing:
            return self._normalizing[str(key)]
        return remembered.unpacked(self.session.cache.get(remembered.KIND, key), self._tasks(use))

    def _metrics(self, batch: EvaluationBatch, scores: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
        known = Known(batch.graph, scores)
        by_step = {}
        for step in batch.steps:
            use = batch.uses[step]
            suite = self.suite(use.suite)
            baselines = baselines_of(use, suite, list(scores[step].values), known)
            by_step[step] = node_metrics(suite.metrics, scores[step], baselines, use.target)
        return by_step

    def _described(self, use: SuiteUse) -> dict[str, Metric]:
        return described(self.suite(use.suite).metrics, self._tasks(use), use.target)

    def _declared(self, use: SuiteUse) -> dict[str, str]:
        metrics = self.suite(use.suite).metrics
        return {metric.name: f"{metric.unit}, {metric.direction} is better" for metric in metrics}

    def _samples_judged(self, step: str, use: SuiteUse, scores: Scores) -> SamplesJudged:
        data = content_key([self.suite(use.suite).digest(use.split), use.split])
        return SamplesJudged(step, data, remembered.packed_samples(scores))


def _unscored(uses: Uses, scores: Mapping[str, Scores | None]) -> list[str]:
    """Return the models of steps without scores, each once."""
    return list(dict.fromkeys(model for step, known in scores.items() if known is None for model in uses[step].models))
