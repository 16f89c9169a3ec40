"""Packs scores for the cache: in the order of the tasks, whose names may come from the environment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lines_pipeline.suites.base import Scores
from lines_pipeline.suites.samples import Samples

KIND = "scores"
"""The kind of the cache's entries; those of earlier versions were ``accuracies``."""


def packed(scores: Scores, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return scores and per-sample results in a form that JSON can hold."""
    return [
        {
            "values": {name: _plain(value) for name, value in scores.values[task].items()},
            "samples": scores.samples[task].packed() if task in scores.samples else None,
        }
        for task in tasks
    ]


def unpacked(packed: Any, tasks: Sequence[str]) -> Scores | None:
    """Return the scores that ``packed`` packed; None where an entry holds something else."""
    with suppress(TypeError, KeyError, ValueError, AttributeError):
        pairs = list(zip(tasks, packed, strict=True))
        values = {task: {name: float(value) for name, value in of_task["values"].items()} for task, of_task in pairs}
        return Scores(
            values, {task: Samples.unpacked(of_task["samples"]) for task, of_task in pairs if of_task["samples"]}
        )
    return None


def packed_samples(scores: Scores) -> Mapping[str, Any]:
    """Return per-sample results by task, for the record of a run."""
    return {task: samples.packed() for task, samples in scores.samples.items()}


def _plain(value: float) -> float | str:
    """Return a figure, as a text where JSON has no number for it."""
    return value if math.isfinite(value) else str(value)
