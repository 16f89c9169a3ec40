"""What is made of a suite's scores, worked by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.units import figure_text
from lines_pipeline.suites.base import Metric, Scores
from lines_pipeline.suites.metrics import Baselines, described, node_metrics
from lines_pipeline.suites.samples import Samples

ACCURACY, LOSS = Metric("accuracy", "share"), Metric("loss", "nats", "lower")
ACCURACIES = {"cars": 0.6, "birds": 0.3, "flowers": 0.9}
EXPERT = {"cars": 0.8, "birds": 0.6, "flowers": 0.9}
PRETRAINED = {"cars": 0.4, "birds": 0.5, "flowers": 0.6}


def of(name: str, values: Mapping[str, float | None]) -> dict[str, dict[str, float]]:
    """Figures by task of one metric, those that are known."""
    return {task: {} if value is None else {name: value} for task, value in values.items()}


def metrics(
    values: Mapping[str, float],
    expert: Mapping[str, float | None] = {},
    pretrained: Mapping[str, float | None] = {},
    target: str | None = None,
    metric: Metric = ACCURACY,
) -> dict[str, float]:
    """The metrics of a node whose suite has one metric."""
    baselines = Baselines(of(metric.name, expert), of(metric.name, pretrained))
    return node_metrics([metric], Scores(of(metric.name, values)), baselines, target)


def test_means_worst_and_shares_of_the_experts() -> None:
    assert metrics(ACCURACIES, EXPERT, PRETRAINED) == pytest.approx(
        {
            "accuracy/cars": 0.6,
            "accuracy/birds": 0.3,
            "accuracy/flowers": 0.9,
            "mean_accuracy": (0.6 + 0.3 + 0.9) / 3,
            "worst_accuracy": 0.3,
            "normalized_accuracy/cars": 0.75,
            "normalized_accuracy/birds": 0.5,
            "normalized_accuracy/flowers": 1.0,
            "mean_normalized_accuracy": 0.75,
        }
    )


def test_where_lower_is_better_the_largest_is_worst_and_the_expert_is_divided_by_it() -> None:
    figures = metrics({"a": 2.0, "b": 0.5}, {"a": 1.0, "b": 1.0}, {"a": 4.0, "b": 1.0}, target="b", metric=LOSS)
    assert figures == {
        "loss/a": 2.0,
        "loss/b": 0.5,
        "mean_loss": 1.25,
        "worst_loss": 2.0,
        "normalized_loss/a": 0.5,
        "normalized_loss/b": 2.0,
        "mean_normalized_loss": 1.25,
        "target_loss": 0.5,
        "control_loss": 2.0,
        "target_normalized_loss": 2.0,
        "control_normalized_loss": 2.0,
    }


def test_a_metric_may_be_averaged_otherwise_or_not_at_all() -> None:
    perplexity = metrics({"a": 2.0, "b": 8.0}, metric=Metric("perplexity", direction="lower", averaging="geometric"))
    assert perplexity["mean_perplexity"] == pytest.approx(4.0)
    count = metrics({"a": 2.0, "b": 8.0}, target="a", metric=Metric("errors", "errors", "lower", "none"))
    assert "mean_errors" not in count and "control_errors" not in count and count["worst_errors"] == 8.0


@pytest.mark.parametrize(("value", "baseline"), [(0.5, 0.0), (0.5, -0.5), (-0.5, 0.5)])
def test_signed_figures_are_not_normalized(value: float, baseline: float) -> None:
    correlation = metrics({"a": value, "b": 0.5}, {"a": baseline, "b": 0.5}, metric=Metric("correlation"))
    assert "normalized_correlation/a" not in correlation and "mean_normalized_correlation" not in correlation
    assert correlation["normalized_correlation/b"] == 1.0


def test_a_metric_that_a_task_lacks_has_no_mean() -> None:
    scores = Scores({"many": {"accuracy": 0.5, "top5": 0.9}, "few": {"accuracy": 1.0}})
    figures = node_metrics([ACCURACY, Metric("top5", "share")], scores, Baselines())
    assert figures["top5/many"] == 0.9 and figures["mean_accuracy"] == 0.75
    assert not {"top5/few", "mean_top5", "worst_top5"} & figures.keys()


def test_a_target_is_held_against_its_expert_and_the_rest_against_the_pretrained_model() -> None:
    figures = metrics(ACCURACIES, EXPERT, PRETRAINED, target="cars")
    plain = metrics(ACCURACIES, EXPERT, PRETRAINED)
    assert {name: value for name, value in figures.items() if name not in plain} == pytest.approx(
        {
            "target_accuracy": 0.6,
            "control_accuracy": (0.3 + 0.9) / 2,
            "target_normalized_accuracy": 0.6 / 0.8,
            "control_normalized_accuracy": (0.3 / 0.5 + 0.9 / 0.6) / 2,
        }
    )
    assert figures == {**figures, **plain}


def test_the_mean_of_shares_is_not_the_share_of_means() -> None:
    figures = metrics({"easy": 0.5, "hard": 0.1}, {"easy": 1.0, "hard": 0.1})
    assert figures["mean_normalized_accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert figures["mean_accuracy"] / 0.55 == pytest.approx(0.6 / 1.1)


def test_without_references_there_are_only_accuracies() -> None:
    assert set(metrics(ACCURACIES, target="birds")) == {
        *(f"accuracy/{task}" for task in ACCURACIES),
        "mean_accuracy",
        "worst_accuracy",
        "target_accuracy",
        "control_accuracy",
    }


@pytest.mark.parametrize("accuracy", [None, 0.0])
def test_a_task_that_cannot_be_normalized_leaves_out_its_share_and_the_mean(accuracy: float | None) -> None:
    figures = metrics(ACCURACIES, {**EXPERT, "birds": accuracy}, PRETRAINED)
    assert figures["normalized_accuracy/cars"] == pytest.approx(0.75)
    assert figures["normalized_accuracy/flowers"] == pytest.approx(1.0)
    assert "normalized_accuracy/birds" not in figures
    assert "mean_normalized_accuracy" not in figures
    assert figures["mean_accuracy"] == pytest.approx(0.6)


@pytest.mark.parametrize("accuracy", [None, 0.0])
def test_target_and_control_need_references_of_their_own(accuracy: float | None) -> None:
    without_expert = metrics(ACCURACIES, {**EXPERT, "cars": accuracy}, PRETRAINED, target="cars")
    assert "target_normalized_accuracy" not in without_expert
    assert without_expert["control_normalized_accuracy"] == pytest.approx(1.05)
    without_pretrained = metrics(ACCURACIES, EXPERT, {**PRETRAINED, "birds": accuracy}, target="cars")
    assert without_pretrained["target_normalized_accuracy"] == pytest.approx(0.75)
    assert "control_normalized_accuracy" not in without_pretrained


def test_a_target_alone_has_no_control() -> None:
    with pytest.raises(EvalError, match="target 'cars' leaves no control task: evaluate more than one task"):
        metrics({"cars": 0.6}, EXPERT, PRETRAINED, target="cars")


def test_means_do_not_depend_on_the_order_of_tasks() -> None:
    accuracies = {"cars": 0.1, "birds": 0.2, "flowers": 0.3}
    backwards = dict(reversed(accuracies.items()))
    assert sum(accuracies.values()) != sum(backwards.values())
    assert metrics(backwards, EXPERT) == metrics(accuracies, EXPERT)


def judged(right: list[bool], clusters: list[int] | None = None) -> dict[str, float]:
    """The metrics of a node that judged one task, sample by sample."""
    numbers = None if clusters is None else np.array(clusters, dtype=np.int32)
    samples = Samples({"accuracy": np.array(right)}, numbers)
    scores = Scores({"cars": {"accuracy": sum(right) / len(right)}}, {"cars": samples})
    return node_metrics([ACCURACY], scores, Baselines())


def test_an_interval_is_about_as_wide_as_the_binomial_one_and_always_the_same() -> None:
    metrics = judged([True] * 300 + [False] * 100)
    deviation = (0.75 * 0.25 / 400) ** 0.5
    assert metrics["accuracy/cars/low"] == pytest.approx(0.75 - 1.96 * deviation, abs=0.006)
    assert metrics["accuracy/cars/high"] == pytest.approx(0.75 + 1.96 * deviation, abs=0.006)
    assert judged([True] * 300 + [False] * 100) == metrics


def test_samples_that_belong_together_count_as_one() -> None:
    right = [True] * 300 + [False] * 100
    alone, together = judged(right), judged(right, [number // 20 for number in range(400)])
    width = [metrics["accuracy/cars/high"] - metrics["accuracy/cars/low"] for metrics in (alone, together)]
    assert width[1] == pytest.approx(20**0.5 * width[0], rel=0.15)
    assert "accuracy/cars/low" not in judged(right, [7] * 400)


def test_all_names_that_a_node_may_have_are_declared() -> None:
    declared = [ACCURACY, LOSS]
    scores = Scores(
        {task: {"accuracy": 0.5, "loss": 1.0} for task in "ab"},
        {task: Samples({"accuracy": np.array([True, False]), "loss": np.array([1.0, 2.0])}) for task in "ab"},
    )
    baselines = Baselines(*({task: {"accuracy": 0.5, "loss": 1.0} for task in "ab"} for _ in range(2)))
    figures, names = node_metrics(declared, scores, baselines, "a"), described(declared, "ab", "a")
    assert figures.keys() == names.keys()
    assert (names["worst_loss"].unit, names["worst_loss"].direction) == ("nats", "lower")
    assert (names["normalized_loss/a"].unit, names["normalized_loss/a"].direction) == ("share", "higher")


@pytest.mark.parametrize("clusters", [None, np.array([0, 0, 5], dtype=np.int32)])
def test_samples_are_kept_exactly(clusters: np.ndarray | None) -> None:
    values = {"accuracy": np.array([True, False, True]), "loss": np.array([0.1, np.inf, 2.5], dtype=np.float32)}
    again = Samples.unpacked(Samples(values, clusters).packed())
    assert all(np.array_equal(again.values[name], value) for name, value in values.items())
    assert again.values["accuracy"].dtype == np.bool_
    if clusters is None:
        assert again.clusters is None
    else:
        assert again.clusters is not None and np.array_equal(again.clusters, clusters)


@pytest.mark.parametrize(
    ("unit", "text"), [("share", "62.5 %"), ("percent", "0.6 %"), ("nats", "0.625 nats"), ("score", "0.625")]
)
def test_only_shares_and_percentages_are_shown_in_percent(unit: str, text: str) -> None:
    assert figure_text(0.625, unit) == text
