"""Accuracy, macro F1, Matthews correlation and loss, against values worked out by hand and another library's."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lines_pipeline.suites.class_figures import class_figures, confusion, macro_f1, matthews_correlation

LABELS, ANSWERS = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])


def test_three_classes_by_hand() -> None:
    counts = confusion(LABELS, ANSWERS, 3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert macro_f1(counts) == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3, rel=1e-15)
    assert matthews_correlation(counts) == pytest.approx((4 * 6 - 12) / math.sqrt((36 - 14) * (36 - 12)), rel=1e-15)


def test_two_classes_are_matthews_own_coefficient() -> None:
    counts = confusion(np.array([1] * 6 + [0] * 4), np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 1]), 2)
    assert matthews_correlation(counts) == pytest.approx((4 * 3 - 1 * 2) / math.sqrt(5 * 6 * 4 * 5), rel=1e-15)


@pytest.mark.parametrize(("answers", "expected"), [([0, 0, 0, 0], 0.0), ([0, 0, 1, 1], 1.0), ([1, 1, 0, 0], -1.0)])
def test_the_ends_of_the_correlation(answers: list[int], expected: float) -> None:
    assert matthews_correlation(confusion(np.array([0, 0, 1, 1]), np.array(answers), 2)) == expected


def test_classes_that_do_not_occur_do_not_count() -> None:
    assert macro_f1(confusion(LABELS, ANSWERS, 9)) == macro_f1(confusion(LABELS, ANSWERS, 3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_as_scikit_learn_has_it(pairs: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, answers = np.array(pairs).T
    counts = confusion(labels, answers, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that do not occur
        assert macro_f1(counts) == pytest.approx(metrics.f1_score(labels, answers, average="macro"), abs=1e-12)
        assert matthews_correlation(counts) == pytest.approx(metrics.matthews_corrcoef(labels, answers), abs=1e-12)


def test_figures_and_samples_of_logits() -> None:
    figures, samples = class_figures(torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 1]))
    assert samples.values["accuracy"].tolist() == [True, False, True]
    losses = [math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.exp(-1))]
    assert figures["accuracy"] == 2 / 3 and figures["loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert samples.values["loss"].tolist() == pytest.approx(losses, rel=1e-6)
