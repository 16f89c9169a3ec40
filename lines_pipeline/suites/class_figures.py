"""Makes accuracy, macro F1, Matthews correlation and loss of logits: of every sample, and of a task."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from lines_pipeline.core.units import SCORE, SHARE
from lines_pipeline.suites.base import Metric
from lines_pipeline.suites.samples import Array, Samples

TEXT_METRICS = (
    Metric("accuracy", SHARE),
    Metric("macro_f1", SHARE),
    Metric("matthews_correlation", SCORE),
    Metric("loss", "nats", "lower"),
)


def class_figures(
    logits: torch.Tensor, labels: torch.Tensor, clusters: Array | None = None
) -> tuple[dict[str, float], Samples]:
    """Return the figures of a task and those of its samples: logits [n, classes], labels [n] in 0..classes-1.

    Equal logits go to the first class.
    """
    logits, answers = logits.float(), logits.argmax(1)
    right = (answers == labels).numpy()
    losses = functional.cross_entropy(logits, labels, reduction="none").numpy()
    counts = confusion(labels.numpy(), answers.numpy(), logits.shape[1])
    figures = {
        "accuracy": float(np.mean(right, dtype=np.float64)),
        "macro_f1": macro_f1(counts),
        "matthews_correlation": matthews_correlation(counts),
        "loss": float(np.mean(losses, dtype=np.float64)),
    }
    return figures, Samples({"accuracy": right, "loss": losses}, clusters)


def confusion(labels: Array, answers: Array, classes: int) -> Array:
    """Return how often each class (rows) is answered by each (columns): int64 [classes, classes]."""
    pairs = np.bincount(labels * classes + answers, minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


def macro_f1(counts: Array) -> float:
    """Return the mean over classes of ``2 right / (samples + answers)``; classes that are in neither do not count."""
    involved = counts.sum(0) + counts.sum(1)
    known = involved > 0
    return float(np.mean(2 * np.diag(counts)[known] / involved[known]))


def matthews_correlation(counts: Array) -> float:
    """Return Gorodkin's R_K, of -1 to 1, which is Matthews' coefficient for two classes; 0 where either is constant.

    Source: Gorodkin, Computational Biology and Chemistry 28 (2004), 367-374.
    """
    table = counts.astype(np.float64)
    samples, answers, total = table.sum(1), table.sum(0), table.sum()
    spread = (total**2 - samples @ samples) * (total**2 - answers @ answers)
    return float((np.trace(table) * total - samples @ answers) / np.sqrt(spread)) if spread > 0 else 0.0
