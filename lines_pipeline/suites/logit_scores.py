"""Makes accuracy, top five, calibration and loss of logits: of every sample, and of a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch.nn import functional

from lines_pipeline.core.units import SHARE
from lines_pipeline.suites.base import Answers, Metric, Scores
from lines_pipeline.suites.samples import Array, Samples

CLASSIFICATION_METRICS = (
    Metric("accuracy", SHARE),
    Metric("top5_accuracy", SHARE),
    Metric("calibration_error", SHARE, "lower"),
    Metric("loss", "nats", "lower"),
)
CALIBRATION_BINS = 15
"""The number of bins, of equal width in confidence, as Guo et al. (2017) take them."""
_TOP = 5

SampleFigures = Mapping[str, torch.Tensor]
"""Results of one batch, by name: values [n] on the CPU."""


def sample_figures(logits: torch.Tensor, labels: torch.Tensor) -> SampleFigures:
    """Return the figures of each sample of a batch: logits [n, classes], labels [n] in 0..classes-1.

    With five classes or less, there is no top five. Equal logits go to the first class. Logits in
    float64 are taken as they are; results are float32.
    """
    logits, labels = logits if logits.dtype == torch.float64 else logits.float(), labels.to(logits.device)
    confidence, answers = functional.softmax(logits, dim=1).max(1)[0], logits.argmax(1)
    figures = {
        "accuracy": answers == labels,
        "loss": functional.cross_entropy(logits, labels, reduction="none"),
        "confidence": confidence,
    }
    if logits.shape[1] > _TOP:
        figures["top5_accuracy"] = (logits.topk(_TOP, dim=1)[1] == labels[:, None]).any(1)
    return {name: (value.float() if value.is_floating_point() else value).cpu() for name, value in figures.items()}


def task_scores(batches: Iterable[SampleFigures], clusters: Array | None = None) -> tuple[dict[str, float], Samples]:
    """Return the figures of a task, in the order in which they are declared, and those of its samples."""
    parts = list(batches)
    of_samples = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    confidence = of_samples.pop("confidence")
    means = {name: float(np.mean(values, dtype=np.float64)) for name, values in of_samples.items()}
    means["calibration_error"] = calibration_error(confidence, of_samples["accuracy"])
    ordered = {metric.name: means[metric.name] for metric in CLASSIFICATION_METRICS if metric.name in means}
    return ordered, Samples(of_samples, clusters)


def scores_of_answers(answers: Mapping[str, Answers]) -> Scores:
    """Return the scores of the answers to each task."""
    by_task = {
        task: task_scores([sample_figures(answer.logits, answer.labels)], answer.clusters)
        for task, answer in answers.items()
    }
    return Scores(
        {task: figures for task, (figures, _) in by_task.items()},
        {task: samples for task, (_, samples) in by_task.items()},
    )


def calibration_error(confidence: Array, right: Array) -> float:
    """Return the expected calibration error: the mean distance of accuracy and confidence over bins of confidence."""
    confidence = confidence.astype(np.float64)
    if not np.isfinite(confidence).all():
        return float("nan")
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    surplus = np.bincount(bins, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(surplus).sum() / len(confidence))
