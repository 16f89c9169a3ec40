"""Judges models: makes a step's weights, evaluates them on a suite, and remembers accuracies by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import MetricsComputed
from lines_pipeline.core.keys import content_key
from lines_pipeline.engine.devices import resolve_device
from lines_pipeline.engine.session import Session
from lines_pipeline.engine.storing import Request, existing_file, store
from lines_pipeline.evals.metrics import metrics
from lines_pipeline.evals.suites import Suite, chosen_tasks, open_suite
from lines_pipeline.io.checkpoints import open_checkpoint
from lines_pipeline.io.reading import read_tensors
from lines_pipeline.ops.evaluate import EvaluateParams
from lines_pipeline.recipe.graph import Graph, Step

EVALUATION_VERSION = 1


@dataclass
class Judge:
    """Evaluates ``evaluate`` steps; ``folder`` is the recipe's."""

    session: Session
    folder: Path
    cached: list[str] = field(default_factory=list)
    """Steps whose accuracies were remembered."""
    _suites: dict[str, Suite] = field(default_factory=dict)

    def judge(
        self, graph: Graph, steps: Sequence[str], *, keep: bool = True, quiet: bool = False
    ) -> dict[str, dict[str, float]]:
        """Metrics by step. All models that are needed are made in one go; without ``keep`` they are deleted again."""
        params = {step: _params(graph.steps[step]) for step in steps}
        found = self._remembered_by_step(graph, steps)
        models = _unjudged(graph, found)
        requests = [Request(model) for model in models]
        there = {path for r in requests if (path := existing_file(self.session, graph, r)) is not None}
        paths, _ = store(self.session, graph, requests) if requests else ([], {})
        files = dict(zip(models, paths, strict=True))
        for step in steps:
            if found[step] is None:
                found[step] = self._evaluate(graph, step, files[_model(graph, step)])
            elif not quiet:
                self.cached.append(step)
        for path in paths:
            if not keep and path not in there:
                path.unlink(missing_ok=True)
        judged = {step: self._metrics(step, params[step], accuracies or {}) for step, accuracies in found.items()}
        for step, values in judged.items():
            if not quiet:
                self.session.emit(MetricsComputed(step, values, step in self.cached))
        return judged

    def unjudged_models(self, graph: Graph, steps: Sequence[str]) -> list[str]:
        """Steps whose weights have to be made for the ``evaluate`` steps, because no accuracies are remembered."""
        return _unjudged(graph, self._remembered_by_step(graph, steps))

    def suite(self, uri: str) -> Suite:
        """An opened suite, opened once."""
        if uri not in self._suites:
            self._suites[uri] = open_suite(uri, self.folder, self.session.emit)
        return self._suites[uri]

    def _tasks(self, params: EvaluateParams) -> tuple[str, ...]:
        return chosen_tasks(params.suite, self.folder, params.tasks, params.target)

    def _key(self, graph: Graph, step: Step, params: EvaluateParams) -> str | None:
        model = self.session.keys(graph).step(step.inputs["model"][0])
        if model is None:
            return None
        digest = self.suite(params.suite).digest(params.split)
        return content_key([EVALUATION_VERSION, model, digest, self._tasks(params)])

    def _remembered_by_step(self, graph: Graph, steps: Sequence[str]) -> dict[str, dict[str, float] | None]:
        keys = {step: self._key(graph, graph.steps[step], _params(graph.steps[step])) for step in steps}
        return {step: self.session.cache.get("accuracies", key) for step, key in keys.items()}

    def _evaluate(self, graph: Graph, step_id: str, path: Path) -> dict[str, float]:
        step = graph.steps[step_id]
        params = _params(step)
        state, settings = read_state(path), self.session.settings
        try:
            device = resolve_device("auto" if settings.on_cluster else settings.device)
            found = self.suite(params.suite).accuracies(state, self._tasks(params), params.split, device=device)
        except EvalError as error:
            raise EvalError(f"node '{step.node}': {error}") from error
        self.session.cache.put("accuracies", self._key(graph, step, params), found)
        return found

    def _metrics(self, step: str, params: EvaluateParams, accuracies: Mapping[str, float]) -> dict[str, float]:
        suite = self.suite(params.suite)
        return metrics(
            accuracies,
            lambda task: suite.expert_accuracy(task, params.split),
            lambda task: suite.pretrained_accuracy(task, params.split),
            params.target,
        )


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """A whole checkpoint in memory, tied tensors under all their names."""
    checkpoint = open_checkpoint(path)
    state = read_tensors(checkpoint)
    return state | {alias: state[name] for alias, name in checkpoint.aliases.items()}


def _unjudged(graph: Graph, accuracies: Mapping[str, dict[str, float] | None]) -> list[str]:
    """The models of steps without accuracies, each once."""
    return list(dict.fromkeys(_model(graph, step) for step, found in accuracies.items() if found is None))


def _model(graph: Graph, step: str) -> str:
    return graph.steps[step].inputs["model"][0]


def _params(step: Step) -> EvaluateParams:
    assert isinstance(step.params, EvaluateParams)
    return step.params
