"""Compares runs that evaluated on the same samples: differences of their metrics, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lines_pipeline.suites.intervals import mean_over_tasks, paired_means, percentile_interval
from lines_pipeline.suites.samples import Array, Samples
from lines_pipeline.tracking.event_records import SAMPLES_FOLDER


@dataclass(frozen=True)
class Row:
    """Holds one parameter, metric, hash or input of all runs; None where a run lacks it."""

    kind: str
    name: str
    values: tuple[Any, ...]

    @property
    def differs(self) -> bool:
        """Return whether the runs disagree."""
        return len({str(value) for value in self.values}) > 1


@dataclass(frozen=True)
class StepSamples:
    """Holds per-sample results of one step of a run, by task; ``data`` is equal where the samples are the same ones."""

    step: str
    data: str
    tasks: Mapping[str, Samples]


def samples_of(client: Any, run: Any) -> dict[str, StepSamples]:
    """Return per-sample results by step; none for runs of versions that did not record them."""
    by_step: dict[str, StepSamples] = {}
    with suppress(Exception), TemporaryDirectory() as folder:  # whatever a store raises for what is not there
        for artifact in client.list_artifacts(run.info.run_id, SAMPLES_FOLDER):
            path = client.download_artifacts(run.info.run_id, artifact.path, folder)
            content = json.loads(Path(path).read_bytes())
            tasks = {task: Samples.unpacked(packed) for task, packed in content["samples"].items()}
            by_step[content["step"]] = StepSamples(content["step"], content["data"], tasks)
    return by_step


def paired_rows(runs: Sequence[Mapping[str, StepSamples]]) -> list[Row]:
    """Return how much each run is above the first on the same samples: a row a step and mean metric, and one a task.

    The first run has no value. A run that evaluated on other samples has none either.
    """
    rows: dict[str, list[str | None]] = {}
    for number, run in enumerate(runs):
        for step, own in run.items():
            first = runs[0].get(step)
            if number and first is not None and first.data == own.data:
                for name, text in _differences(first, own).items():
                    rows.setdefault(f"{step}/{name}", [None] * len(runs))[number] = text
    return [Row("paired", f"{name} - first", tuple(values)) for name, values in sorted(rows.items(), key=_means_first)]


def _means_first(row: tuple[str, Any]) -> tuple[int, str]:
    return row[0].count("/"), row[0]


def _differences(first: StepSamples, second: StepSamples) -> dict[str, str]:
    """Return differences by ``mean_<metric>`` and ``<metric>/<task>``."""
    differences: dict[str, str] = {}
    means: dict[str, list[tuple[float, Array]]] = {}
    for task in (task for task in first.tasks if task in second.tasks):
        for name, drawn in paired_means(first.tasks[task], second.tasks[task]).items():
            values = [step.tasks[task].values[name].mean(dtype="float64") for step in (first, second)]
            difference = float(values[1] - values[0])
            differences[f"{name}/{task}"] = _text(difference, drawn)
            means.setdefault(name, []).append((difference, drawn))
    for name, tasks in means.items():
        drawn = mean_over_tasks([values for _, values in tasks])
        differences[f"mean_{name}"] = _text(sum(difference for difference, _ in tasks) / len(tasks), drawn)
    return differences


def _text(difference: float, drawn: Array) -> str:
    low, high = percentile_interval(drawn)
    return f"{difference:+.4f} ({low:+.4f} to {high:+.4f})"
