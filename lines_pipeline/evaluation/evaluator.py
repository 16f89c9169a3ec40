"""Evaluates models: makes a step's weights, has a suite evaluate them, and remembers scores by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lines_pipeline.core.events import MetricsComputed, SamplesJudged
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.evaluation.recipe_suites import RecipeSuites
from lines_pipeline.evaluation.remembered import packed_samples
from lines_pipeline.evaluation.score_memory import ScoreMemory
from lines_pipeline.evaluation.worker import Evaluation, ModelFile, evaluate_all
from lines_pipeline.executor.materialising import OutputRequest, existing, materialise
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.suites.base import Scores
from lines_pipeline.suites.metrics import node_metrics
from lines_pipeline.suites.normalizing import Known, baselines_of

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

    def __post_init__(self) -> None:
        self.suites = RecipeSuites(self.folder, lambda event: self.session.emit(event))
        self._memory = ScoreMemory(self.session, self.suites)

    def evaluate(self, graph: Graph, uses: Uses, steps: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return metrics by step, which sinks are told too. All models that are needed are made in one go, and kept."""
        batch = self.prepare(graph, uses, steps)
        scores = self._scores([batch])[0]
        self.cached += [step for step in batch.steps if batch.scores[step] is not None]
        by_step = self._metrics(batch, scores)
        for step, values in by_step.items():
            metrics = self.suites.described(uses[step])
            self.units[step] = {name: metrics[name].unit for name in values}
            if graph.transductive([step]):
                values[TRANSDUCTIVE], self.units[step][TRANSDUCTIVE] = 1.0, ""
            self.session.emit(
                MetricsComputed(step, values, step in self.cached, self.units[step], self.suites.declared(uses[step]))
            )
            if scores[step].samples:
                self.session.emit(self._samples_judged(step, uses[step], scores[step]))
        return by_step

    def compare(self, batches: Sequence[EvaluationBatch]) -> list[dict[str, dict[str, float]]]:
        """Return metrics by step of every batch, side by side where the scheduler can; drop models made for it."""
        try:
            return self.metrics(batches)
        finally:
            self.drop(batches)

    def metrics(self, batches: Sequence[EvaluationBatch]) -> list[dict[str, dict[str, float]]]:
        """Return metrics by step of every batch, side by side where the scheduler can; models stay."""
        return [self._metrics(batch, scores) for batch, scores in zip(batches, self._scores(batches), strict=True)]

    def drop(self, batches: Sequence[EvaluationBatch]) -> None:
        """Remove the models that were made for batches."""
        for path in (path for batch in batches for path in batch.made):
            self.session.cache.values.discard(path)

    def prepare(self, graph: Graph, uses: Uses, steps: Sequence[str]) -> EvaluationBatch:
        """Make the models of ``uses``, those of ``steps`` and of what normalizes them, without remembered scores."""
        scores = self._memory.by_step(graph, uses)
        models = _unscored(uses, scores)
        requests = [OutputRequest(model) for model in models]
        present = {value for request in requests if (value := existing(self.session, graph, request)) is not None}
        values, _ = materialise(self.session, graph, requests) if requests else ([], {})
        paths = [value.path for value in values]
        new_paths = tuple(value.path for value in values if value not in present)
        return EvaluationBatch(graph, uses, tuple(steps), scores, dict(zip(models, paths, strict=True)), new_paths)

    def unscored_models(self, graph: Graph, uses: Uses) -> list[str]:
        """Return the steps whose weights have to be made, because no scores of them are remembered."""
        return _unscored(uses, self._memory.by_step(graph, uses))

    def _scores(self, batches: Sequence[EvaluationBatch]) -> list[dict[str, Scores]]:
        """Return the scores of all steps of every batch; evaluate what is not remembered, equal models once."""
        missing: dict[str, tuple[EvaluationBatch, str]] = {}
        for number, batch in enumerate(batches):
            for step_id, scores in batch.scores.items():
                if scores is None:
                    key = self._memory.key(batch.graph, batch.uses[step_id]) or f"{number}/{step_id}"
                    missing.setdefault(key, (batch, step_id))
        evaluations = [self._evaluation(batch, step) for batch, step in missing.values()]
        session = self.session
        scored = evaluate_all(session.scheduler, evaluations, session.settings.memory)
        results = dict(zip(missing, scored, strict=True))
        for key, scores in results.items():
            batch, step = missing[key]
            self._memory.put(batch.graph, batch.uses[step], scores, normalizes=step not in batch.steps)
        return [
            {
                step_id: scores or results[self._memory.key(batch.graph, batch.uses[step_id]) or f"{number}/{step_id}"]
                for step_id, scores in batch.scores.items()
            }
            for number, batch in enumerate(batches)
        ]

    def _evaluation(self, batch: EvaluationBatch, step: str) -> Evaluation:
        use = batch.uses[step]
        return Evaluation(
            node=batch.graph.steps[step].node,
            models=tuple(_model_file(self.session, batch, model) for model in use.models),
            suite=use.suite,
            folder=self.folder.absolute(),
            digest=self.suites.suite(use.suite).digest(use.split),
            tasks=self.suites.tasks(use),
            split=use.split,
            device=self.session.settings.device,
            combine=use.combine,
            part=use.part,
        )

    def _metrics(self, batch: EvaluationBatch, scores: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
        known = Known(batch.graph, scores)
        by_step = {}
        for step in batch.steps:
            use = batch.uses[step]
            suite = self.suites.suite(use.suite)
            baselines = baselines_of(use, suite, list(scores[step].values), known)
            by_step[step] = node_metrics(suite.metrics, scores[step], baselines, use.target)
        return by_step

    def _samples_judged(self, step: str, use: SuiteUse, scores: Scores) -> SamplesJudged:
        data = content_key([self.suites.suite(use.suite).digest(use.split), use.split, *use.part_identity])
        return SamplesJudged(step, data, packed_samples(scores))


def _unscored(uses: Uses, scores: Mapping[str, Scores | None]) -> list[str]:
    """Return the models of steps without scores, each once."""
    return list(dict.fromkeys(model for step, known in scores.items() if known is None for model in uses[step].models))


def _model_file(session: Session, batch: EvaluationBatch, model: str) -> ModelFile:
    """Return the file of a model, and that of the model whose folder tells its configuration."""
    followed = session.checkpoints.get(batch.graph.followed(model))
    return ModelFile(
        SourceFile.of(batch.files[model].absolute()),
        Path(followed.files[0].path) if followed is not None and followed.files else None,
    )
