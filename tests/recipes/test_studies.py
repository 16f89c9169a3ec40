"""The studies among the stock recipes, on toy models whose accuracy can be told by hand."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.events import Event, StageFinished
from lines_pipeline.results import RunResult

FOLDER = Path(__file__).parents[2] / "recipes"
IMAGES = tuple(number / 16 for number in range(1, 16))
BASE = (0.25, 0.25)
EXPERTS: Mapping[str, tuple[float, float]] = {"up": (0.5, 0.4375), "down": (0.125, 0.0625), "mid": (0.0, 0.625)}
TASKS = {"up": above(*IMAGES), "down": below(*IMAGES), "mid": [*below(*IMAGES[8:]), *above(*IMAGES[:8])]}
"""What the experts are for: ``mid`` is best where the sum is 9/16."""
ELSEWHERE = {"up": above(*IMAGES[3:12:2])}
"""Data of another kind."""


@pytest.fixture
def zoo(toy: Path) -> Path:
    """A folder of toy models, laid out as a zoo, with a suite that records what its own models reach."""
    models = {"pretrained": BASE, **EXPERTS}
    for name, weights in models.items():
        (toy / name).mkdir()
        write_model(toy / name / "model.safetensors", *weights)
    recorded = {
        "expert_accuracy": {
            task: dict.fromkeys(("val", "test"), accuracy(task, sum(weights))) for task, weights in EXPERTS.items()
        },
        "pretrained_accuracy": {task: dict.fromkeys(("val", "test"), accuracy(task, sum(BASE))) for task in EXPERTS},
    }
    data = {task: {"test": images, "val": images} for task, images in TASKS.items()}
    data["up"] |= {"ood": ELSEWHERE["up"]}
    write_suite(toy, data, blocks=2, **recorded)
    return toy


def accuracy(task: str, total: float) -> float:
    """How many images of a task a model of this sum gets right."""
    return right(TASKS[task], total)


def right(images: Sequence[tuple[float, int]], total: float) -> float:
    """How many images a model of this sum gets right."""
    return sum((total > image) == bool(label) for image, label in images) / len(images)


def run(name: str, zoo: Path, events: list[Event] | None = None, **values: Any) -> RunResult:
    sets = {"vars.zoo": str(zoo), "vars.suite": str(zoo / "suite.yaml"), "vars.tasks": list(TASKS)}
    sets |= {f"vars.{variable}": value for variable, value in values.items()}
    sinks = [] if events is None else [events.append]
    recipe = FOLDER / f"study_{name}.yaml"
    return lines_pipeline.run(recipe, sets=sets, out="out", tracking=False, trust=True, sinks=sinks)


def rows(name: str) -> list[dict[str, str]]:
    with Path("out", f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scaled(task: str, scales: Sequence[float]) -> float:
    """The sum of a model whose update is scaled block by block."""
    return sum(base + scale * (own - base) for base, own, scale in zip(BASE, EXPERTS[task], scales, strict=True))


def test_the_forgetting_study_scales_every_expert_both_ways(zoo: Path) -> None:
    events: list[Event] = []
    result = run("forgetting", zoo, events, gammas=[0, 0.5, 1])
    assert {file.name for file in result.files} == {
        f"{name}.{end}" for name in ("figure_1", "figure_1_by_expert", "figure_2") for end in ("svg", "csv")
    }
    by_name = {(row["node"], row["task"], float(row["gamma"])): row for row in rows("figure_1")}
    assert len(by_name) == 2 * len(TASKS) * 3
    for (node, task, gamma), row in by_name.items():
        total = scaled(task, (gamma, 1) if node == "shallow_down" else (1, gamma))
        others = [other for other in TASKS if other != task]
        control = [accuracy(other, total) / accuracy(other, sum(BASE)) for other in others]
        target = accuracy(task, total) / accuracy(task, sum(EXPERTS[task]))
        assert float(row["target_normalized_accuracy"]) == pytest.approx(target)
        assert float(row["control_normalized_accuracy"]) == pytest.approx(sum(control) / len(control))
    points = {(row["node"], row["task"]): row["control_accuracy"] for row in rows("figure_2")}
    assert len(points) == 2 * len(TASKS)
    assert all(points["before", task] == by_name["shallow_down", task, 1]["control_accuracy"] for task in TASKS)
    assert all(points["after", task] == by_name["shallow_down", task, 0.5]["control_accuracy"] for task in TASKS)
    assert [event.name for event in events if isinstance(event, StageFinished)] == ["1/1"]


def test_wise_ft_goes_from_the_pretrained_model_to_the_expert(zoo: Path) -> None:
    result = run("wise_ft", zoo, task="up", steps={"low": 0, "high": 1, "step": 0.25})
    ends = {"plain[0.00]": sum(BASE), "plain[1.00]": sum(EXPERTS["up"]), "lines[1.00]": scaled("up", (0.5, 1))}
    for member, total in ends.items():
        assert result.metrics[member]["target_accuracy"] == accuracy("up", total)
        assert result.metrics[member]["control_accuracy"] == pytest.approx(
            (accuracy("down", total) + accuracy("mid", total)) / 2
        )
    curve = {(row["node"], float(row["place"])): (float(row["id"]), float(row["ood"])) for row in rows("curves")}
    assert len(curve) == 2 * 5
    for (node, g), point in curve.items():
        total = along(g, 1.0 if node == "plain_curve" else 0.5)
        assert point == (accuracy("up", total), right(ELSEWHERE["up"], total))
    assert result.metrics["lines_curve"]["half_ood"] == curve["lines_curve", 0.5][1]
    assert {row["node"] for row in rows("other_tasks")} == {"plain", "lines"}
    assert result.metrics["plain_front"]["front_size"] >= 1


def along(g: float, gamma: float) -> float:
    """The sum of the model that has the share g of the update to ``up``, scaled by LiNeS."""
    return scaled("up", (g * gamma, g))


def test_connectivity_finds_the_barrier_of_every_pair(zoo: Path) -> None:
    pairs = {"pair": ["up-down", "base-up"], "a": ["up", "pretrained"], "b": ["down", "up"]}
    nodes = {"nodes.along.tasks": list(TASKS)}
    sets = {"vars.zoo": str(zoo), "vars.suite": str(zoo / "suite.yaml"), "vars.pairs": pairs, **nodes}
    result = lines_pipeline.run(FOLDER / "study_connectivity.yaml", sets=sets, out="out", tracking=False, trust=True)
    ends = {"up-down": (sum(EXPERTS["up"]), sum(EXPERTS["down"])), "base-up": (sum(BASE), sum(EXPERTS["up"]))}
    for pair, (first, second) in ends.items():
        line = {t / 10: mean((1 - t / 10) * first + t / 10 * second) for t in range(11)}
        falls = [(1 - t) * line[0.0] + t * line[1.0] - value for t, value in line.items()]
        assert result.metrics["barrier"][f"barrier/{pair}"] == pytest.approx(max(falls))
    assert result.metrics["barrier"]["barrier"] == max(result.metrics["barrier"][f"barrier/{pair}"] for pair in ends)
    assert len(rows("lines")) == 22


def mean(total: float) -> float:
    return sum(accuracy(task, total) for task in TASKS) / len(TASKS)


def test_soups_of_two_rewards_have_fronts_and_volumes(zoo: Path) -> None:
    result = run("rewarded_soups", zoo, first="up", second="down", tasks=["up", "down"], start="mid")
    reference = accuracy("up", sum(EXPERTS["mid"])), accuracy("down", sum(EXPERTS["mid"]))
    points = []
    for number in range(11):
        share = number / 10
        total = (1 - share) * sum(EXPERTS["up"]) + share * sum(EXPERTS["down"])
        metrics = result.metrics[f"plain[{share:.1f}]"]
        points.append((metrics["accuracy/up"], metrics["accuracy/down"]))
        assert points[-1] == (accuracy("up", total), accuracy("down", total))
    cells = {(x, y) for a, b in points for x in range(round(15 * a)) for y in range(round(15 * b))}
    kept = {(x, y) for x, y in cells if x >= round(15 * reference[0]) and y >= round(15 * reference[1])}
    assert result.metrics["plain_front"]["hypervolume"] == pytest.approx(len(kept) / 15**2)
    assert len(rows("front")) == 23


def test_soups_of_three_rewards_are_a_lattice_of_shares(zoo: Path) -> None:
    names: dict[str, Any] = {"first": "up", "second": "down", "third": "mid"}
    result = run("rewarded_soups_three", zoo, start="pretrained", **names, tasks=list(names.values()))
    shares = [tuple(float(row[name]) for name in "abc") for row in rows("front") if row["node"] == "plain"]
    assert len(set(shares)) == 66 and all(sum(share) == pytest.approx(1) for share in shares)
    assert all(f"plain[{point}]" in result.metrics for point in range(1, 67))
    volumes = [result.metrics[f"{name}_front"]["hypervolume"] for name in ("plain", "lines")]
    assert all(0 <= volume <= 1 for volume in volumes)
    assert result.metrics["plain[1]"]["accuracy/up"] == accuracy("up", sum(EXPERTS["up"]))


def test_the_study_of_alpha_goes_along_beta_for_each(zoo: Path) -> None:
    result = run("alpha", zoo, alphas=[0, 0.5, "auto"], betas=[0, 0.5])
    assert [(row["alpha"], row["beta"]) for row in rows("curves")] == [
        (alpha, beta) for alpha in ("0", "0.5", "auto") for beta in ("0", "0.5")
    ]
    for task in TASKS:
        assert result.metrics["judged[0/0]"][f"accuracy/{task}"] == accuracy(task, sum(BASE))


def test_the_study_of_schedules_compares_them_with_a_uniform_scale(zoo: Path) -> None:
    result = run("schedules", zoo, schedules=["linear", "deep-down"], betas=[0, 0.5])
    updates = [sum(own[block] - BASE[block] for own in EXPERTS.values()) for block in (0, 1)]
    for schedule, scales in (("linear", (1 / 3, 1 / 3 + 0.5)), ("deep-down", (1 / 3 + 0.5, 1 / 3))):
        moved = [scale * update for scale, update in zip(scales, updates, strict=True)]
        norm = sum(abs(update) for update in moved) / sum(abs(update) for update in updates)
        for node, total in (("by_depth", sum(moved)), ("uniform", norm * sum(updates))):
            metrics = result.metrics[f"{node}[{schedule}/0.5]"]
            assert {task: metrics[f"accuracy/{task}"] for task in TASKS} == {
                task: accuracy(task, sum(BASE) + total) for task in TASKS
            }
    assert len(rows("curves")) == len(rows("controls")) == 4


def test_the_study_of_soups_scales_soups_and_what_they_are_made_of(zoo: Path) -> None:
    suite = str(zoo / "suite.yaml")
    sets = {
        "vars.zoo": str(zoo),
        "vars.suite": suite,
        "vars.others": suite,
        "vars.models": list(TASKS),
        "vars.tasks": list(TASKS),
    }
    result = lines_pipeline.run(FOLDER / "study_soups.yaml", sets=sets, out="out", tracking=False, trust=True)
    first, second = (sum(EXPERTS[task][block] for task in TASKS) / len(TASKS) for block in (0, 1))
    for gamma, total in (("1.00", first + second), ("0.00", first + BASE[1])):
        expected = sum(accuracy(task, total) for task in TASKS) / len(TASKS)
        figures = [result.metrics[f"{node}[{gamma}]"]["mean_accuracy"] for node in ("uniform_own", "uniform_others")]
        assert figures == pytest.approx([expected] * 2)
    assert [row["gamma"] for row in rows("own")][:5] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
