"""Opens the suites that a recipe names, and tells what a use of one comes to: its tasks, metrics and directions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lines_pipeline.core.events import Sink
from lines_pipeline.core.logs import LOG
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.suites.base import Metric, Suite
from lines_pipeline.suites.metrics import described
from lines_pipeline.suites.opening import chosen_tasks, open_suite


@dataclass
class RecipeSuites:
    """Opens each suite once; ``folder`` is the recipe's, from which paths lead."""

    folder: Path
    emit: Sink
    _opened: dict[str, Suite] = field(default_factory=dict)

    def suite(self, uri: str) -> Suite:
        """Return a suite, which is opened once."""
        if uri not in self._opened:
            LOG.info("opening the suite '%s'", uri)
            self._opened[uri] = open_suite(uri, self.folder, self.emit)
        return self._opened[uri]

    def directions(self, use: SuiteUse) -> dict[str, str]:
        """Return which of ``higher`` and ``lower`` is better, by full name of a metric."""
        return {name: metric.direction for name, metric in self.described(use).items()}

    def tasks(self, use: SuiteUse) -> tuple[str, ...]:
        """Return the tasks that models are judged by."""
        return chosen_tasks(self.suite(use.suite), use.suite, use.tasks, use.target)

    def described(self, use: SuiteUse) -> dict[str, Metric]:
        """Return the metrics of a node with this use, by full name."""
        return described(self.suite(use.suite).metrics, self.tasks(use), use.target)

    def declared(self, use: SuiteUse) -> dict[str, str]:
        """Return unit and better direction of every metric of the suite, in words."""
        metrics = self.suite(use.suite).metrics
        return {metric.name: f"{metric.unit}, {metric.direction} is better" for metric in metrics}
