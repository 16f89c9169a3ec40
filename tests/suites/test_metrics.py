"""What is made of a suite's accuracies, worked by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from lines_pipeline.core.errors import EvalError
from lines_pipeline.suites.metrics import metrics

ACCURACIES = {"cars": 0.6, "birds": 0.3, "flowers": 0.9}
EXPERT = {"cars": 0.8, "birds": 0.6, "flowers": 0.9}
PRETRAINED = {"cars": 0.4, "birds": 0.5, "flowers": 0.6}
NOTHING: Mapping[str, float] = {}


def test_means_and_shares_of_the_experts() -> None:
    assert metrics(ACCURACIES, EXPERT.get, PRETRAINED.get) == pytest.approx(
        {
            "accuracy/cars": 0.6,
            "accuracy/birds": 0.3,
            "accuracy/flowers": 0.9,
            "mean_accuracy": (0.6 + 0.3 + 0.9) / 3,
            "normalized_accuracy/cars": 0.75,
            "normalized_accuracy/birds": 0.5,
            "normalized_accuracy/flowers": 1.0,
            "mean_normalized_accuracy": 0.75,
        }
    )


def test_a_target_is_held_against_its_expert_and_the_rest_against_the_pretrained_model() -> None:
    found = metrics(ACCURACIES, EXPERT.get, PRETRAINED.get, target="cars")
    plain = metrics(ACCURACIES, EXPERT.get, PRETRAINED.get)
    assert {name: value for name, value in found.items() if name not in plain} == pytest.approx(
        {
            "target_accuracy": 0.6,
            "control_accuracy": (0.3 + 0.9) / 2,
            "target_normalized_accuracy": 0.6 / 0.8,
            "control_normalized_accuracy": (0.3 / 0.5 + 0.9 / 0.6) / 2,
        }
    )
    assert found == {**found, **plain}


def test_the_mean_of_shares_is_not_the_share_of_means() -> None:
    found = metrics({"easy": 0.5, "hard": 0.1}, {"easy": 1.0, "hard": 0.1}.get, NOTHING.get)
    assert found["mean_normalized_accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["mean_accuracy"] / 0.55 == pytest.approx(0.6 / 1.1)


def test_without_references_there_are_only_accuracies() -> None:
    found = metrics(ACCURACIES, NOTHING.get, NOTHING.get, target="birds")
    assert set(found) == {
        *(f"accuracy/{task}" for task in ACCURACIES),
        "mean_accuracy",
        "target_accuracy",
        "control_accuracy",
    }


@pytest.mark.parametrize("accuracy", [None, 0.0])
def test_a_task_that_cannot_be_normalized_leaves_out_its_share_and_the_mean(accuracy: float | None) -> None:
    expert = {**EXPERT, "birds": accuracy}
    found = metrics(ACCURACIES, expert.get, PRETRAINED.get)
    assert found["normalized_accuracy/cars"] == pytest.approx(0.75)
    assert found["normalized_accuracy/flowers"] == pytest.approx(1.0)
    assert "normalized_accuracy/birds" not in found
    assert "mean_normalized_accuracy" not in found
    assert found["mean_accuracy"] == pytest.approx(0.6)


@pytest.mark.parametrize("accuracy", [None, 0.0])
def test_target_and_control_need_references_of_their_own(accuracy: float | None) -> None:
    without_expert = metrics(ACCURACIES, {**EXPERT, "cars": accuracy}.get, PRETRAINED.get, target="cars")
    assert "target_normalized_accuracy" not in without_expert
    assert without_expert["control_normalized_accuracy"] == pytest.approx(1.05)
    without_pretrained = metrics(ACCURACIES, EXPERT.get, {**PRETRAINED, "birds": accuracy}.get, target="cars")
    assert without_pretrained["target_normalized_accuracy"] == pytest.approx(0.75)
    assert "control_normalized_accuracy" not in without_pretrained


def test_a_target_alone_has_no_control() -> None:
    with pytest.raises(EvalError, match="target 'cars' leaves no control task: evaluate more than one task"):
        metrics({"cars": 0.6}, EXPERT.get, PRETRAINED.get, target="cars")


def test_means_do_not_depend_on_the_order_of_tasks() -> None:
    accuracies = {"cars": 0.1, "birds": 0.2, "flowers": 0.3}
    backwards = dict(reversed(accuracies.items()))
    assert sum(accuracies.values()) != sum(backwards.values())
    assert metrics(backwards, EXPERT.get, EXPERT.get) == metrics(accuracies, EXPERT.get, EXPERT.get)
