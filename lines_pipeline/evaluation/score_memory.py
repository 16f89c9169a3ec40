"""Remembers scores by the content of what was evaluated: the models, the data, the tasks, the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.evaluation.recipe_suites import RecipeSuites
from lines_pipeline.evaluation.remembered import KIND, packed, unpacked
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.suites.base import Scores

EVALUATION_VERSION = 3


@dataclass
class ScoreMemory:
    """Finds and keeps scores in the session's cache."""

    session: Session
    suites: RecipeSuites
    _normalizing: dict[str, Scores] = field(default_factory=dict)
    """Scores that normalize, by key: evaluated once a run, also where the cache is not read."""

    def key(self, graph: Graph, use: SuiteUse) -> str | None:
        """Return the content key of the scores of a use; None while the content of an input is not known."""
        keys = [self.session.keys(graph).step(model) for model in use.models]
        if None in keys:
            return None
        evaluated = keys[0] if len(keys) == 1 else [use.combine, *keys]
        digest = self.suites.suite(use.suite).digest(use.split)
        return content_key([KIND, EVALUATION_VERSION, evaluated, digest, self.suites.tasks(use), *use.part_identity])

    def put(self, graph: Graph, use: SuiteUse, scores: Scores, *, normalizes: bool) -> None:
        """Remember scores; those that normalize are remembered in this run in any case."""
        key = self.key(graph, use)
        if key is not None and normalizes:
            self._normalizing[key] = scores
        self.session.cache.put(KIND, key, packed(scores, self.suites.tasks(use)))

    def get(self, graph: Graph, use: SuiteUse) -> Scores | None:
        """Return the scores of a use, if they are remembered."""
        key = self.key(graph, use)
        if key in self._normalizing:
            return self._normalizing[str(key)]
        return unpacked(self.session.cache.get(KIND, key), self.suites.tasks(use))

    def by_step(self, graph: Graph, uses: Mapping[str, SuiteUse]) -> dict[str, Scores | None]:
        """Return remembered scores by step; None for steps to evaluate."""
        return {step: self.get(graph, use) for step, use in uses.items()}
