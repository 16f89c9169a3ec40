"""Judges several classifiers as one: by the mean of their class probabilities, or of their logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from lines_pipeline.core.errors import EvalError
from lines_pipeline.ops.roles import Combination
from lines_pipeline.suites.base import Answers, ClassifierSuite, Scores, Suite
from lines_pipeline.suites.models import Model


def require_classifier(suite: Suite, uri: str) -> ClassifierSuite:
    """Return a suite that can judge ensembles. Raises ``EvalError`` for one that gives no class probabilities."""
    if isinstance(suite, ClassifierSuite):
        return suite
    raise EvalError(
        f"the suite {uri} gives no class probabilities to average, so it cannot judge an ensemble; "
        "evaluate one 'model' at a time, or merge the models"
    )


def ensemble_scores(
    suite: ClassifierSuite,
    models: Sequence[Model],
    tasks: Sequence[str],
    split: str,
    combine: Combination,
    *,
    device: str = "cpu",
) -> Scores:
    """Return the scores of an ensemble. One model is in memory at a time, and the answers of the tasks in float64.

    ``probabilities`` gives ``log((1 / N) sum_i softmax(z_i))`` to be judged, ``logits`` gives ``(1 / N) sum_i z_i``.
    """
    totals: dict[str, Answers] = {}
    for model in models:
        for task, answers in suite.answers(model, tasks, split, device=device).items():
            totals[task] = _added(totals.get(task), answers, combine)
    return suite.judged(_means(totals, len(models), combine))


def _added(total: Answers | None, answers: Answers, combine: Combination) -> Answers:
    """Return answers added to those of the models before: logarithms of summed probabilities, or summed logits."""
    logits = answers.logits.double()
    if combine == "probabilities":
        logits = torch.log_softmax(logits, dim=1)
    if total is None:
        return replace(answers, logits=logits)
    add = torch.logaddexp if combine == "probabilities" else torch.add
    return replace(total, logits=add(total.logits, logits))


def _means(totals: Mapping[str, Answers], count: int, combine: Combination) -> dict[str, Answers]:
    return {
        task: replace(
            total, logits=total.logits - math.log(count) if combine == "probabilities" else total.logits / count
        )
        for task, total in totals.items()
    }
